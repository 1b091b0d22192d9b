"""The Istio objects of APIRules: what there is of a rule, and how it is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog

from apirule.apis import networking, security
from apirule.apis.meta import Object, ObjectRef, Resource
from apirule.controllers import triggers
from apirule.kube.ahead import Ahead
from apirule.kube.client import Client
from apirule.kube.errors import Conflict, NoKindMatch, NotFound
from apirule.kube.informer import Delta, Informer, Informers, name_of
from apirule.names import ObjectName
from apirule.ownership import selectors
from apirule.translate.plan import Change, Create, Delete, Update, owned

log = structlog.get_logger(__name__)

KINDS: dict[str, type[Resource]] = {
    "virtualservices.networking.istio.io": networking.VirtualService,
    "authorizationpolicies.security.istio.io": security.AuthorizationPolicy,
    "requestauthentications.security.istio.io": security.RequestAuthentication,
}
"""What we write, by the name of its CRD; in the order in which a missing one is reported."""


class Owned:
    """Reads from caches, and writes at once; what was written is known before a watch tells it."""

    def __init__(self, client: Client, informers: Informers) -> None:
        self._client = client
        self._informers = {crd: informers.of(kind.gvk) for crd, kind in KINDS.items()}
        self._ahead = {one.gvk.kind: Ahead(one) for one in self._informers.values()}
        self._written: dict[ObjectRef, str] = {}
        """The version of each object that we wrote last, until the watch tells of it."""
        for informer in self._informers.values():
            informer.add_index(triggers.OWNER, triggers.owner_index)

    @property
    def informers(self) -> Iterable[Informer]:
        return self._informers.values()

    @property
    def policies(self) -> Informer:
        return self._informers["authorizationpolicies.security.istio.io"]

    @property
    def missing(self) -> str | None:
        """The CRD of a kind that the server does not serve."""
        return next((crd for crd, one in self._informers.items() if one.missing), None)

    def known(self, rule: ObjectName, resources: Iterable[Resource]) -> list[Object]:
        """Return what belongs to a rule: by its labels, and by the names it would have."""
        resources = tuple(resources)
        found: list[Object] = []
        for informer in self._informers.values():
            labelled = [name_of(one) for one in informer.by_index(triggers.OWNER, str(rule))]
            derived = [one.object_name for one in resources if one.gvk == informer.gvk]
            ahead = self._ahead[informer.gvk.kind]
            objects = (ahead.get(one) for one in dict.fromkeys(labelled + derived))
            found += [one for one in objects if one is not None]
        return owned(found, rule, resources)

    async def live(self, rule: ObjectName, resources: Iterable[Resource] = ()) -> list[Object]:
        """Ask the server, not the cache: what we wrote a moment ago must not be left behind."""
        found: dict[ObjectRef, Object] = {}
        for kind in KINDS.values():
            for selector in selectors(rule):
                try:
                    listing = await self._client.list(kind.gvk, label_selector=selector)
                except NoKindMatch:
                    break
                found |= {ObjectRef.of(one): one for one in listing.items}
        return owned(found.values(), rule, resources)

    async def write(self, change: Change) -> Object | None:
        """Carry out a change; return what the object is now. Raises ApiError."""
        ahead, name = self._ahead[change.ref.kind], change.ref.object_name
        written: Object | None
        match change:
            case Create(obj):
                before, written = None, await self._client.create(obj)
            case Update(obj):
                before = obj
                try:
                    written = await self._client.update(obj)
                except NoKindMatch:
                    raise
                except NotFound as error:
                    # Deleted since we read it; the next pass creates it anew.
                    raise Conflict(error.status, error.message) from error
            case Delete(obj):
                before, written = obj, None
                await self._delete(obj)
        ahead.wrote(name, before, written)
        if written is not None:
            self._written[change.ref] = written["metadata"]["resourceVersion"]
        return written

    def is_news(self, delta: Delta) -> bool:
        """Whether a change is more than what we wrote ourselves, and whoever wrote it knows."""
        ref = ObjectRef.of(delta.current)
        if delta.new is None:
            self._written.pop(ref, None)
        elif delta.new["metadata"]["resourceVersion"] == self._written.get(ref):
            del self._written[ref]
            return False
        return True

    async def _delete(self, obj: Object) -> None:
        kind = next(one for one in KINDS.values() if one.gvk.kind == obj["kind"])
        ref = ObjectRef.of(obj)
        try:
            await self._client.delete(kind.gvk, ref.object_name, uid=obj["metadata"]["uid"])
        except NotFound:
            log.debug("already deleted", kind=ref.kind, name=str(ref.object_name))


class Claims:
    """Hosts of routes that are about to be written; each rule has one claim at the most.

    ``claim`` takes them and returns how to give them back.
    """

    def __init__(self, claim: Callable[[Object], Callable[[], None]]) -> None:
        self._claim = claim
        self._held: dict[ObjectName, Callable[[], None]] = {}

    def take(self, rule: ObjectName, changes: Iterable[Change]) -> None:
        self.release(rule)
        for change in changes:
            if not isinstance(change, Delete):
                self._held[rule] = self._claim(change.object)

    def keep(self, rule: ObjectName) -> None:
        """Forget a claim whose routes are written, and hold the hosts from now on."""
        self._held.pop(rule, None)

    def release(self, rule: ObjectName) -> None:
        give_back = self._held.pop(rule, None)
        if give_back is not None:
            give_back()


def is_route(obj: Object) -> bool:
    return bool(obj["kind"] == networking.VirtualService.gvk.kind)
