"""Clusters and their endpoints: Services as a proxy calls them, applications behind a sidecar.

A call to a workload with a sidecar is mutual TLS to exactly the identities the Service's Pods
have, and HTTP/2; a call to one without is plain. A Service may have both at once (a Pod that
opted out): then each endpoint says what it takes, and the cluster speaks HTTP/1.1, as Envoy has
one protocol per cluster.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2
from envoy.config.core.v3 import address_pb2, base_pb2, protocol_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import UInt32Value

from apirule import names
from apirule.apis import core
from apirule.apis.meta import ObjectRef
from apirule.apis.security import PeerAuthentication
from apirule.mesh import durations, policies, tls
from apirule.mesh.destinations import cluster_name, inbound_cluster_name
from apirule.mesh.memo import Memo
from apirule.mesh.packing import ads, pack
from apirule.mesh.policies import MTLSMode
from apirule.mesh.proxy import UNIX, InboundPort
from apirule.mesh.snapshot import ServiceEndpoint, Snapshot, service_account

_CONNECT_TIMEOUT_S = 5.0
"""Loopback answers at once; this leaves room for a TLS handshake on a busy machine."""

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_MATCH_NAMESPACE = "envoy.transport_socket_match"
_MTLS_LABEL = {"tlsMode": "istio"}
_UNLIMITED = UInt32Value(value=2**32 - 1)
_MAX_RETRIES = UInt32Value(value=1024)
_H2_STREAM_WINDOW = UInt32Value(value=1024 * 1024)
_H2_CONNECTION_WINDOW = UInt32Value(value=4 * 1024 * 1024)


@dataclass(frozen=True, slots=True)
class Place:
    """Where one endpoint listens and whether it must be spoken to with mutual TLS."""

    address: str
    port: int
    is_mtls: bool


@dataclass(frozen=True, slots=True)
class OutboundCluster:
    cluster: cluster_pb2.Cluster
    assignment: endpoint_pb2.ClusterLoadAssignment
    sources: frozenset[ObjectRef]


def outbound(
    snapshot: Snapshot, service: core.Service, port: core.ServicePort, memo: Memo
) -> OutboundCluster:
    """Return how a Service port is called. Shared with other proxies: never change the messages."""
    key = ("outbound", service.object_name, port)
    return snapshot.memo(key, lambda: _outbound(snapshot, service, port, memo))


def _outbound(
    snapshot: Snapshot, service: core.Service, port: core.ServicePort, memo: Memo
) -> OutboundCluster:
    endpoints = snapshot.endpoints(service, port)
    places = tuple(
        dict.fromkeys(Place(e.address, e.port, _takes_mtls(snapshot, e)) for e in endpoints)
    )
    identities, has_plain = _callees(snapshot, service, endpoints, places)
    host = names.service_host(service.object_name)
    name = cluster_name(host, port.port)
    cluster = memo(
        ("cluster", name, identities, has_plain, is_http2(port)),
        lambda: _outbound_cluster(
            name,
            sni=f"outbound_.{port.port}_._.{host}",
            identities=identities,
            has_plain=has_plain,
            speaks_h2=is_http2(port),
        ),
    )
    assignment = memo(("endpoints", name, places), lambda: _assignment(name, places))
    return OutboundCluster(
        cluster, assignment, frozenset([service.ref, *(e.slice for e in endpoints)])
    )


def inbound(port: InboundPort, *, speaks_h2: bool) -> cluster_pb2.Cluster:
    """Return the application behind a port of the workload."""
    name = inbound_cluster_name(port.port)
    address, number = _split(port.app)
    cluster = _cluster(name, speaks_h2=speaks_h2)
    cluster.type = cluster_pb2.Cluster.STATIC
    cluster.load_assignment.CopyFrom(_assignment(name, (Place(address, number, False),)))
    return cluster


def is_http2(port: core.ServicePort) -> bool:
    """Whether the application speaks HTTP/2 without TLS: appProtocol or Istio's port names."""
    declared = (port.app_protocol or port.name.partition("-")[0]).lower()
    return declared in ("http2", "grpc", "grpc-web", "kubernetes.io/h2c")


def _takes_mtls(snapshot: Snapshot, endpoint: ServiceEndpoint) -> bool:
    if endpoint.proxy is None:
        return False
    if not snapshot.of_kind(PeerAuthentication):
        return True  # the usual case, and there is an endpoint for every Service
    mode = policies.mtls_mode(snapshot, endpoint.proxy, endpoint.workload_port)
    return mode is not MTLSMode.DISABLE


