"""What a sidecar is told: the ports of its workload, and how to call every Service."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from envoy.config.route.v3 import route_components_pb2 as route_pb2

from apirule import names
from apirule.apis import core, networking
from apirule.apis.meta import ObjectRef
from apirule.mesh import (
    callees,
    clusters,
    destinations,
    entries,
    envoy_filters,
    hosts,
    listeners,
    policies,
    routes,
)
from apirule.mesh.config import TypeUrl
from apirule.mesh.destinations import Upstream, inbound_cluster_name, is_http2
from apirule.mesh.draft import Draft
from apirule.mesh.envoy_filters import Patches
from apirule.mesh.inner_rules import inner_rules
from apirule.mesh.memo import Memo
from apirule.mesh.proxy import InboundPort, Proxy
from apirule.mesh.route_match import Caller
from apirule.mesh.routes import Emitted
from apirule.mesh.snapshot import MESH, Snapshot
from apirule.problem import SPEC, Problem, Reason, Severity

_HTTP_PORT = 80
_IPV4 = 4
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
        cluster = clusters.inbound(port, speaks_h2=any(is_http2(p) for _, p in declared))
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
    calls = _Calls(draft, snapshot, proxy, memo)
    for service in snapshot.services.values():
        host = names.service_host(service.object_name)
        called = hosts.aliases(service.object_name, seen_from=proxy.name.namespace)
        called += _cluster_ip(service)
        calls.put(host, service.ref, [p.port for p in service.spec.ports], called)
    for host, entry in entries.hosts_seen_from(snapshot, proxy.name.namespace).items():
        calls.put(host, entry.ref, [p.number for p in entry.spec.ports], (host,))
    calls.put_unregistered()
    table = routes.table(listeners.OUTBOUND_ROUTE, calls.vhosts, any_port=False)
    sources = calls.sources | {u.rule for u in calls.upstreams if u.rule}
    draft.put(TypeUrl.ROUTE, listeners.OUTBOUND_ROUTE, table, sources)
    callees.put(draft, snapshot, proxy, calls.upstreams, memo)


def _cluster_ip(service: core.Service) -> tuple[str, ...]:
    try:
        address = ipaddress.ip_address(service.spec.cluster_ip)
    except ValueError:
        return ()
    return (str(address) if address.version == _IPV4 else f"[{address}]",)


class _Calls:
    """The virtual hosts an application calls, and what their routes name."""

    def __init__(self, draft: Draft, snapshot: Snapshot, proxy: Proxy, memo: Memo) -> None:
        self.vhosts: list[route_pb2.VirtualHost] = []
        self.sources: set[ObjectRef] = set()
        self.upstreams: dict[Upstream, None] = {}
        self._draft = draft
        self._snapshot = snapshot
        self._proxy = proxy
        self._memo = memo
        self._rules = inner_rules(snapshot)
        self._registered: set[str] = set()
        self._called: set[str] = set()
        """All names so far; Envoy takes no table in which one stands twice."""

    def put(self, host: str, ref: ObjectRef, ports: list[int], called: tuple[str, ...]) -> None:
        """Add a host with all its ports, under the names it is ``called`` by."""
        self.sources.add(ref)
        self._registered.add(host)
        rules = self._rules.of(host)
        called = self._new(called)
        if rules is not None:
            self.sources.add(rules.ref)
        for port in ports:
            if rules is None:
                self._straight(host, port, called)
            else:
                self._routed(rules, host, port, called)

    def put_unregistered(self) -> None:
        """Add the hosts that only a VirtualService names."""
        for host, rules in self._rules.by_host.items():
            if any(hosts.covers(host, known) for known in self._registered):
                continue
            self.sources.add(rules.ref)
            service = hosts.service_of(host)
            namespace = self._proxy.name.namespace
            called = hosts.aliases(service, seen_from=namespace) if service else (host,)
            self._routed(rules, host, _HTTP_PORT, self._new(called))

    def _new(self, called: tuple[str, ...]) -> tuple[str, ...]:
        new = tuple(name for name in called if name not in self._called)
        self._called |= set(new)
        return new

    def _straight(self, host: str, port: int, called: tuple[str, ...]) -> None:
        destination = networking.Destination(host=host, port=networking.PortSelector(number=port))
        namespace = self._proxy.name.namespace
        upstream = destinations.resolve(
            self._snapshot, destination, namespace=namespace, caller=namespace
        )
        # The names depend on the namespace, and so decide which virtual host it is.
        self.vhosts.append(
            self._memo(
                ("outbound", upstream, called),
                lambda: _virtual_host(host, port, routes.straight_to(upstream), called),
            )
        )
        self.upstreams[upstream] = None

    def _routed(
        self, rules: networking.VirtualService, host: str, port: int, called: tuple[str, ...]
    ) -> None:
        caller = Caller(
            namespace=self._proxy.name.namespace,
            gateways=frozenset({MESH}),
            port=port,
            labels=self._proxy.labels,
        )
        emitted = routes.emit(rules, self._snapshot, self._memo, caller)
        self._draft.report(rules.ref, emitted.problems)
        # With a VirtualService the routes are not known by a value: put together each time.
        self.vhosts.append(_virtual_host(host, port, emitted, called))
        self.upstreams |= dict.fromkeys(emitted.upstreams)


def _virtual_host(
    host: str, port: int, emitted: Emitted, called: tuple[str, ...]
) -> route_pb2.VirtualHost:
    domains = [f"{name}:{port}" for name in called]
    if port == _HTTP_PORT:
        domains += called
    return routes.virtual_host(host, port, [emitted], domains=domains)
