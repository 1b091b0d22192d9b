"""From what the proxies were told and have taken to the status of each of Istio's objects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apirule.apis import core, networking
from apirule.apis.meta import ObjectRef, Resource
from apirule.local.xds.ads import Refusal
from apirule.local.xds.fleet import Standing
from apirule.local.xds.statuses import Concerned, Wanted, advice_of, obstacle_of, verdict
from apirule.local.xds.words import of_machine
from apirule.local.xds.world import ISTIO, Moment
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


def wanted_statuses(
    moment: Moment,
    *,
    told: Mapping[str, Told],
    standings: Mapping[str, Standing],
    rejected: Mapping[ObjectRef, str],
    settings: MeshSettings,
    own_problems: Mapping[ObjectRef, Sequence[Problem]],
    actual: Callable[[ObjectRef], Mapping[str, Any]],
) -> dict[ObjectRef, Wanted]:
    """Return the status each of Istio's objects shall have.

    ``own_problems`` are those an object has whatever proxy there is; proxies find others.
    """
    concerned = _concerned(moment, told, standings)
    for late, proxy in _behind(moment, told):
        for ref, resource in moment.resources.items():
            if isinstance(resource, ISTIO) and matters(resource, proxy, settings):
                concerned[ref].append(late)
    found = _problems(told)
    wanted = {}
    for ref, resource in moment.resources.items():
        if not isinstance(resource, ISTIO):
            continue
        problems = (*own_problems.get(ref, ()), *found.get(ref, ()))
        fault = moment.faults.get(ref)
        if fault is not None:
            obstacle: tuple[str, str] | None = (fault.reason, fault.text)
        elif ref in rejected:
            obstacle = (Reason.REJECTED.value, rejected[ref])
        else:
            obstacle = obstacle_of(problems)
        wanted[ref] = Wanted(
            gvk=resource.gvk,
            uid=resource.metadata.uid,
            verdict=verdict(
                resource.metadata.generation,
                obstacle=obstacle,
                concerned=concerned.get(ref, ()),
                unserved=_unserved(resource),
            ),
            advice=advice_of(problems, resource.metadata.generation),
            actual=actual(ref),
        )
    return wanted


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
        everything = _lag(standing)
        refused = dict(_refused(one, standing))
        for ref in one.concerns:
            concerned[ref].append(Concerned(name, everything or refused.get(ref, "")))
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
