"""From what the proxies were told and have taken to the status of each of Istio's objects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from apirule.apis import core, networking
from apirule.apis.meta import ObjectRef, Resource
from apirule.local.xds.ads import Refusal
from apirule.local.xds.fleet import Standing
from apirule.local.xds.statuses import Concerned, Wanted, advice_of, obstacle_of, verdict
from apirule.local.xds.words import of_machine
from apirule.local.xds.world import ISTIO, Fault, Moment
from apirule.mesh.config import MeshSettings, ProxyConfig, TypeUrl
from apirule.mesh.proxy import Proxy, Role
from apirule.mesh.relevance import matters
from apirule.mesh.snapshot import MESH
from apirule.problem import Problem, Reason


@dataclass(frozen=True, slots=True, eq=False)
class Told:
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


class _Basis(NamedTuple):
    """All that the status of an object is made of."""

    resource: Resource
    concerned: tuple[Concerned, ...]
    problems: tuple[Problem, ...]
    fault: Fault | None
    rejected: str | None
    actual: Mapping[str, Any]


class Statuses:
    """Keep one and ask it again: what an unchanged status is made of is not gone into twice."""

    def __init__(self) -> None:
        self._known: dict[ObjectRef, tuple[_Basis, Wanted]] = {}

    def wanted(
        self,
        moment: Moment,
        *,
        told: Mapping[str, Told],
        standings: Mapping[str, Standing],
        rejected: Mapping[ObjectRef, str],
        settings: MeshSettings,
        own_problems: Mapping[ObjectRef, Sequence[Problem]],
        actual: Callable[[ObjectRef], Mapping[str, Any]],
    ) -> dict[ObjectRef, Wanted]:
        """Return the status each of Istio's objects shall have; the same value if it is the same.

        ``own_problems`` are those an object has whatever proxy there is; proxies find others.
        """
        concerned = _concerned(moment, told, standings)
        for late, proxy in _behind(moment, told):
            for ref, resource in moment.resources.items():
                if isinstance(resource, ISTIO) and matters(resource, proxy, settings):
                    concerned[ref].append(late)
        found = _problems(told)
        known = {}
        for ref, resource in moment.resources.items():
            if not isinstance(resource, ISTIO):
                continue
            basis = _Basis(
                resource,
                tuple(concerned.get(ref, ())),
                (*own_problems.get(ref, ()), *found.get(ref, ())),
                moment.faults.get(ref),
                rejected.get(ref),
                actual(ref),
            )
            before = self._known.get(ref)
            same = before is not None and before[0] == basis
            known[ref] = before if before is not None and same else (basis, _wanted(basis))
        self._known = known
        return {ref: want for ref, (_, want) in known.items()}


def _wanted(basis: _Basis) -> Wanted:
    resource, generation = basis.resource, basis.resource.metadata.generation
    if basis.fault is not None:
        obstacle: tuple[str, str] | None = (basis.fault.reason, basis.fault.text)
    elif basis.rejected is not None:
        obstacle = (Reason.REJECTED.value, basis.rejected)
    else:
        obstacle = obstacle_of(basis.problems)
    return Wanted(
        gvk=resource.gvk,
        uid=resource.metadata.uid,
        verdict=verdict(
            generation,
            obstacle=obstacle,
            concerned=basis.concerned,
            unserved=_unserved(resource),
        ),
        advice=advice_of(basis.problems, generation),
        actual=basis.actual,
    )


def _unserved(resource: Resource) -> str:
    """Say what is missing where a resource concerns no proxy; empty: nothing."""
    match resource:
        case networking.VirtualService() if set(resource.spec.gateways) <= {MESH}:
            return "no running sidecar calls its hosts"
        case networking.VirtualService() | networking.Gateway():
            return "no running gateway serves it"
        case _:
            return ""


def _problems(told: Mapping[str, Told]) -> Mapping[ObjectRef, list[Problem]]:
    problems: defaultdict[ObjectRef, list[Problem]] = defaultdict(list)
    for one in told.values():
        if one.config is not None:
            for ref, found in one.config.problems.items():
                problems[ref].extend(found)
    return problems


def _behind(moment: Moment, told: Mapping[str, Told]) -> Iterator[tuple[Concerned, Proxy]]:
    """Yield the proxies that cannot be told anything: all that matters to them is not in force."""
    for _, one in sorted(told.items()):
        if one.config is None:
            yield Concerned(one.proxy.name, "could not be configured (see the log)"), one.proxy
    for ref, fault in sorted(moment.faults.items()):
        pod = moment.resources[ref]
        if isinstance(pod, core.Pod) and pod.object_name in moment.serving:
            proxy = Proxy(pod.object_name, Role.SIDECAR, "", pod.labels)
            yield Concerned(pod.object_name, f"cannot be told: {fault.text}"), proxy


def _concerned(
    moment: Moment, told: Mapping[str, Told], standings: Mapping[str, Standing]
) -> defaultdict[ObjectRef, list[Concerned]]:
    concerned: defaultdict[ObjectRef, list[Concerned]] = defaultdict(list)
    for node, one in sorted(told.items()):
        standing = standings[node]
        name = one.proxy.name
        # A sidecar that never came up, or went down with its Pod, serves nothing.
        if one.proxy.role is Role.SIDECAR and not standing.connected and name not in moment.serving:
            continue
        lag = _lag(standing)
        mostly = Concerned(name, lag)
        refused = {} if lag else dict(_refused(one, standing))
        for ref in one.concerns:
            text = refused.get(ref)
            concerned[ref].append(Concerned(name, text) if text else mostly)
    return concerned


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
