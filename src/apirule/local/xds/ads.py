"""One proxy's configuration stream (delta ADS) as a pure state machine: requests in, responses out.

The stream compares what the proxy holds with what it shall hold (its target) and sends the
difference. What it keeps to, beyond the letter of the xDS protocol:

* Additions go out as CDS, EDS, SDS, LDS, RDS, ECDS. Envoy acknowledges clusters only when they are
  warm, and until then changed listeners and routes wait, so that no route meets a cluster that is
  not there. Filters (ECDS) never wait: a tightened policy must not be held up by a slow cluster.
* Clusters and listeners are removed last, clusters only when no refused route may still use them.
  Nothing else is ever removed: Envoy itself unsubscribes from what it no longer refers to, and a
  filter taken away under a draining listener would fail its requests.
* When an EDS cluster is sent its endpoints are sent again: Envoy warms a new copy of the cluster
  and does not ask for them a second time.
* A refusal (NACK) concerns a whole response. If that held several resources each is sent again by
  itself, so that a refusal always names one resource, and the others are in force. A refused
  resource is not repeated until its content changes or ``retry`` is called.
* Envoy 1.40 remembers a filter (ECDS) that it refused as the one it has: sent again, the same
  content is acknowledged and not applied. So filters travel alone and are never retried, and after
  a refusal the filter in force is sent once more, which makes Envoy forget the refused one. A
  stream that takes the place of another has to be told its refusals.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    Resource,
)

from apirule.local.xds.bundle import Bundle, Encoded
from apirule.local.xds.words import plain
from apirule.mesh.config import TypeUrl

WILDCARD = "*"
_WHOLE = frozenset({TypeUrl.CLUSTER, TypeUrl.LISTENER})
"""Types of which a proxy takes everything, and from which resources are removed."""
_AFTER_CLUSTERS = frozenset({TypeUrl.LISTENER, TypeUrl.ROUTE})
_ABSENCE_IS_AN_ANSWER = frozenset({TypeUrl.CLUSTER, TypeUrl.ENDPOINT, TypeUrl.LISTENER})
"""Without endpoints a cluster is warm and empty. Without its filters or routes a listener stays
closed, which is right, so their absence is not answered."""

_REMEMBERED_IF_REFUSED = frozenset({TypeUrl.EXTENSION})
"""Types of which a proxy acknowledges without a look what it refused just before."""

Responses = list[DeltaDiscoveryResponse]


class Refusal(msgspec.Struct, frozen=True):
    """The proxy keeps what it had instead of this resource; ``message`` is why, in its words."""

    type: TypeUrl
    name: str
    version: str
    message: str


class _Kind(msgspec.Struct):
    """What is known of one type on this stream."""

    requested: bool = False
    everything: bool = False
    subscribed: set[str] = msgspec.field(default_factory=set)
    asked: set[str] = msgspec.field(default_factory=set)
    """Names to be sent even if unchanged."""
    sent: dict[str, str] = msgspec.field(default_factory=dict)
    """What the proxy will hold once it has answered everything."""
    acked: dict[str, str] = msgspec.field(default_factory=dict)
    refused: dict[str, Refusal] = msgspec.field(default_factory=dict)
    pending: dict[str, Mapping[str, Encoded]] = msgspec.field(default_factory=dict)
    """By nonce: what is in each response that has no answer yet."""
    in_force: dict[str, Encoded] = msgspec.field(default_factory=dict)
    """Filters that were acknowledged on this stream."""

    def wants(self, name: str) -> bool:
        return self.everything or name in self.subscribed


class DeltaStream:
    """The state of one stream. Made when it opens, thrown away when it closes."""

    def __init__(self, refusals: Iterable[Refusal] = ()) -> None:
        """``refusals``: those of an earlier stream of the same proxy."""
        self._kinds = {url: _Kind() for url in TypeUrl}
        for refusal in refusals:
            if refusal.type in _REMEMBERED_IF_REFUSED:
                self._kinds[refusal.type].refused[refusal.name] = refusal
        self._target: Bundle | None = None
        self._nonce = 0
        self._released = False

    def assign(self, target: Bundle) -> Responses:
        """Make this what the proxy shall hold; return what has to be sent for it now."""
        if target is self._target and not self._released:
            return []  # sent already, as far as it may be
        self._target = target
        self._released = False
        for url, kind in self._kinds.items():
            group = target.get(url, {})
            kind.refused = {
                name: refusal
                for name, refusal in kind.refused.items()
                if name in group and group[name].version == refusal.version
            }
        return self._advance()

    def receive(self, request: DeltaDiscoveryRequest) -> Responses:
        """Take in one request: subscriptions, an acknowledgement or a refusal, or both at once."""
        try:
            url = TypeUrl(request.type_url)
        except ValueError:
            return []  # a type we never refer to; the protocol lets it wait for ever
        responses = self._take_answer(url, request) if request.response_nonce else []
        self._take_subscriptions(url, request)
        return responses + self._advance()

    def release(self) -> Responses:
        """Stop waiting for clusters that do not become warm; their routes answer 503."""
        self._released = True
        return self._advance()

    def retry(self) -> Responses:
        """Send again what was refused, for reasons that may have passed (a port in use)."""
        for url, kind in self._kinds.items():
            if url not in _REMEMBERED_IF_REFUSED:
                kind.refused.clear()
        return self._advance()

    @property
    def settled(self) -> bool:
        """Whether the proxy has answered everything, with consent or refusal."""
        return (
            self._target is not None
            and all(self._kinds[url].requested for url in _WHOLE)
            and not any(kind.pending for kind in self._kinds.values())
        )

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        return tuple(r for kind in self._kinds.values() for r in kind.refused.values())

    @property
    def synced(self) -> bool:
        """Whether the proxy holds exactly its target."""
        return self.settled and not self.refusals

    @property
    def lacking(self) -> frozenset[str]:
        """Return the route tables it has not got: their listener is not open."""
        wanted = (self._target or {}).get(TypeUrl.ROUTE, {})
        return frozenset(wanted.keys() - self._kinds[TypeUrl.ROUTE].acked.keys())

    def held(self, url: TypeUrl) -> Mapping[str, str]:
        """Return name and version of what the proxy has acknowledged."""
        return dict(self._kinds[url].acked)

    # Requests

    def _take_subscriptions(self, url: TypeUrl, request: DeltaDiscoveryRequest) -> None:
        kind = self._kinds[url]
        first, kind.requested = not kind.requested, True
        subscribe = set(request.resource_names_subscribe)
        unsubscribe = set(request.resource_names_unsubscribe)
        if url in _WHOLE:
            if WILDCARD in subscribe or (first and not subscribe):
                kind.everything = True
            elif WILDCARD in unsubscribe:
                kind.everything = False
        subscribe.discard(WILDCARD)
        unsubscribe.discard(WILDCARD)
        kind.subscribed |= subscribe
        if first:
            # A proxy that comes back says what it still holds: no need to send that again.
            held = dict(request.initial_resource_versions)
            kind.sent |= held
            kind.acked |= held
            kind.asked |= subscribe - held.keys()
        else:
            kind.asked |= subscribe
        for name in unsubscribe:
            kind.subscribed.discard(name)
            kind.asked.discard(name)
            for known in (kind.sent, kind.acked, kind.refused, kind.in_force):
                known.pop(name, None)

    def _take_answer(self, url: TypeUrl, request: DeltaDiscoveryRequest) -> Responses:
        kind = self._kinds[url]
        push = kind.pending.pop(request.response_nonce, None)
        if push is None:
            return []  # an answer to another stream, or a repeated one
        if not request.HasField("error_detail"):
            self._note_acknowledged(url, push)
            return []
        # Those that have been replaced or removed meanwhile are no longer of interest.
        current = [name for name, r in push.items() if kind.sent.get(name) == r.version]
        for name in current:
            if name in kind.acked:
                kind.sent[name] = kind.acked[name]
            else:
                del kind.sent[name]
        if len(push) > 1:
            return list(self._one_by_one(url, current))
        for name in current:
            text = plain(request.error_detail.message)
            kind.refused[name] = Refusal(url, name, push[name].version, text)
        return list(self._reminders(url, push))

    def _note_acknowledged(self, url: TypeUrl, push: Mapping[str, Encoded]) -> None:
        kind = self._kinds[url]
        for name, resource in push.items():
            if kind.wants(name):
                kind.acked[name] = resource.version
                if url in _REMEMBERED_IF_REFUSED:
                    kind.in_force[name] = resource

    def _reminders(self, url: TypeUrl, names: Iterable[str]) -> Iterator[DeltaDiscoveryResponse]:
        """Yield what makes the proxy forget these resources, which it refused."""
        if url not in _REMEMBERED_IF_REFUSED:
            return
        kind = self._kinds[url]
        for name in names:
            if kind.sent.get(name) != kind.acked.get(name):
                continue  # another version is on its way, which does it as well
            if name in kind.in_force:
                yield self._push(url, {name: kind.in_force[name]})
            else:
                # Held from an earlier stream, content unknown: whatever comes next does it, even
                # what the proxy holds already.
                kind.asked.add(name)

    def _one_by_one(self, url: TypeUrl, names: Iterable[str]) -> Iterator[DeltaDiscoveryResponse]:
        kind, group = self._kinds[url], (self._target or {}).get(url, {})
        for name in names:
            if name in group and kind.wants(name):
                yield self._push(url, {name: group[name]})

    # Responses

    def _advance(self) -> Responses:
        if self._target is None:
            return []
        responses: Responses = []
        for url in TypeUrl:
            due = self._due(url)
            if url in _AFTER_CLUSTERS and self._clusters_are_warming:
                # A new listener waits for its routes, and nobody else does: those may go.
                due = {n: r for n, r in due.items() if n in self._kinds[url].asked}
            absent = self._absent(url)
            if url in _REMEMBERED_IF_REFUSED:
                # What comes to refuse is there before what refused before lets all pass.
                filters = sorted(due.items(), key=lambda item: item[1].is_empty)
                responses += [self._push(url, {name: r}) for name, r in filters]
            elif due or absent:
                responses.append(self._push(url, due, absent))
        return responses + list(self._removals())

    @property
    def _clusters_are_warming(self) -> bool:
        return bool(self._kinds[TypeUrl.CLUSTER].pending) and not self._released

    def _due(self, url: TypeUrl) -> dict[str, Encoded]:
        """Return what the proxy wants and does not hold in this version."""
        kind = self._kinds[url]
        return {
            name: resource
            for name, resource in (self._target or {}).get(url, {}).items()
            if kind.wants(name)
            and (name in kind.asked or kind.sent.get(name) != resource.version)
            and name not in kind.refused
        }

    def _absent(self, url: TypeUrl) -> list[str]:
        """Return the names that were asked for and do not exist."""
        if url not in _ABSENCE_IS_AN_ANSWER:
            return []
        kind, group = self._kinds[url], (self._target or {}).get(url, {})
        return sorted(n for n in kind.asked if n in kind.subscribed and n not in group)

    def _removals(self) -> Iterator[DeltaDiscoveryResponse]:
        if self._clusters_are_warming:
            return
        yield from self._removal(TypeUrl.LISTENER)
        users = [self._kinds[url] for url in _AFTER_CLUSTERS]
        if not any(kind.pending or kind.refused for kind in users):
            yield from self._removal(TypeUrl.CLUSTER)

    def _removal(self, url: TypeUrl) -> Iterator[DeltaDiscoveryResponse]:
        kind, group = self._kinds[url], (self._target or {}).get(url, {})
        gone = sorted(kind.sent.keys() - group.keys())
        if gone and kind.requested:
            for name in gone:
                kind.acked.pop(name, None)
                del kind.sent[name]
            yield self._push(url, {}, gone)

    def _push(
        self, url: TypeUrl, resources: Mapping[str, Encoded], removed: Iterable[str] = ()
    ) -> DeltaDiscoveryResponse:
        kind = self._kinds[url]
        self._nonce += 1
        nonce = str(self._nonce)
        kind.pending[nonce] = resources
        kind.asked -= resources.keys() | set(removed)
        for name, resource in resources.items():
            kind.sent[name] = resource.version
            if resource.endpoints:
                self._kinds[TypeUrl.ENDPOINT].asked.add(resource.endpoints)
        return DeltaDiscoveryResponse(
            type_url=url,
            nonce=nonce,
            resources=[
                Resource(name=name, version=r.version, resource=r.body)
                for name, r in resources.items()
            ],
            removed_resources=list(removed),
        )
