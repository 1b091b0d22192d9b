"""From what the proxies were told and have taken to the status of each of Istio's objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from apirule.apis import core, networking
from apirule.apis.meta import ObjectRef, Resource
from apirule.local.xds.ads import Refusal
from apirule.local.xds.fleet import Standing
from apirule.local.xds.statuses import Concerned, Wanted, advice_of, obstacle_of, verdict
from apirule.local.xds.words import of_machine
from apirule.local.xds.world import ISTIO, NOTHING, Fault, Moment
from apirule.mesh.config import MeshSettings, ProxyConfig, TypeUrl
from apirule.mesh.proxy import Proxy, Role
from apirule.mesh.relevance import matters
from apirule.mesh.snapshot import MESH
from apirule.names import ObjectName
from apirule.problem import Problem, Reason


class Told(msgspec.Struct, frozen=True, eq=False):
    """What a proxy was last told, and of which moment. ``config`` is None if building it failed.

    Each telling is one of its own, whatever was told.
    """

    proxy: Proxy
    config: ProxyConfig | None
    moment: Moment
    concerns: frozenset[ObjectRef]
    """The objects its configuration is made of; none if it could not be built."""

    @classmethod
    def of(
        cls, proxy: Proxy, config: ProxyConfig | None, moment: Moment, before: Told | None
    ) -> Told:
        if config is None:
            concerns: frozenset[ObjectRef] = frozenset()
        elif before is not None and before.config is config:
            concerns = before.concerns
        else:
            concerns = frozenset().union(*config.sources.values())
        return cls(proxy, config, moment, concerns)


class _Share(NamedTuple):
    """What one proxy adds to the statuses of the objects that it concerns."""

    proxy: ObjectName
    lag: str
    """Why it has nothing of what it should; empty if it has all but what it refuses."""
    refused: Mapping[ObjectRef, str]
    concerns: frozenset[ObjectRef]

    def of(self, ref: ObjectRef) -> Concerned:
        return Concerned(self.proxy, self.lag or self.refused.get(ref, ""))


Shares = Mapping[str, _Share]
Problems = Mapping[ObjectRef, tuple[Problem, ...]]


class Statuses:
    """Keep one and ask it again: only statuses of which something changed are worked out."""

    def __init__(self) -> None:
        self._known: dict[ObjectRef, Wanted] = {}
        self._moment = NOTHING
        self._shares: Shares = {}
        self._problems: Problems = {}
        self._rejected: Mapping[ObjectRef, str] = {}

    def wanted(
        self,
        moment: Moment,
        *,
        told: Mapping[str, Told],
        standings: Mapping[str, Standing],
        rejected: Mapping[ObjectRef, str],
        settings: MeshSettings,
        own_problems: Problems,
        touched: Iterable[ObjectRef],
        actual: Callable[[ObjectRef], Mapping[str, Any]],
    ) -> dict[ObjectRef, Wanted | None]:
        """Return the statuses that Istio's objects shall have by now; None: the object is gone.

        ``own_problems`` are those an object has whatever proxy there is; proxies find others.
        ``touched`` are the objects whose ``actual`` status may be another than the last time.
        """
        shares = dict(_shares(moment, told, standings, settings))
        problems = _problems(told, own_problems)
        changed = {*touched, *_moved(self._shares, shares)}
        changed |= _unlike(self._problems, problems)
        changed |= _unlike(self._rejected, rejected)
        changed |= {*moment.changed_since(self._moment)}
        self._moment, self._shares, self._problems = moment, shares, problems
        self._rejected = dict(rejected)

        found: dict[ObjectRef, Wanted | None] = {}
        for ref in changed:
            resource = moment.resources.get(ref)
            if not isinstance(resource, ISTIO):
                if self._known.pop(ref, None) is not None:
                    found[ref] = None
                continue
            want = _wanted(
                resource,
                concerned=[share.of(ref) for share in shares.values() if ref in share.concerns],
                problems=problems.get(ref, ()),
                fault=moment.faults.get(ref),
                rejected=rejected.get(ref),
                actual=actual(ref),
            )
            if want != self._known.get(ref):
                found[ref] = self._known[ref] = want
        return found


def _wanted(
    resource: Resource,
    *,
    concerned: Sequence[Concerned],
    problems: tuple[Problem, ...],
    fault: Fault | None,
    rejected: str | None,
    actual: Mapping[str, Any],
) -> Wanted:
    generation = resource.metadata.generation
    if fault is not None:
        obstacle: tuple[str, str] | None = (fault.reason, fault.text)
    elif rejected is not None:
        obstacle = (Reason.REJECTED.value, rejected)
    else:
        obstacle = obstacle_of(problems)
    return Wanted(
        gvk=resource.gvk,
        uid=resource.metadata.uid,
        verdict=verdict(
            generation, obstacle=obstacle, concerned=concerned, unserved=_unserved(resource)
        ),
        advice=advice_of(problems, generation),
        actual=actual,
    )


def _moved(before: Shares, after: Shares) -> Iterator[ObjectRef]:
    """Yield the objects to which a proxy adds something else than before."""
    for key in before.keys() | after.keys():
        old, new = before.get(key), after.get(key)
        if old is None or new is None or old[:-1] != new[:-1]:
            yield from old.concerns if old is not None else ()
            yield from new.concerns if new is not None else ()
        elif old.concerns is not new.concerns:
            yield from old.concerns ^ new.concerns


def _unlike(
    before: Mapping[ObjectRef, object], after: Mapping[ObjectRef, object]
) -> set[ObjectRef]:
    return {ref for ref in before.keys() | after.keys() if before.get(ref) != after.get(ref)}


def _unserved(resource: Resource) -> str:
    """Say what is missing where a resource concerns no proxy; empty: nothing."""
    match resource:
        case networking.VirtualService() if set(resource.spec.gateways) <= {MESH}:
            return "no running sidecar calls its hosts"
        case networking.VirtualService() | networking.Gateway():
            return "no running gateway serves it"
        case _:
            return ""


def _problems(told: Mapping[str, Told], own: Problems) -> Problems:
    problems: dict[ObjectRef, tuple[Problem, ...]] = dict(own)
    for one in told.values():
        if one.config is not None:
            for ref, found in one.config.problems.items():
                problems[ref] = (*problems.get(ref, ()), *found)
    return problems


def _shares(
    moment: Moment,
    told: Mapping[str, Told],
    standings: Mapping[str, Standing],
    settings: MeshSettings,
) -> Iterator[tuple[str, _Share]]:
    for node, one in sorted(told.items()):
        standing = standings[node]
        name = one.proxy.name
        # A sidecar that never came up, or went down with its Pod, serves nothing.
        if one.proxy.role is Role.SIDECAR and not standing.connected and name not in moment.serving:
            continue
        lag = _lag(standing)
        refused = {} if lag else dict(_refused(one, standing))
        yield node, _Share(name, lag, refused, one.concerns)
    for lag, proxy in _behind(moment, told):
        matter = frozenset(
            ref
            for ref, resource in moment.resources.items()
            if isinstance(resource, ISTIO) and matters(resource, proxy, settings)
        )
        yield f"behind {proxy.name}", _Share(proxy.name, lag, {}, matter)


def _behind(moment: Moment, told: Mapping[str, Told]) -> Iterator[tuple[str, Proxy]]:
    """Yield the proxies that cannot be told anything: all that matters to them is not in force."""
    for _, one in sorted(told.items()):
        if one.config is None:
            yield "could not be configured (see the log)", one.proxy
    for ref, fault in sorted(moment.faults.items()):
        pod = moment.resources[ref]
        if isinstance(pod, core.Pod) and pod.object_name in moment.serving:
            proxy = Proxy(pod.object_name, Role.SIDECAR, "", pod.labels)
            yield f"cannot be told: {fault.text}", proxy


def _lag(standing: Standing) -> str:
    if not standing.connected:
        return "is not connected"
    return "" if standing.settled else "has not answered"


def _refused(told: Told, standing: Standing) -> Iterator[tuple[ObjectRef, str]]:
    for refusal in standing.refusals:
        lacking = of_machine(refusal.message)
        text = f"waits: {lacking}" if lacking else f"refuses {refusal.name}: {refusal.message}"
        for ref in _behind_refusal(told, standing, refusal):
            yield ref, text


def _behind_refusal(told: Told, standing: Standing, refusal: Refusal) -> Iterator[ObjectRef]:
    sources = told.config.sources if told.config else {}
    yield from sources.get((refusal.type, refusal.name), ())
    if refusal.type is not TypeUrl.LISTENER:
        return
    if told.proxy.role is Role.SIDECAR:
        yield from told.concerns  # its workload is withheld
    for table in standing.lacking:
        yield from sources.get((TypeUrl.ROUTE, table), ())
