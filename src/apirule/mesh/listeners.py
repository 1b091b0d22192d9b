"""Listeners: where a proxy can be reached, and which filter chain a connection gets.

A gateway has one listener per port: plain HTTP with one chain, or TLS with one chain per server,
chosen by the name the client asks for (SNI). A sidecar has one listener per port of its workload,
whose chains say whether a caller must, may or cannot show who it is, and one listener through
which the application calls others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from envoy.config.core.v3 import address_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from apirule.apis import networking
from apirule.mesh import connection_manager, durations, security, server_tls, tls
from apirule.mesh.config import MeshSettings
from apirule.mesh.destinations import inbound_cluster_name
from apirule.mesh.envoy_filters import Patches
from apirule.mesh.gateways import BoundServer
from apirule.mesh.packing import pack
from apirule.mesh.policies import MTLSMode
from apirule.mesh.proxy import InboundPort, Proxy

LOOPBACK = "127.0.0.1"
OUTBOUND_ROUTE = "http_proxy"
_NO_PATCHES = Patches()
_PER_CONNECTION_BUFFER = UInt32Value(value=64 * 1024)
_LISTENER_FILTERS_TIMEOUT_S = 5.0
_INBOUND_RETRY = route_components_pb2.RetryPolicy(
    # The application may close an idle connection just when a request is sent on it. Neither case
    # has reached the application, so trying again is safe for every method.
    retry_on="connect-failure,reset-before-request",
    num_retries=UInt32Value(value=2),
)


def gateway_listener(
    proxy: Proxy,
    port: int,
    servers: Sequence[BoundServer],
    client_cas: Mapping[str, str],
    settings: MeshSettings,
    *,
    patches: Patches = _NO_PATCHES,
) -> listener_pb2.Listener:
    """Return the listener of one port; ``client_cas`` names the CA secret of each MUTUAL server."""
    is_tls = servers[0].is_tls
    listener = _listener(f"gateway_{port}", settings.gateway_address, port)
    if not is_tls:
        # All HTTP servers of a port share one table.
        listener.filter_chains.append(_gateway_chain(proxy, servers[0], settings, patches))
        return listener
    listener.listener_filters.append(_tls_inspector())
    for server in servers:
        chain = _gateway_chain(proxy, server, settings, patches)
        names = [host for host in server.hosts if host != "*"]
        if len(names) == len(server.hosts):
            chain.filter_chain_match.server_names.extend(sorted(names))
        asked = server.server.tls or networking.ServerTLSSettings()
        chain.transport_socket.CopyFrom(
            tls.from_clients(
                [tls.credential_name(name) for name in server_tls.credentials(asked)],
                client_ca=client_cas.get(server.route_name, ""),
                parameters=server_tls.parameters(asked),
            )
        )
        listener.filter_chains.append(chain)
    return listener


def inbound_listener(
    proxy: Proxy,
    port: InboundPort,
    mode: MTLSMode,
    settings: MeshSettings,
    *,
    patches: Patches = _NO_PATCHES,
) -> listener_pb2.Listener:
    """Return the listener before one port of the workload."""
    listener = _listener(f"inbound_{port.port}", LOOPBACK, port.listen)
    manager = connection_manager.at_workload(
        f"inbound_{port.port}",
        patches.on_routes(_inbound_routes(port.port)),
        security.http_filters(proxy, port.port),
        settings,
        patches.filters,
    )
    match mode:
        case MTLSMode.STRICT:
            chains = [_mutual_chain(manager, settings, alpn=())]
        case MTLSMode.PERMISSIVE:
            chains = [
                _mutual_chain(manager, settings, alpn=(tls.MESH_ALPN,)),
                _plain_chain(manager),
            ]
        case MTLSMode.DISABLE:
            chains = [_plain_chain(manager)]
    listener.filter_chains.extend(chains)
    # Without the inspector no connection is TLS, and those that are get no chain.
    listener.listener_filters.append(_tls_inspector())
    return listener


def outbound_listener(port: int, settings: MeshSettings) -> listener_pb2.Listener:
    """Return the HTTP proxy of the application."""
    listener = _listener("outbound", LOOPBACK, port)
    manager = connection_manager.as_http_proxy(OUTBOUND_ROUTE, settings)
    listener.filter_chains.append(listener_components_pb2.FilterChain(filters=[manager]))
    return listener


def _listener(name: str, address: str, port: int) -> listener_pb2.Listener:
    return listener_pb2.Listener(
        name=name,
        address=address_pb2.Address(
            socket_address=address_pb2.SocketAddress(address=address, port_value=port)
        ),
        # Else two Envoys of one user could listen on one port, each taking some of the requests.
        enable_reuse_port=BoolValue(value=False),
        per_connection_buffer_limit_bytes=_PER_CONNECTION_BUFFER,
        listener_filters_timeout=durations.seconds(_LISTENER_FILTERS_TIMEOUT_S),
    )


def _gateway_chain(
    proxy: Proxy, server: BoundServer, settings: MeshSettings, patches: Patches
) -> listener_components_pb2.FilterChain:
    manager = connection_manager.at_gateway(
        server.route_name,
        security.http_filters(proxy, server.container_port),
        settings,
        patches.filters,
    )
    return listener_components_pb2.FilterChain(name=server.route_name, filters=[manager])


def _mutual_chain(
    manager: listener_components_pb2.Filter, settings: MeshSettings, *, alpn: Sequence[str]
) -> listener_components_pb2.FilterChain:
    return listener_components_pb2.FilterChain(
        name="mutual-tls",
        filter_chain_match=listener_components_pb2.FilterChainMatch(
            transport_protocol="tls", application_protocols=alpn
        ),
        transport_socket=tls.from_proxies(settings.trust_domains),
        filters=[manager],
    )


def _plain_chain(manager: listener_components_pb2.Filter) -> listener_components_pb2.FilterChain:
    return listener_components_pb2.FilterChain(
        name="plain",
        filter_chain_match=listener_components_pb2.FilterChainMatch(
            transport_protocol="raw_buffer"
        ),
        filters=[manager],
    )


def _inbound_routes(port: int) -> route_pb2.RouteConfiguration:
    name = inbound_cluster_name(port)
    route = route_components_pb2.Route(
        name="default",
        match=route_components_pb2.RouteMatch(prefix="/"),
        route=route_components_pb2.RouteAction(
            cluster=name, timeout=durations.NONE, retry_policy=_INBOUND_RETRY
        ),
    )
    return route_pb2.RouteConfiguration(
        name=name,
        virtual_hosts=[
            route_components_pb2.VirtualHost(
                name=f"inbound|http|{port}", domains=["*"], routes=[route]
            )
        ],
    )


def _tls_inspector() -> listener_components_pb2.ListenerFilter:
    return listener_components_pb2.ListenerFilter(
        name="envoy.filters.listener.tls_inspector",
        typed_config=pack(tls_inspector_pb2.TlsInspector()),
    )
