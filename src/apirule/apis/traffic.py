"""Istio traffic: how a host is called (DestinationRule), and hosts besides Services (ServiceEntry).

A field that stands here is implemented by the local engine; ``scheme.unknown_fields`` finds the
others. An object with such a field closes the host it speaks of: calls are answered 503, because
without it they might go out unencrypted, or to somewhere else.
"""

from __future__ import annotations

from typing import ClassVar

from apirule.apis.meta import GroupVersionKind, Resource, Wire
from apirule.apis.networking import GROUP, IstioStatus, PortSelector


class HTTPCookie(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str
    path: str = ""
    ttl: str | None = None
    """How long a cookie lives that the proxy makes; absent: it makes none."""


class ConsistentHash(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Exactly one of the four says what keeps a client with one endpoint."""

    http_header_name: str = ""
    http_query_parameter_name: str = ""
    http_cookie: HTTPCookie | None = None
    use_source_ip: bool = False


class LoadBalancer(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    simple: str = ""
    consistent_hash: ConsistentHash | None = None


class TCPPool(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    max_connections: int = 0
    """0, as everywhere in a pool: Istio's default."""
    connect_timeout: str | None = None
    max_connection_duration: str | None = None


class HTTPPool(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    http1_max_pending_requests: int = 0
    http2_max_requests: int = 0
    max_requests_per_connection: int = 0
    max_retries: int = 0
    idle_timeout: str | None = None


class ConnectionPool(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    tcp: TCPPool | None = None
    http: HTTPPool | None = None


class OutlierDetection(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    consecutive5xx_errors: int | None = None
    consecutive_gateway_errors: int | None = None
    interval: str | None = None
    base_ejection_time: str | None = None
    max_ejection_percent: int = 0
    min_health_percent: int = 0


class ClientTLSSettings(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Certificates come from a Secret beside the proxy, never from files."""

    mode: str = "DISABLE"
    credential_name: str = ""
    subject_alt_names: tuple[str, ...] = ()
    sni: str = ""
    insecure_skip_verify: bool = False


class TrafficSettings(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLSSettings | None = None


class PortTrafficPolicy(TrafficSettings, frozen=True, kw_only=True, rename="camel"):
    """Replaces the settings of the whole host for one port; what is absent here is a default."""

    port: PortSelector


class TrafficPolicy(TrafficSettings, frozen=True, kw_only=True, rename="camel"):
    port_level_settings: tuple[PortTrafficPolicy, ...] = ()


class Subset(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The endpoints with all these labels; its policy goes before that of the host."""

    name: str
    labels: dict[str, str] | None = None
    traffic_policy: TrafficPolicy | None = None


class DestinationRuleSpec(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    host: str = ""
    traffic_policy: TrafficPolicy | None = None
    subsets: tuple[Subset, ...] = ()
    export_to: tuple[str, ...] = ()
    """``*`` or nothing: all namespaces; ``.``: its own; else their names."""


class DestinationRule(Resource, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    gvk: ClassVar = GroupVersionKind(GROUP, "v1beta1", "DestinationRule")
    spec: DestinationRuleSpec = DestinationRuleSpec()
    status: IstioStatus = IstioStatus()


class EntryPort(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    number: int
    protocol: str = "HTTP"
    name: str
    target_port: int = 0
    """Where the endpoints listen; 0: the same number."""


class EntryEndpoint(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    address: str
    """An IP address, a DNS name (resolution DNS), or ``unix:///path`` (resolution STATIC)."""
    ports: dict[str, int] | None = None
    """By the name of the port."""
    labels: dict[str, str] | None = None
    weight: int = 0


class ServiceEntrySpec(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    hosts: tuple[str, ...] = ()
    location: str = "MESH_EXTERNAL"
    resolution: str = "NONE"
    ports: tuple[EntryPort, ...] = ()
    endpoints: tuple[EntryEndpoint, ...] = ()
    export_to: tuple[str, ...] = ()
    subject_alt_names: tuple[str, ...] = ()
    """Who may answer, where a DestinationRule asks for TLS and names nobody itself."""


class ServiceEntry(Resource, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    gvk: ClassVar = GroupVersionKind(GROUP, "v1beta1", "ServiceEntry")
    spec: ServiceEntrySpec = ServiceEntrySpec()
    status: IstioStatus = IstioStatus()
