"""Which changes a proxy can notice: what cannot matter to it is not built again.

Everything matters that is not known not to. ``build`` is the measure: for what is left out here it
gives the same result with and without the object.
"""

from __future__ import annotations

from collections.abc import Iterable

from apirule.apis import core, networking, security
from apirule.apis.envoy_filter import EnvoyFilter
from apirule.apis.meta import Resource
from apirule.mesh.config import MeshSettings
from apirule.mesh.proxy import Proxy, Role
from apirule.mesh.snapshot import is_of_rule, selects

_MESH = "mesh"
"""The gateway name that stands for all sidecars; also what no gateways at all means."""


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
