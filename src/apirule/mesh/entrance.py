"""Which requests a gateway may bring to a workload: never more than routes and policies say.

In Istio a workload without an ALLOW policy lets everybody in. Then whatever a gateway still, or
already, routes there is open: before the policies of a new rule have come, after a hand has taken
them away, when a Service selects other Pods, when a route has moved and a request is on its way.
So a workload that no ALLOW policy guards lets a gateway in only under the hosts for which somebody
has written a VirtualService that leads there; those of APIRules never count, for they come with
policies. Callers inside the mesh are let in as in Istio.

And a Service that an APIRule exposes is reached by a gateway only where a sidecar stands before it:
nobody else would ask for a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import msgspec
from envoy.config.rbac.v3.rbac_pb2 import RBAC, Permission, Policy, Principal
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from apirule import names
from apirule.apis import networking
from apirule.mesh import matchers, mirrors
from apirule.mesh.proxy import Proxy, Role
from apirule.mesh.snapshot import Snapshot, selects
from apirule.names import ObjectName

_ANY_HOST = "*"
_REWRITING = frozenset({"host", ":authority"})


class Entrance(msgspec.Struct, frozen=True):
    """``gateways`` are SPIFFE IDs; ``hosts`` those under which they may come in."""

    gateways: tuple[str, ...]
    hosts: tuple[str, ...]


def entrance(snapshot: Snapshot, proxy: Proxy) -> Entrance | None:
    """Return how gateways get into a workload without ALLOW policies; None for a gateway itself."""
    if proxy.role is not Role.SIDECAR:
        return None
    hosts = {
        host.lower()
        for routes, http in _written(snapshot)
        if _leads_to(snapshot, routes.metadata.namespace, http, proxy)
        for host in _authorities(routes, http)
    }
    return Entrance(snapshot.memo("gateways", partial(_gateways, snapshot)), tuple(sorted(hosts)))


def rules(door: Entrance) -> RBAC | None:
    """Return what an ALLOW filter without policies enforces; None: everybody gets in."""
    if _ANY_HOST in door.hosts:
        return None
    gateways = [
        Principal(authenticated=Principal.Authenticated(principal_name=StringMatcher(exact=one)))
        for one in door.gateways
    ]
    outside = Principal(or_ids=Principal.Set(ids=gateways))
    policies = {
        "inside-the-mesh": Policy(
            permissions=[Permission(any=True)], principals=[Principal(not_id=outside)]
        )
    }
    if door.hosts:
        either = [
            Permission(header=header) for host in door.hosts for header in matchers.host(host)
        ]
        policies["routes-without-an-apirule"] = Policy(
            permissions=either, principals=[Principal(any=True)]
        )
    return RBAC(action=RBAC.ALLOW, policies=policies)


def _gateways(snapshot: Snapshot) -> tuple[str, ...]:
    domains = snapshot.settings.trust_domains
    found = {
        names.spiffe_id(proxy.name.namespace, proxy.service_account, domain)
        for proxy in snapshot.proxies()
        if proxy.role is Role.GATEWAY
        for domain in domains
    }
    # Also while there is no Pod of it.
    _, _, ingress = names.INGRESS_PRINCIPAL.partition("/")
    return tuple(sorted(found.union(f"spiffe://{domain}/{ingress}" for domain in domains)))


def _written(
    snapshot: Snapshot,
) -> Iterator[tuple[networking.VirtualService, networking.HTTPRoute]]:
    for routes in snapshot.written_virtual_services:
        for http in routes.spec.http:
            yield routes, http


def _leads_to(snapshot: Snapshot, namespace: str, http: networking.HTTPRoute, proxy: Proxy) -> bool:
    return any(
        service is not None
        and service.metadata.namespace == proxy.name.namespace
        and (
            selects(service.spec.selector, proxy.labels)
            if service.spec.selector
            else proxy.name in _listed(snapshot, service.object_name)
        )
        for destination in _destinations(http)
        for service in (snapshot.service(destination.host, namespace),)
    )


def _listed(snapshot: Snapshot, service: ObjectName) -> Iterable[ObjectName]:
    """Yield the Pods that somebody lists as endpoints of a Service without a selector."""
    for piece in snapshot.slices(service):
        for endpoint in piece.endpoints:
            if endpoint.target_ref is not None:
                target = endpoint.target_ref
                yield ObjectName(target.namespace or service.namespace, target.name)


def _destinations(http: networking.HTTPRoute) -> Iterator[networking.Destination]:
    yield from (one.destination for one in http.route)
    yield from (one.destination for one in mirrors.mirrors_of(http))


def _authorities(routes: networking.VirtualService, http: networking.HTTPRoute) -> Iterator[str]:
    """Yield the hosts a request may have when it arrives: those of the routes, or a new one."""
    yield from routes.spec.hosts
    if http.rewrite is not None and http.rewrite.authority:
        yield http.rewrite.authority
    for headers in (http.headers, *(one.headers for one in http.route)):
        written = (headers.request.set if headers and headers.request else None) or {}
        yield from (value for name, value in written.items() if name.lower() in _REWRITING)
