"""Which changes a proxy can notice: what cannot matter to it is not built again.

Everything matters that is not known not to. ``build`` is the measure: for what is left out here it
gives the same result with and without the object.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from apirule.apis import core, networking, security
from apirule.apis.envoy_filter import EnvoyFilter
from apirule.apis.meta import ObjectRef, Resource
from apirule.mesh.config import MeshSettings
from apirule.mesh.proxy import Proxy, Role
from apirule.mesh.snapshot import is_of_rule, selects

_MESH = "mesh"
"""The gateway name that stands for all sidecars; also what no gateways at all means."""


World = Mapping[ObjectRef, Resource]


class Differences:
    """What changed between two worlds. Many proxies ask for the same two, one after the other."""

    def __init__(self) -> None:
        self._after: World = {}
        self._found: dict[int, tuple[World, tuple[Resource, ...]]] = {}

    def between(self, before: World, after: World) -> tuple[Resource, ...]:
        """Return what is in one of them alone. Unchanged resources are the same values."""
        if after is not self._after:
            self._after, self._found = after, {}
        known = self._found.get(id(before))
        if known is None or known[0] is not before:
            come = [one for ref, one in after.items() if before.get(ref) is not one]
            gone = [one for ref, one in before.items() if after.get(ref) is not one]
            known = self._found[id(before)] = (before, (*come, *gone))
        return known[1]


def same_for(proxy: Proxy, changed: Iterable[Resource], settings: MeshSettings) -> bool:
    """Say whether a proxy is built alike before and after a change of these."""
    return not any(matters(one, proxy, settings) for one in changed)


def matters(resource: Resource, proxy: Proxy, settings: MeshSettings) -> bool:
    match resource:
        case security.RequestAuthentication() | security.AuthorizationPolicy():
            selector = resource.spec.selector
            labels = (selector.match_labels if selector else None) or {}
            near = resource.metadata.namespace in (settings.root_namespace, proxy.name.namespace)
            return near and selects(labels, proxy.labels)
        case EnvoyFilter():
            near = resource.metadata.namespace in (settings.root_namespace, proxy.name.namespace)
            return near and selects(resource.selector, proxy.labels)
        case networking.VirtualService():
            bound = resource.spec.gateways
            # Those of somebody's own also say how gateways get into a workload.
            is_for_sidecars = not bound or _MESH in bound or not is_of_rule(resource)
            return proxy.role is Role.GATEWAY or is_for_sidecars
        case networking.Gateway():
            return proxy.role is Role.GATEWAY
        case core.Secret():
            # A gateway's own certificates, and what a DestinationRule names for callers.
            return resource.metadata.namespace == proxy.name.namespace
        case _:
            return True
