"""What is wrong with Istio's objects by themselves, whatever proxies there are.

Proxies find what is wrong for them; but an object that no proxy is concerned with yet must not
look sound until one comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from apirule.apis import networking, security
from apirule.apis.envoy_filter import EnvoyFilter
from apirule.apis.meta import ObjectRef, Resource
from apirule.mesh import entries, envoy_filters, gateways, policies, routes, traffic
from apirule.mesh.snapshot import Snapshot
from apirule.problem import Problem

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
                    seen = (resource, tuple(_problems(resource, snapshot)))
                known[place] = seen
                if seen[1]:
                    found[resource.ref] = seen[1]
        self._known = known
        return found


def _problems(resource: Resource, snapshot: Snapshot) -> Iterable[Problem]:
    match resource:
        case networking.Gateway():
            return gateways.problems(resource)
        case networking.VirtualService():
            return routes.problems(resource)
        case EnvoyFilter():
            return envoy_filters.compile_filter(resource).problems
        case (
            security.AuthorizationPolicy()
            | security.RequestAuthentication()
            | security.PeerAuthentication()
        ):
            return policies.problems_of(resource, snapshot.settings)
        case _:
            return ()
