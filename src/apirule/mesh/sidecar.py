"""What a sidecar is told: the ports of its workload, and how to call every Service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from envoy.config.route.v3 import route_components_pb2 as route_pb2

from apirule import names
from apirule.apis import core, networking
from apirule.apis.meta import ObjectRef
from apirule.mesh import clusters, envoy_filters, hosts, listeners, policies, routes
from apirule.mesh.config import TypeUrl
from apirule.mesh.destinations import Upstream, cluster_name, inbound_cluster_name
from apirule.mesh.draft import Draft
from apirule.mesh.envoy_filters import Patches
from apirule.mesh.gateway import put_clusters
from apirule.mesh.memo import Memo
from apirule.mesh.proxy import InboundPort, Proxy
from apirule.mesh.routes import Emitted
from apirule.mesh.snapshot import Snapshot
from apirule.problem import SPEC, Problem, Reason, Severity

_HTTP_PORT = 80
# Istio reads these from appProtocol or from the first part of a port's name.
_NOT_HTTP = frozenset({"tcp", "tls", "https", "mongo", "mysql", "redis", "udp"})


def build(draft: Draft, snapshot: Snapshot, proxy: Proxy, memo: Memo) -> None:
    _put_inbound(draft, snapshot, proxy, envoy_filters.patches_for(snapshot, proxy, memo))
    if proxy.outbound_port is not None:
        _put_outbound(draft, snapshot, proxy, proxy.outbound_port, memo)


def _put_inbound(draft: Draft, snapshot: Snapshot, proxy: Proxy, patches: Patches) -> None:
    pod = snapshot.pods.get(proxy.name)
    ref = pod.ref if pod else ObjectRef("", "Pod", *proxy.name)
    peers = [p.ref for p in _peer_authentications(snapshot, proxy)]
    services = snapshot.services_selecting(proxy.name.namespace, proxy.labels)
    for port in proxy.inbound:
        declared = list(_declared(services, port, pod))
        cluster = clusters.inbound(port, speaks_h2=any(clusters.is_http2(p) for _, p in declared))
        draft.put(TypeUrl.CLUSTER, inbound_cluster_name(port.port), cluster, [ref])
        if not port.listen:
            continue
        mode = policies.mtls_mode(snapshot, proxy, port.port)
        listener = listeners.inbound_listener(proxy, port, mode, snapshot.settings, patches=patches)
        sources = [ref, *peers, *patches.sources]
        draft.put(TypeUrl.LISTENER, listener.name, listener, sources)
        for service, service_port in declared:
            draft.report(service.ref, _protocol_problems(service, service_port))


def _peer_authentications(snapshot: Snapshot, proxy: Proxy) -> Iterator[policies.AnyPolicy]:
    for namespace in dict.fromkeys((snapshot.settings.root_namespace, proxy.name.namespace)):
        yield from snapshot.peer_authentications(namespace)


def _declared(
    services: Iterable[core.Service], port: InboundPort, pod: core.Pod | None
) -> Iterator[tuple[core.Service, core.ServicePort]]:
    """Yield the Service ports that lead to a port of the workload."""
    container_ports = {p.name: p.container_port for c in _containers(pod) for p in c.ports}
    for service in services:
        for service_port in service.spec.ports:
            target = service_port.target_port
            if isinstance(target, str):
                target = container_ports.get(target)
            if (service_port.port if target is None else target) == port.port:
                yield service, service_port


def _containers(pod: core.Pod | None) -> tuple[core.Container, ...]:
    return pod.spec.containers if pod else ()


def _protocol_problems(service: core.Service, port: core.ServicePort) -> Iterator[Problem]:
    declared = (port.app_protocol or port.name.partition("-")[0]).lower()
    if declared in _NOT_HTTP:
        index = service.spec.ports.index(port)
        yield Problem(
            SPEC / "ports" / index,
            Reason.NOT_IMPLEMENTED,
            f"A sidecar of the local engine speaks HTTP; port {port.port} is declared as "
            f"{declared}, and what is not HTTP is refused.",
            'Set sidecar.istio.io/inject: "false" on the Pods, or name the port http.',
            Severity.WARNING,
        )


def _put_outbound(draft: Draft, snapshot: Snapshot, proxy: Proxy, port: int, memo: Memo) -> None:
    listener = listeners.outbound_listener(port, snapshot.settings)
    pod = snapshot.pods.get(proxy.name)
    draft.put(TypeUrl.LISTENER, listener.name, listener, [pod.ref] if pod else [])
    sources: set[ObjectRef] = set()
    upstreams: dict[Upstream, None] = {}
    vhosts: list[route_pb2.VirtualHost] = []
    ruled = _ruled_services(snapshot)
    for service in snapshot.services.values():
        sources.add(service.ref)
        rules = ruled.get(names.service_host(service.object_name))
        emitted = routes.emit(rules, snapshot, memo) if rules else None
        if rules and emitted:
            sources.add(rules.ref)
            draft.report(rules.ref, emitted.problems)
        for service_port in service.spec.ports:
            upstream, host = _service_host(proxy, service, service_port, emitted, memo)
            vhosts.append(host)
            upstreams |= dict.fromkeys(emitted.upstreams if emitted else [upstream])
    name = listeners.OUTBOUND_ROUTE
    draft.put(TypeUrl.ROUTE, name, routes.table(name, vhosts, any_port=False), sources)
    put_clusters(draft, snapshot, upstreams, memo)


def _ruled_services(snapshot: Snapshot) -> dict[str, networking.VirtualService]:
    """Return which VirtualService rules the calls to a Service: the oldest that names it."""
    ruled: dict[str, networking.VirtualService] = {}
    for rules in snapshot.mesh_virtual_services:
        for host in rules.spec.hosts:
            service = snapshot.service(host, rules.metadata.namespace)
            if service is not None:
                ruled.setdefault(names.service_host(service.object_name), rules)
    return ruled


def _service_host(
    proxy: Proxy,
    service: core.Service,
    port: core.ServicePort,
    emitted: Emitted | None,
    memo: Memo,
) -> tuple[Upstream, route_pb2.VirtualHost]:
    host = names.service_host(service.object_name)
    upstream = Upstream(cluster_name(host, port.port), service.object_name, port.port)
    own_namespace = service.metadata.namespace == proxy.name.namespace

    def make() -> route_pb2.VirtualHost:
        called = hosts.aliases(service.object_name, seen_from=proxy.name.namespace)
        domains = [f"{name}:{port.port}" for name in called]
        if port.port == _HTTP_PORT:
            domains += called
        return routes.virtual_host(
            host, port.port, [emitted or routes.straight_to(upstream)], domains=domains
        )

    # With a VirtualService the routes are not known by a value, and are put together each time.
    return upstream, make() if emitted else memo(("outbound", upstream, own_namespace), make)
