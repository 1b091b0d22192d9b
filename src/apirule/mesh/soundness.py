"""What is wrong with Istio's objects by themselves, whatever proxies there are.

Proxies find what is wrong for them; but an object that no proxy is concerned with yet must not
look sound until one comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from apirule import providers
from apirule.apis import core, networking, scheme, security
from apirule.apis import traffic as traffic_kinds
from apirule.apis.envoy_filter import EnvoyFilter
from apirule.apis.meta import Object, ObjectRef, Resource
from apirule.mesh import (
    entries,
    envoy_filters,
    fields,
    gateways,
    policies,
    route_match,
    routes,
    traffic,
)
from apirule.mesh.advice import advice
from apirule.mesh.config import MeshSettings
from apirule.mesh.inner_rules import inner_rules
from apirule.mesh.snapshot import MESH, Snapshot
from apirule.problem import SPEC, FieldPath, Problem, Reason, Severity

_KINDS: tuple[type[Resource], ...] = (
    networking.Gateway,
    networking.VirtualService,
    security.AuthorizationPolicy,
    security.RequestAuthentication,
    security.PeerAuthentication,
    EnvoyFilter,
)


class Soundness:
    """Keep one and ask it again: what did not change is not looked at twice."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Resource, tuple[Problem, ...]]] = {}

    def problems(self, snapshot: Snapshot) -> Mapping[ObjectRef, tuple[Problem, ...]]:
        """Return the objects in which something is wrong."""
        found = dict(traffic.all_problems(snapshot)) | dict(entries.all_problems(snapshot))
        known: dict[int, tuple[Resource, tuple[Problem, ...]]] = {}
        for kind in _KINDS:
            for resource in snapshot.of_kind(kind):
                place = id(resource)
                seen = self._known.get(place)
                if seen is None or seen[0] is not resource:
                    seen = (resource, tuple(problems_of(resource, snapshot.settings)))
                known[place] = seen
                if seen[1]:
                    found[resource.ref] = seen[1]
        self._known = known
        for more in (inner_rules(snapshot).problems, _unknown_gateways(snapshot)):
            for ref, problems in more.items():
                if problems:
                    found[ref] = (*found.get(ref, ()), *problems)
        return found


def _unknown_gateways(snapshot: Snapshot) -> Mapping[ObjectRef, list[Problem]]:
    known = {str(gateway.object_name) for gateway in snapshot.of_kind(networking.Gateway)}
    # Those that are out of order are there.
    known |= {str(ref.object_name) for ref in snapshot.rejected if ref.kind == "Gateway"}
    found: dict[ObjectRef, list[Problem]] = {}
    for service in snapshot.of_kind(networking.VirtualService):
        for index, name in enumerate(service.spec.gateways):
            full = route_match.full_gateway(name, service.metadata.namespace)
            if full != MESH and full not in known:
                found.setdefault(service.ref, []).append(
                    Problem(
                        SPEC / "gateways" / index,
                        Reason.NOT_FOUND,
                        f'There is no Gateway "{full}".',
                        "Create it, or name one that `kubectl get gateways -A` shows.",
                        Severity.WARNING,
                    )
                )
    return found


def problems_of(resource: Resource, settings: MeshSettings) -> Iterable[Problem]:
    """Return what is wrong with one object, or said in vain, whatever else there is."""
    found: Iterable[Problem] = ()
    match resource:
        case networking.Gateway():
            found = gateways.problems(resource)
        case networking.VirtualService():
            found = routes.problems(resource)
        case EnvoyFilter():
            found = envoy_filters.compile_filter(resource).problems
        case (
            security.AuthorizationPolicy()
            | security.RequestAuthentication()
            | security.PeerAuthentication()
        ):
            found = policies.problems_of(resource, settings)
        case traffic_kinds.DestinationRule():
            found = traffic.problems(resource, has_roots=bool(settings.system_roots))
        case traffic_kinds.ServiceEntry():
            found = entries.problems(resource)
        case _:
            pass
    return (*found, *advice(resource))


def problems_as_written(obj: Object, settings: MeshSettings) -> Iterator[Problem]:
    """Yield what keeps an object of Istio, as somebody wrote it, from having its effect.

    Of any other kind there is nothing to say.
    """
    ref = ObjectRef.of(obj)
    if ref.kind == core.ConfigMap.gvk.kind and ref.object_name == providers.CONFIG_MAP:
        at = FieldPath("data", providers.KEY)
        for sentence in providers.remarks((obj.get("data") or {}).get(providers.KEY) or ""):
            yield Problem(at, Reason.MISLEADING, sentence, severity=Severity.WARNING)
    kind = next(
        (k for k in fields.KINDS if (k.gvk.group, k.gvk.kind) == (ref.group, ref.kind)), None
    )
    if kind is None:
        return
    yield from fields.problems(obj, kind)
    try:
        resource = scheme.decode(obj, kind)
    except msgspec.ValidationError as error:
        yield scheme.misfit(error)
        return
    yield from problems_of(resource, settings)