def _callees(
    snapshot: Snapshot,
    service: core.Service,
    endpoints: Iterable[ServiceEndpoint],
    places: tuple[Place, ...],
) -> tuple[tuple[str, ...], bool]:
    """Return the identities that may answer, and whether some endpoint is plain.

    Pods that are not ready count too, so that a restart does not change the cluster.
    """
    selector = service.spec.selector
    selected = snapshot.pods_selected(service.metadata.namespace, selector) if selector else ()
    pods = {pod.object_name: pod for pod in (*selected, *(e.pod for e in endpoints if e.pod))}
    trust_domain = snapshot.settings.trust_domain
    identities = {
        service_account(pod, trust_domain) for pod in pods.values() if snapshot.sidecar(pod)
    }
    return tuple(sorted(identities)), any(not place.is_mtls for place in places)


def _outbound_cluster(
    name: str, *, sni: str, identities: tuple[str, ...], has_plain: bool, speaks_h2: bool
) -> cluster_pb2.Cluster:
    is_mtls_only = bool(identities) and not has_plain
    cluster = _cluster(name, speaks_h2=speaks_h2 or is_mtls_only)
    cluster.type = cluster_pb2.Cluster.EDS
    cluster.eds_cluster_config.CopyFrom(cluster_pb2.Cluster.EdsClusterConfig(eds_config=ads()))
    cluster.lb_policy = cluster_pb2.Cluster.LEAST_REQUEST
    if not identities:
        return cluster
    protocol = "h2" if speaks_h2 or is_mtls_only else "http/1.1"
    socket = tls.between_proxies(identities=identities, sni=sni, protocols=(protocol,))
    if is_mtls_only:
        cluster.transport_socket.CopyFrom(socket)
        return cluster
    cluster.transport_socket_matches.extend(
        [
            cluster_pb2.Cluster.TransportSocketMatch(
                name="mutual-tls", match=_struct(_MTLS_LABEL), transport_socket=socket
            ),
            cluster_pb2.Cluster.TransportSocketMatch(
                name="plain", match=Struct(), transport_socket=tls.plain()
            ),
        ]
    )
    return cluster


def _cluster(name: str, *, speaks_h2: bool) -> cluster_pb2.Cluster:
    explicit = http_protocol_options_pb2.HttpProtocolOptions.ExplicitHttpConfig()
    if speaks_h2:
        explicit.http2_protocol_options.CopyFrom(
            protocol_pb2.Http2ProtocolOptions(
                initial_stream_window_size=_H2_STREAM_WINDOW,
                initial_connection_window_size=_H2_CONNECTION_WINDOW,
            )
        )
    else:
        explicit.http_protocol_options.CopyFrom(protocol_pb2.Http1ProtocolOptions())
    options = http_protocol_options_pb2.HttpProtocolOptions(explicit_http_config=explicit)
    return cluster_pb2.Cluster(
        name=name,
        connect_timeout=durations.seconds(_CONNECT_TIMEOUT_S),
        # Envoy's 1024 would turn a burst into 503s of the proxy; the application has its own limit.
        circuit_breakers=circuit_breaker_pb2.CircuitBreakers(
            thresholds=[
                circuit_breaker_pb2.CircuitBreakers.Thresholds(
                    max_connections=_UNLIMITED,
                    max_pending_requests=_UNLIMITED,
                    max_requests=_UNLIMITED,
                    max_retries=_MAX_RETRIES,
                )
            ]
        ),
        typed_extension_protocol_options={_HTTP_OPTIONS: pack(options)},
    )


def _assignment(name: str, places: tuple[Place, ...]) -> endpoint_pb2.ClusterLoadAssignment:
    return endpoint_pb2.ClusterLoadAssignment(
        cluster_name=name,
        endpoints=[
            endpoint_components_pb2.LocalityLbEndpoints(
                lb_endpoints=[_endpoint(place) for place in places]
            )
        ]
        if places
        else [],
    )


def _endpoint(place: Place) -> endpoint_components_pb2.LbEndpoint:
    endpoint = endpoint_components_pb2.LbEndpoint(
        endpoint=endpoint_components_pb2.Endpoint(address=_address(place.address, place.port))
    )
    if place.is_mtls:
        metadata = base_pb2.Metadata(filter_metadata={_MATCH_NAMESPACE: _struct(_MTLS_LABEL)})
        endpoint.metadata.CopyFrom(metadata)
    return endpoint


def _address(address: str, port: int) -> address_pb2.Address:
    if address.startswith(UNIX):
        return address_pb2.Address(pipe=address_pb2.Pipe(path=address.removeprefix(UNIX)))
    return address_pb2.Address(
        socket_address=address_pb2.SocketAddress(address=address, port_value=port)
    )


def _split(app: str) -> tuple[str, int]:
    if app.startswith(UNIX):
        return app, 0
    address, _, port = app.rpartition(":")
    return address.strip("[]"), int(port)


def _struct(values: dict[str, str]) -> Struct:
    struct = Struct()
    struct.update(values)
    return struct
