"""Istio's mesh configuration: the external authorizers that policies name.

It is YAML inside a ConfigMap. Of an authorizer, a field that stands here is implemented by the
local engine; one that has others cannot be asked, and what needs its consent is refused.
"""

from __future__ import annotations

from apirule.apis.meta import Wire


class RequestBody(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    max_request_bytes: int = 0
    allow_partial_message: bool = False
    pack_as_bytes: bool = False


class ExtAuthzHttp(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An authorizer that answers a copy of the request: 200 lets it in."""

    service: str = ""
    """``[NAMESPACE/]HOST``."""
    port: int = 0
    timeout: str = ""
    path_prefix: str = ""
    fail_open: bool = False
    clear_route_cache: bool = False
    status_on_error: str = ""
    include_headers_in_check: tuple[str, ...] = ()
    """The old name of ``includeRequestHeadersInCheck``, which wins."""
    include_request_headers_in_check: tuple[str, ...] = ()
    include_additional_headers_in_check: dict[str, str] | None = None
    include_request_body_in_check: RequestBody | None = None
    headers_to_upstream_on_allow: tuple[str, ...] = ()
    headers_to_downstream_on_allow: tuple[str, ...] = ()
    headers_to_downstream_on_deny: tuple[str, ...] = ()


class ExtAuthzGrpc(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An authorizer that serves ``envoy.service.auth.v3.Authorization``."""

    service: str = ""
    port: int = 0
    timeout: str = ""
    fail_open: bool = False
    clear_route_cache: bool = False
    status_on_error: str = ""
    include_request_body_in_check: RequestBody | None = None


class ExtensionProvider(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """At most one of the two; neither in a provider of telemetry."""

    name: str
    envoy_ext_authz_http: ExtAuthzHttp | None = None
    envoy_ext_authz_grpc: ExtAuthzGrpc | None = None
