"""External authorizers: what a CUSTOM policy names, found in the mesh configuration.

An authorizer is a Service of the mesh, called like any other one: with mutual TLS if it has a
sidecar. One that cannot be found or understood has a fault; what asks for its consent is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta

import msgspec
from envoy.config.core.v3.base_pb2 import HeaderValue
from envoy.config.core.v3.grpc_service_pb2 import GrpcService
from envoy.config.core.v3.http_uri_pb2 import HttpUri
from envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import (
    AuthorizationRequest,
    AuthorizationResponse,
    BufferSettings,
    ExtAuthz,
    HttpService,
)
from envoy.type.matcher.v3.string_pb2 import ListStringMatcher
from envoy.type.v3.http_status_pb2 import HttpStatus, StatusCode

from apirule import names
from apirule.apis import core
from apirule.apis.mesh_config import ExtAuthzGrpc, ExtAuthzHttp, RequestBody
from apirule.apis.security import AuthorizationPolicy
from apirule.mesh import durations, hosts, matchers
from apirule.mesh.destinations import Upstream, cluster_name, is_http2, port_of
from apirule.mesh.snapshot import Snapshot
from apirule.names import ObjectName
from apirule.problem import SPEC, Problem, Reason
from apirule.providers import CONFIG_MAP, FIELD, KEY

TIMEOUT = timedelta(seconds=5)
"""How long a request waits for an answer by default. Istio's ten minutes would hold it for ever."""

_PATH_PREFIX = re.compile(r"/[!-~]*")
_NOT_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class Unusable(ValueError):  # noqa: N818 - it says what the authorizer is
    """An authorizer cannot be asked. The message is a sentence about it."""


class Authorizer(msgspec.Struct, frozen=True):
    """``config`` lacks the condition under which it is asked."""

    name: str
    upstream: Upstream
    config: ExtAuthz


def problem(snapshot: Snapshot, policy: AuthorizationPolicy) -> Problem | None:
    """Return what keeps the authorizer of a CUSTOM policy from being asked."""
    try:
        of_policy(snapshot, policy)
    except Unusable as error:
        return Problem(
            SPEC / "provider" / "name",
            Reason.INVALID,
            f"{error} What the policy speaks of is refused.",
            f"Correct {FIELD} of the key {KEY} in ConfigMap {CONFIG_MAP}.",
        )
    return None


def of_policy(snapshot: Snapshot, policy: AuthorizationPolicy) -> Authorizer:
    """Return whom a CUSTOM policy asks. Unusable: nobody can be asked."""
    name = provider_name(policy)
    found = snapshot.memo(("authorizer", name), lambda: _found(snapshot, name))
    if isinstance(found, Authorizer):
        return found
    raise Unusable(found)


def provider_name(policy: AuthorizationPolicy) -> str:
    return policy.spec.provider.name if policy.spec.provider is not None else ""


def _found(snapshot: Snapshot, name: str) -> Authorizer | str:
    providers = snapshot.providers
    if providers.fault is not None:
        return str(providers.fault)
    provider = providers.by_name.get(name)
    if provider is None:
        return f"The mesh configuration knows no authorizer {name!r}."
    if provider.config is None:
        fault = provider.fault or "It is a provider of another kind."
        return f"Authorizer {name!r} cannot be used: {fault}"
    try:
        match provider.config:
            case ExtAuthzHttp():
                return _http(snapshot, name, provider.config)
            case ExtAuthzGrpc():
                return _grpc(snapshot, name, provider.config)
    except ValueError as error:
        return f"Authorizer {name!r} cannot be used: {error}"


def _http(snapshot: Snapshot, name: str, config: ExtAuthzHttp) -> Authorizer:
    upstream, host, _ = _service(snapshot, config.service, config.port)
    if config.path_prefix and not _PATH_PREFIX.fullmatch(config.path_prefix):
        raise ValueError(f"pathPrefix {config.path_prefix!r} is not the beginning of a path.")
    included = config.include_request_headers_in_check or config.include_headers_in_check
    common = _common(config, allowed_headers=_headers(included))
    service = HttpService(
        server_uri=HttpUri(
            uri=f"http://{host}:{config.port}",
            cluster=upstream.cluster,
            timeout=durations.message(_timeout(config.timeout)),
        ),
        path_prefix=config.path_prefix,
        authorization_request=AuthorizationRequest(
            headers_to_add=list(_additional(config.include_additional_headers_in_check or {}))
        ),
        authorization_response=AuthorizationResponse(
            allowed_upstream_headers=_headers(config.headers_to_upstream_on_allow),
            allowed_client_headers=_headers(config.headers_to_downstream_on_deny),
            allowed_client_headers_on_success=_headers(config.headers_to_downstream_on_allow),
        ),
    )
    common.http_service.CopyFrom(service)
    return Authorizer(name, upstream, common)


