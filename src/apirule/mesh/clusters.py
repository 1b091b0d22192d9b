"""Clusters and their endpoints: Services as a proxy calls them, applications behind a sidecar.

A call to a workload with a sidecar is mutual TLS to exactly the identities the Service's Pods
have, and HTTP/2; a call to one without is plain. A Service may have both at once (a Pod that
opted out): then each endpoint says what it takes, and the cluster speaks HTTP/1.1, as Envoy has
one protocol per cluster.

A DestinationRule says otherwise: which TLS, which endpoints, which limits. One that cannot be
applied leaves its clusters without endpoints, so that calls are answered 503.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import address_pb2, base_pb2, protocol_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import UInt32Value

from apirule import names
from apirule.apis import core
from apirule.apis.meta import ObjectRef
from apirule.apis.security import PeerAuthentication
from apirule.apis.traffic import ClientTLSSettings, DestinationRule, TrafficSettings
from apirule.mesh import call_settings, durations, policies, tls, traffic
from apirule.mesh.destinations import cluster_name, inbound_cluster_name, is_http2
from apirule.mesh.memo import Memo
from apirule.mesh.packing import ads, pack
from apirule.mesh.policies import MTLSMode
from apirule.mesh.proxy import UNIX, InboundPort
from apirule.mesh.snapshot import ServiceEndpoint, Snapshot, selects, service_account
from apirule.mesh.traffic import Ruling

_CONNECT_TIMEOUT_S = 5.0
"""Loopback answers at once; this leaves room for a TLS handshake on a busy machine."""

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_MATCH_NAMESPACE = "envoy.transport_socket_match"
_MTLS_LABEL = {"tlsMode": "istio"}
_H2_STREAM_WINDOW = UInt32Value(value=1024 * 1024)
_H2_CONNECTION_WINDOW = UInt32Value(value=4 * 1024 * 1024)


class Place(msgspec.Struct, frozen=True):
    """Where one endpoint listens and whether it must be spoken to with mutual TLS."""

    address: str
    port: int
    is_mtls: bool
    weight: int = 0


class Call(msgspec.Struct, frozen=True):
    """How the endpoints of one cluster are called: everything its message depends on."""

    name: str
    sni: str
    speaks_h2: bool
    settings: TrafficSettings = traffic.NO_SETTINGS
    identities: tuple[str, ...] = ()
    """Who may answer by mutual TLS; empty: nobody is asked."""
    has_plain: bool = True
    """Whether some endpoint is called without it."""
    system_roots: str = ""
    """Of which file the CAs are that a server may have its certificate from."""


class OutboundCluster(msgspec.Struct, frozen=True):
    cluster: cluster_pb2.Cluster
    assignment: endpoint_pb2.ClusterLoadAssignment | None
    """None where the cluster has its endpoints in itself."""
    sources: frozenset[ObjectRef]
    """What the endpoints come from, and the cluster with them."""
    cluster_sources: frozenset[ObjectRef]
    """What the cluster alone comes from."""
    rule: DestinationRule | None = None
    client_tls: ClientTLSSettings | None = None
    """What the rule says of TLS; None as well where the cluster is closed."""


def outbound(
    snapshot: Snapshot,
    service: core.Service,
    port: core.ServicePort,
    memo: Memo,
    *,
    subset: str = "",
    caller: str = "",
    only_sidecars: bool = False,
) -> OutboundCluster:
    """Return how a Service port is called from a namespace.

    ``only_sidecars`` leaves out what no sidecar stands before. Shared with other proxies: never
    change the messages.
    """
    host = names.service_host(service.object_name)
    home = service.metadata.namespace
    ruling = traffic.ruling(
        snapshot, host, port=port.port, subset=subset, home=home, caller=caller or home
    ) or Ruling(closed=True)
    rule = ruling.rule.ref if ruling.rule else None
    return snapshot.memo(
        ("outbound", service.object_name, port, subset, rule, only_sidecars),
        lambda: _outbound(
            snapshot,
            service,
            port,
            memo,
            subset=subset,
            ruling=ruling,
            endpoints=[
                endpoint
                for endpoint in snapshot.endpoints(service, port)
                if _is_of(ruling, endpoint) and (endpoint.proxy or not only_sidecars)
            ],
        ),
    )


def _outbound(
    snapshot: Snapshot,
    service: core.Service,
    port: core.ServicePort,
    memo: Memo,
    *,
    subset: str,
    ruling: Ruling,
    endpoints: Sequence[ServiceEndpoint],
) -> OutboundCluster:
    client_tls = ruling.settings.tls
    places = tuple(
        dict.fromkeys(
            Place(e.address, e.port, _takes_mtls(snapshot, e, client_tls)) for e in endpoints
        )
    )
    identities, has_plain = _callees(snapshot, service, endpoints, places)
    if client_tls is not None:
        identities, has_plain = identities_for(client_tls, identities)
    host = names.service_host(service.object_name)
    call = Call(
        cluster_name(host, port.port, subset),
        sni=sni_of(host, port.port, subset, client_tls),
        speaks_h2=is_http2(port),
        settings=ruling.settings,
        identities=identities,
        has_plain=has_plain,
        system_roots=snapshot.settings.system_roots,
    )
    return assigned(
        call,
        places,
        memo,
        owner=service.ref,
        slices=[e.slice for e in endpoints],
        ruling=ruling,
    )


def assigned(
    call: Call,
    places: tuple[Place, ...],
    memo: Memo,
    *,
    owner: ObjectRef,
    slices: Iterable[ObjectRef] = (),
    ruling: Ruling,
) -> OutboundCluster:
    """Return a cluster whose endpoints are known, by a message of their own."""
    if ruling.closed or nobody_may_answer(call):
        places = ()
    cluster_sources = frozenset([owner, *([ruling.rule.ref] if ruling.rule else [])])
    if ruling.closed:
        cluster = closed(call.name)
    else:
        cluster = memo(("cluster", call), lambda: _assigned_cluster(call))
    return OutboundCluster(
        cluster,
        memo(("endpoints", call.name, places), lambda: assignment_of(call.name, places)),
        sources=cluster_sources.union(slices),
        cluster_sources=cluster_sources,
        rule=ruling.rule,
        client_tls=None if ruling.closed else call.settings.tls,
    )


def closed(name: str) -> cluster_pb2.Cluster:
    """Return a cluster that nobody can be reached through: calls are answered 503."""
    return _assigned_cluster(Call(name, sni="", speaks_h2=False))


def identities_for(
    settings: ClientTLSSettings, identities: tuple[str, ...]
) -> tuple[tuple[str, ...], bool]:
    """Return who may answer where a rule decides on TLS, and whether endpoints are plain."""
    if settings.mode != "ISTIO_MUTUAL":
        return (), True
    return settings.subject_alt_names or identities, False


def nobody_may_answer(call: Call) -> bool:
    """Whether mutual TLS is asked for with nobody: then nothing is sent, least in plain text."""
    return not call.has_plain and not call.identities


def _is_of(ruling: Ruling, endpoint: ServiceEndpoint) -> bool:
    """Whether an endpoint belongs to the subset."""
    if not ruling.labels:
        return True
    return endpoint.pod is not None and selects(dict(ruling.labels), endpoint.pod.labels)


def sni_of(host: str, port: int, subset: str, settings: ClientTLSSettings | None) -> str:
    if settings is not None and settings.sni:
        return settings.sni
    return f"outbound_.{port}_.{subset}_.{host}"


def inbound(port: InboundPort, *, speaks_h2: bool) -> cluster_pb2.Cluster:
    """Return the application behind a port of the workload."""
    name = inbound_cluster_name(port.port)
    address, number = _split(port.app)
    cluster = _cluster(Call(name, sni="", speaks_h2=speaks_h2), speaks_h2=speaks_h2)
    cluster.type = cluster_pb2.Cluster.STATIC
    cluster.load_assignment.CopyFrom(assignment_of(name, (Place(address, number, False),)))
    return cluster


def _takes_mtls(
    snapshot: Snapshot, endpoint: ServiceEndpoint, settings: ClientTLSSettings | None
) -> bool:
    if settings is not None:
        return settings.mode == "ISTIO_MUTUAL"
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


def _assigned_cluster(call: Call) -> cluster_pb2.Cluster:
    cluster = called(call)
    cluster.type = cluster_pb2.Cluster.EDS
    cluster.eds_cluster_config.CopyFrom(cluster_pb2.Cluster.EdsClusterConfig(eds_config=ads()))
    return cluster


def called(call: Call) -> cluster_pb2.Cluster:
    """Return the cluster but for where its endpoints come from."""
    is_mtls_only = bool(call.identities) and not call.has_plain
    speaks_h2 = call.speaks_h2 or is_mtls_only
    cluster = _cluster(call, speaks_h2=speaks_h2)
    call_settings.apply(cluster, call.settings)
    protocol = "h2" if speaks_h2 else "http/1.1"
    settings = call.settings.tls
    if settings is not None and settings.mode in ("SIMPLE", "MUTUAL"):
        socket = tls.to_server(settings, protocols=(protocol,), system_roots=call.system_roots)
        cluster.transport_socket.CopyFrom(socket)
    if not call.identities:
        return cluster
    socket = tls.between_proxies(identities=call.identities, sni=call.sni, protocols=(protocol,))
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


def _cluster(call: Call, *, speaks_h2: bool) -> cluster_pb2.Cluster:
    return cluster_pb2.Cluster(
        name=call.name,
        connect_timeout=durations.seconds(_CONNECT_TIMEOUT_S),
        circuit_breakers=call_settings.thresholds(call.settings),
        typed_extension_protocol_options={
            _HTTP_OPTIONS: pack(_http_options(call, speaks_h2=speaks_h2))
        },
    )


def _http_options(call: Call, *, speaks_h2: bool) -> http_protocol_options_pb2.HttpProtocolOptions:
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
    common = call_settings.http_options(call.settings)
    if common is not None:
        options.common_http_protocol_options.CopyFrom(common)
    settings = call.settings.tls
    if settings is not None and settings.mode in ("SIMPLE", "MUTUAL"):
        # Where the rule does not say whom it asks for, that is the host of the request.
        options.upstream_http_protocol_options.auto_sni = not settings.sni
        options.upstream_http_protocol_options.auto_san_validation = not (
            settings.sni or settings.subject_alt_names or settings.insecure_skip_verify
        )
    return options


def assignment_of(name: str, places: tuple[Place, ...]) -> endpoint_pb2.ClusterLoadAssignment:
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
    if place.weight:
        endpoint.load_balancing_weight.value = place.weight
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
