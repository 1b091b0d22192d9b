"""Istio networking: what the gateway serves and where it sends it.

A field that stands here is implemented by the local engine; ``scheme.unknown_fields`` finds the
others, and the engine reports them on the object instead of ignoring them.
"""

from __future__ import annotations

from typing import ClassVar

from apirule.apis.meta import Condition, GroupVersionKind, Resource, Wire

GROUP = "networking.istio.io"


class IstioStatus(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Istio's own status form. ``Reconciled`` is True once every proxy concerned acknowledged."""

    conditions: tuple[Condition, ...] = ()
    observed_generation: int = 0


class StringMatch(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Exactly one of the three; a regular expression (RE2) matches the whole value."""

    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None


class HTTPMatchRequest(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    uri: StringMatch | None = None
    method: StringMatch | None = None
    headers: dict[str, StringMatch] | None = None
    """An empty StringMatch asks for presence."""
    without_headers: dict[str, StringMatch] | None = None
    query_params: dict[str, StringMatch] | None = None
    authority: StringMatch | None = None
    scheme: StringMatch | None = None
    ignore_uri_case: bool = False
    port: int = 0
    """The port the caller named: of the Gateway's server, or of the Service."""
    source_labels: dict[str, str] | None = None
    source_namespace: str = ""
    gateways: tuple[str, ...] = ()
    """Only for the routes of these Gateways; ``mesh`` means the sidecars."""


class PortSelector(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    number: int = 0


class Destination(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    host: str
    subset: str = ""
    """One that a DestinationRule for the host names."""
    port: PortSelector | None = None


class HeaderOperations(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    set: dict[str, str] | None = None
    add: dict[str, str] | None = None
    remove: tuple[str, ...] = ()


class Headers(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    request: HeaderOperations | None = None
    response: HeaderOperations | None = None


class HTTPRouteDestination(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    destination: Destination
    weight: int = 0
    headers: Headers | None = None


class Percent(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    value: float = 0.0


class HTTPMirrorPolicy(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Sends a copy of each request, whose answer nobody waits for; absent percentage: of all."""

    destination: Destination
    percentage: Percent | None = None


class FaultDelay(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    fixed_delay: str = ""
    percentage: Percent | None = None


class FaultAbort(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    http_status: int | None = None
    percentage: Percent | None = None


class HTTPFaultInjection(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    delay: FaultDelay | None = None
    abort: FaultAbort | None = None


class CorsPolicy(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    allow_origins: tuple[StringMatch, ...] = ()
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: str | None = None
    """A Go duration such as ``24h``."""
    allow_credentials: bool | None = None
    unmatched_preflights: str = ""
    """``IGNORE`` answers preflights of other origins; ``FORWARD``, the default, passes them on."""


class RegexRewrite(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    match: str
    rewrite: str = ""


class HTTPRewrite(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """``uri`` replaces the matched prefix (or the whole path of an exact match)."""

    uri: str = ""
    authority: str = ""
    uri_regex_rewrite: RegexRewrite | None = None


class HTTPRedirect(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    uri: str = ""
    authority: str = ""
    scheme: str = ""
    port: int | None = None
    redirect_code: int = 301


class HTTPBody(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    string: str = ""


class HTTPDirectResponse(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    status: int
    body: HTTPBody | None = None


class HTTPRetry(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """``attempts`` 0 switches retries off; without this message there are two."""

    attempts: int = 0
    per_try_timeout: str | None = None
    retry_on: str = ""


class HTTPRoute(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    match: tuple[HTTPMatchRequest, ...] = ()
    route: tuple[HTTPRouteDestination, ...] = ()
    redirect: HTTPRedirect | None = None
    direct_response: HTTPDirectResponse | None = None
    rewrite: HTTPRewrite | None = None
    retries: HTTPRetry | None = None
    timeout: str | None = None
    """A Go duration such as ``180s``."""
    headers: Headers | None = None
    cors_policy: CorsPolicy | None = None
    fault: HTTPFaultInjection | None = None
    mirror: Destination | None = None
    mirror_percentage: Percent | None = None
    mirrors: tuple[HTTPMirrorPolicy, ...] = ()


class VirtualServiceSpec(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    hosts: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    http: tuple[HTTPRoute, ...] = ()


class VirtualService(Resource, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    gvk: ClassVar = GroupVersionKind(GROUP, "v1beta1", "VirtualService")
    spec: VirtualServiceSpec = VirtualServiceSpec()
    status: IstioStatus = IstioStatus()


class Port(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    number: int
    """The port of the gateway's Service: 443 and 80, wherever the process listens."""
    protocol: str = "HTTP"
    name: str = ""


class ServerTLSSettings(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    https_redirect: bool = False
    mode: str = ""
    credential_name: str = ""
    credential_names: tuple[str, ...] = ()
    """Instead of the one: certificates of different kinds of keys, of which a client gets one."""
    min_protocol_version: str = ""
    max_protocol_version: str = ""
    cipher_suites: tuple[str, ...] = ()


class Server(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    port: Port
    hosts: tuple[str, ...] = ()
    tls: ServerTLSSettings | None = None
    name: str = ""


class GatewaySpec(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    selector: dict[str, str] | None = None
    servers: tuple[Server, ...] = ()


class Gateway(Resource, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    gvk: ClassVar = GroupVersionKind(GROUP, "v1beta1", "Gateway")
    spec: GatewaySpec = GatewaySpec()
    status: IstioStatus = IstioStatus()