def _grpc(snapshot: Snapshot, name: str, config: ExtAuthzGrpc) -> Authorizer:
    upstream, host, port = _service(snapshot, config.service, config.port)
    if not is_http2(port):
        raise ValueError(
            f"port {config.port} of Service {upstream.service} is not declared as gRPC; give it"
            " appProtocol: grpc."
        )
    common = _common(config)
    common.grpc_service.CopyFrom(
        GrpcService(
            envoy_grpc=GrpcService.EnvoyGrpc(cluster_name=upstream.cluster, authority=host),
            timeout=durations.message(_timeout(config.timeout)),
        )
    )
    return Authorizer(name, upstream, common)


def _service(
    snapshot: Snapshot, service: str, number: int
) -> tuple[Upstream, str, core.ServicePort]:
    """Find the Service port; there is no way to what is no Service here."""
    namespace, slash, host = service.rpartition("/")
    if not slash and "." not in host:
        raise ValueError(f"service {service!r} names no namespace; write NAMESPACE/NAME.")
    found = snapshot.service(host, namespace) or snapshot.services.get(_short(host))
    if found is None:
        raise ValueError(f"there is no Service {service!r}.")
    port = port_of(found, number)
    if port is None:
        raise ValueError(f"Service {found.object_name} has no port {number}.")
    full = names.service_host(found.object_name)
    return Upstream(cluster_name(full, number), found.object_name, number), full, port


def _short(host: str) -> ObjectName:
    """Read ``NAME.NAMESPACE`` and ``NAME.NAMESPACE.svc``."""
    name, _, namespace = host.removesuffix(".svc").partition(".")
    return hosts.service_of(host) or ObjectName(namespace, name)


def _common(
    config: ExtAuthzHttp | ExtAuthzGrpc, *, allowed_headers: ListStringMatcher | None = None
) -> ExtAuthz:
    return ExtAuthz(
        transport_api_version="V3",
        failure_mode_allow=config.fail_open,
        clear_route_cache=config.clear_route_cache,
        status_on_error=HttpStatus(code=_status(config.status_on_error)),
        with_request_body=_body(config.include_request_body_in_check),
        allowed_headers=allowed_headers,
    )


def _status(text: str) -> StatusCode.ValueType:
    if not text:
        return StatusCode.Forbidden
    if text.isascii() and text.isdecimal() and int(text) in StatusCode.values() and int(text):
        return StatusCode.Value(StatusCode.Name(int(text)))
    raise ValueError(f"statusOnError {text!r} is not the status of an answer.")


def _body(body: RequestBody | None) -> BufferSettings | None:
    if body is None:
        return None
    if not 0 < body.max_request_bytes < 1 << 32:
        raise ValueError("includeRequestBodyInCheck needs a maxRequestBytes above 0.")
    return BufferSettings(
        max_request_bytes=body.max_request_bytes,
        allow_partial_message=body.allow_partial_message,
        pack_as_bytes=body.pack_as_bytes,
    )


def _timeout(text: str) -> timedelta:
    if not text:
        return TIMEOUT
    timeout = durations.parse(text)
    if not timeout:
        raise ValueError(f"timeout {text!r} is not a duration such as 500ms or 2s.")
    return timeout


def _headers(patterns: tuple[str, ...]) -> ListStringMatcher | None:
    """Return which headers are meant; None, and Envoy decides, where nothing is said."""
    if not patterns:
        return None
    return ListStringMatcher(
        patterns=[matchers.string(pattern, ignore_case=True) for pattern in patterns]
    )


def _additional(headers: Mapping[str, str]) -> Iterator[HeaderValue]:
    for name, value in sorted(headers.items()):
        if _NOT_IN_VALUE.search(value):
            raise ValueError(f"the value of the header {name!r} holds a control character.")
        yield HeaderValue(key=matchers.header_name(name), value=value)
