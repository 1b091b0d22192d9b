"""What happens to a request that a route took: cluster, rewrite, headers, retries, CORS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2 as route_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.type.v3 import percent_pb2
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from apirule.apis import networking
from apirule.mesh import call_settings, checks, durations, faults, mirrors
from apirule.mesh.destinations import Upstream
from apirule.mesh.packing import pack
from apirule.mesh.route_match import string_matcher
from apirule.problem import FieldPath, Problem, Reason

CORS_FILTER = "envoy.filters.http.cors"

# What is safe for any method, as the request has not been worked on. Never an answer of the
# application: a retry must not hide a 401, nor send a POST twice.
DEFAULT_RETRY_ON = "connect-failure,refused-stream,unavailable,cancelled"
_DEFAULT_RETRIES = 2
_OTHER_HOST_ATTEMPTS = 5
_MAX_ATTEMPTS = 100
_MAX_WEIGHT = 1_000_000
_MAX_PORT = 65535
_RETRY_CONDITIONS = frozenset(
    {
        "5xx",
        "gateway-error",
        "reset",
        "reset-before-request",
        "connect-failure",
        "envoy-ratelimited",
        "refused-stream",
        "retriable-4xx",
        "retriable-status-codes",
        "retriable-headers",
        "cancelled",
        "deadline-exceeded",
        "internal",
        "resource-exhausted",
        "unavailable",
    }
)
_REDIRECT_CODES = {
    301: route_pb2.RedirectAction.MOVED_PERMANENTLY,
    302: route_pb2.RedirectAction.FOUND,
    303: route_pb2.RedirectAction.SEE_OTHER,
    307: route_pb2.RedirectAction.TEMPORARY_REDIRECT,
    308: route_pb2.RedirectAction.PERMANENT_REDIRECT,
}
_SET = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_ADD = base_pb2.HeaderValueOption.APPEND_IF_EXISTS_OR_ADD
_HOST = frozenset({"host", ":authority"})
_UNAVAILABLE = 503


def unavailable() -> dict[str, Any]:
    """Return what stands in for an action that cannot be expressed.

    The route keeps its place, so that no later and wider one takes its requests.
    """
    return {"direct_response": route_pb2.DirectResponseAction(status=_UNAVAILABLE)}


def emit(
    http: networking.HTTPRoute, upstreams: tuple[Upstream, ...], copies: tuple[Upstream, ...] = ()
) -> dict[str, Any]:
    """Return the fields of Route besides name and match. Only where nothing is wrong."""
    fields = _headers(http.headers)
    if len(http.route) == 1:
        for name, values in _headers(http.route[0].headers).items():
            fields[name] = [*fields.get(name, ()), *values]
    filters = {}
    if http.cors_policy is not None and http.cors_policy.allow_origins:
        filters[CORS_FILTER] = pack(_cors(http.cors_policy))
    if http.fault is not None:
        filters[faults.FILTER] = pack(faults.emit(http.fault))
    if filters:
        fields["typed_per_filter_config"] = filters
    if http.redirect is not None:
        fields["redirect"] = _redirect(http.redirect)
    elif http.direct_response is not None:
        fields["direct_response"] = _direct_response(http.direct_response)
    else:
        fields["route"] = _route(http, upstreams, copies)
    return fields


def problems(http: networking.HTTPRoute, at: FieldPath) -> Iterator[Problem]:
    given = [bool(http.route), http.redirect is not None, http.direct_response is not None]
    if sum(given) != 1:
        yield Problem(
            at,
            Reason.INVALID,
            f"{sum(given)} of route, redirect and directResponse are given.",
            "Give exactly one.",
        )
    if len(http.route) > 1 and not any(d.weight > 0 for d in http.route):
        yield Problem(
            at / "route",
            Reason.INVALID,
            "No destination has a weight.",
            "Give the destinations weights that add up to 100.",
        )
    for index, destination in enumerate(http.route):
        if not 0 <= destination.weight <= _MAX_WEIGHT:
            why = f"a weight lies between 0 and {_MAX_WEIGHT}"
            yield _invalid(at / "route" / index / "weight", destination.weight, why)
    yield from _of_duration(http.timeout, at / "timeout")
    yield from _of_retries(http.retries, at / "retries")
    yield from _of_headers(http.headers, at / "headers")
    for index, destination in enumerate(http.route):
        yield from _of_headers(destination.headers, at / "route" / index / "headers")
    if http.fault is not None:
        yield from faults.problems(http.fault, at / "fault")
    yield from mirrors.problems(http, at)
    yield from _of_cors(http.cors_policy, at / "corsPolicy")
    yield from _of_rewrite(http, at)
    yield from _of_answer(http, at)


def _route(
    http: networking.HTTPRoute, upstreams: tuple[Upstream, ...], copies: tuple[Upstream, ...]
) -> route_pb2.RouteAction:
    timeout = durations.parse(http.timeout or "0")
    action = route_pb2.RouteAction(
        timeout=durations.message(timeout) if timeout else durations.NONE,
        retry_policy=None if http.retries is None else retry_policy(http.retries),
    )
    if len(upstreams) == 1:
        action.cluster = upstreams[0].cluster
    else:
        action.weighted_clusters.CopyFrom(_weighted(http, upstreams))
    rewrite = http.rewrite or networking.HTTPRewrite()
    if rewrite.uri:
        action.prefix_rewrite = rewrite.uri
    if rewrite.uri_regex_rewrite is not None:
        action.regex_rewrite.pattern.regex = rewrite.uri_regex_rewrite.match
        action.regex_rewrite.substitution = rewrite.uri_regex_rewrite.rewrite
    only = http.route[0].headers if len(http.route) == 1 else None
    host = rewrite.authority or _new_host(only) or _new_host(http.headers)
    if host:
        action.host_rewrite_literal = host
    alike = dict.fromkeys(u.alike for u in upstreams if u.alike is not None)
    action.hash_policy.extend(call_settings.hash_policy(each) for each in alike)
    action.request_mirror_policies.extend(mirrors.emit(http, copies))
    return action


def _weighted(
    http: networking.HTTPRoute, upstreams: tuple[Upstream, ...]
) -> route_pb2.WeightedCluster:
    # Two destinations may mean the same cluster; Envoy takes each name only once.
    weights: dict[str, route_pb2.WeightedCluster.ClusterWeight] = {}
    for destination, upstream in zip(http.route, upstreams, strict=True):
        if not destination.weight:
            continue
        share = weights.setdefault(
            upstream.cluster,
            route_pb2.WeightedCluster.ClusterWeight(
                name=upstream.cluster,
                host_rewrite_literal=_new_host(destination.headers) or None,
                **_headers(destination.headers),
            ),
        )
        share.weight.value += destination.weight
    return route_pb2.WeightedCluster(clusters=list(weights.values()))


def retry_policy(retries: networking.HTTPRetry | None = None) -> route_pb2.RetryPolicy:
    """Return what is tried again; without an argument what holds where a route says nothing."""
    if retries is not None and retries.attempts <= 0:
        return route_pb2.RetryPolicy(num_retries=UInt32Value(value=0))
    conditions, codes = _split_retry_on(retries.retry_on if retries else "")
    policy = route_pb2.RetryPolicy(
        retry_on=",".join(conditions) or DEFAULT_RETRY_ON,
        retriable_status_codes=codes,
        num_retries=UInt32Value(value=retries.attempts if retries else _DEFAULT_RETRIES),
        host_selection_retry_max_attempts=_OTHER_HOST_ATTEMPTS,
        retry_host_predicate=[
            route_pb2.RetryPolicy.RetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts",
                typed_config=pack(previous_hosts_pb2.PreviousHostsPredicate()),
            )
        ],
    )
    limit = durations.parse(retries.per_try_timeout or "0") if retries else None
    if limit:
        policy.per_try_timeout.CopyFrom(durations.message(limit))
    return policy


def _split_retry_on(text: str) -> tuple[list[str], list[int]]:
    """Split Istio's list, in which status codes stand beside the conditions."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    codes = [int(part) for part in parts if part.isdecimal()]
    conditions = [part for part in parts if not part.isdecimal()]
    if codes and "retriable-status-codes" not in conditions:
        conditions.append("retriable-status-codes")
    return conditions, codes


def _headers(headers: networking.Headers | None) -> dict[str, Any]:
    if headers is None:
        return {}
    request = headers.request or networking.HeaderOperations()
    response = headers.response or networking.HeaderOperations()
    return {
        "request_headers_to_add": list(_options(request)),
        "request_headers_to_remove": list(request.remove),
        "response_headers_to_add": list(_options(response)),
        "response_headers_to_remove": list(response.remove),
    }


def _options(operations: networking.HeaderOperations) -> Iterator[base_pb2.HeaderValueOption]:
    for values, action in ((operations.set, _SET), (operations.add, _ADD)):
        for name, value in sorted((values or {}).items()):
            if name.lower() in _HOST:
                continue
            yield base_pb2.HeaderValueOption(
                header=base_pb2.HeaderValue(key=name, value=checks.escape_header_value(value)),
                append_action=action,
                keep_empty_value=True,
            )


def _new_host(headers: networking.Headers | None) -> str:
    """Istio: setting ``Host`` means rewriting it. Setting it to itself means nothing."""
    operations = headers.request if headers else None
    values: Mapping[str, str] = (operations.set if operations else None) or {}
    host = next((value for name, value in values.items() if name.lower() in _HOST), "")
    return "" if "%" in host else host


def _cors(policy: networking.CorsPolicy) -> cors_pb2.CorsPolicy:
    max_age = durations.parse(policy.max_age) if policy.max_age else None
    credentials = policy.allow_credentials
    return cors_pb2.CorsPolicy(
        allow_origin_string_match=[string_matcher(origin) for origin in policy.allow_origins],
        allow_methods=",".join(policy.allow_methods),
        allow_headers=",".join(policy.allow_headers),
        expose_headers=",".join(policy.expose_headers),
        max_age=str(int(max_age.total_seconds())) if max_age is not None else "",
        allow_credentials=None if credentials is None else BoolValue(value=credentials),
        forward_not_matching_preflights=BoolValue(value=policy.unmatched_preflights != "IGNORE"),
        filter_enabled=base_pb2.RuntimeFractionalPercent(
            default_value=percent_pb2.FractionalPercent(numerator=100)
        ),
    )


def _redirect(redirect: networking.HTTPRedirect) -> route_pb2.RedirectAction:
    return route_pb2.RedirectAction(
        path_redirect=redirect.uri or None,
        host_redirect=redirect.authority,
        scheme_redirect=redirect.scheme or None,
        port_redirect=redirect.port or 0,
        response_code=_REDIRECT_CODES[redirect.redirect_code or 301],
    )


def _direct_response(
    response: networking.HTTPDirectResponse,
) -> route_pb2.DirectResponseAction:
    body = response.body.string if response.body else ""
    return route_pb2.DirectResponseAction(
        status=response.status,
        body=base_pb2.DataSource(inline_string=body) if body else None,
    )


def _of_duration(text: str | None, at: FieldPath) -> Iterator[Problem]:
    if text and durations.parse(text) is None:
        yield Problem(
            at, Reason.INVALID, f'"{text}" is not a duration.', "Write one such as 30s or 1m30s."
        )


def _of_retries(retries: networking.HTTPRetry | None, at: FieldPath) -> Iterator[Problem]:
    if retries is None:
        return
    yield from _of_duration(retries.per_try_timeout, at / "perTryTimeout")
    if retries.attempts > _MAX_ATTEMPTS:
        yield _invalid(at / "attempts", retries.attempts, f"at most {_MAX_ATTEMPTS} are tried")
    conditions, codes = _split_retry_on(retries.retry_on)
    for code in codes:
        if not 100 <= code <= 599:  # noqa: PLR2004 - status codes
            yield _invalid(at / "retryOn", code, "it is not a status code")
    for condition in conditions:
        if condition not in _RETRY_CONDITIONS:
            yield _invalid(at / "retryOn", condition, "Envoy has no such condition")


def _of_headers(headers: networking.Headers | None, at: FieldPath) -> Iterator[Problem]:
    if headers is None:
        return
    for side, operations in (("request", headers.request), ("response", headers.response)):
        if operations is None:
            continue
        for verb, values in (("set", operations.set), ("add", operations.add)):
            for name, value in (values or {}).items():
                is_host = side == "request" and verb == "set" and name.lower() in _HOST
                wrong = None if is_host else checks.header_change(name)
                if wrong := wrong or checks.header_value(value):
                    yield _invalid(at / side / verb / name, name, wrong)
        for index, name in enumerate(operations.remove):
            if wrong := checks.header_change(name):
                yield _invalid(at / side / "remove" / index, name, wrong)


def said_twice(
    http: networking.HTTPRoute, upstreams: tuple[Upstream, ...], at: FieldPath
) -> Iterator[Problem]:
    """Find destinations that are the same but for their headers, which one cluster cannot tell."""
    seen: dict[str, networking.Headers | None] = {}
    for index, (one, upstream) in enumerate(zip(http.route, upstreams, strict=True)):
        if seen.setdefault(upstream.cluster, one.headers) != one.headers:
            place = at / "route" / index / "headers"
            why = "the same destination has other headers above"
            yield _invalid(place, one.destination.host, why)


def _of_cors(policy: networking.CorsPolicy | None, at: FieldPath) -> Iterator[Problem]:
    if policy is None:
        return
    yield from _of_duration(policy.max_age, at / "maxAge")
    for index, origin in enumerate(policy.allow_origins):
        place = at / "allowOrigins" / index
        given = [v for v in (origin.exact, origin.prefix, origin.regex) if v]
        if len(given) != 1:
            yield Problem(
                place,
                Reason.INVALID,
                f"{len(given)} of exact, prefix and regex are given.",
                "Give exactly one that is not empty.",
            )
        elif origin.regex and (wrong := checks.regex(origin.regex)):
            yield _invalid(place / "regex", origin.regex, wrong)
    for name in ("allow_methods", "allow_headers", "expose_headers"):
        for value in getattr(policy, name):
            if wrong := checks.header_value(value):
                yield _invalid(at, value, wrong)


def _of_rewrite(http: networking.HTTPRoute, at: FieldPath) -> Iterator[Problem]:
    rewrite = http.rewrite
    if rewrite is None:
        return
    if not http.route:
        yield Problem(
            at / "rewrite",
            Reason.INVALID,
            "Only a route to a destination can be rewritten.",
            "Remove rewrite.",
        )
    regex = rewrite.uri_regex_rewrite
    if regex is not None and rewrite.uri:
        yield Problem(
            at / "rewrite",
            Reason.INVALID,
            "Both uri and uriRegexRewrite are given.",
            "Give one of them.",
        )
    if regex is not None:
        wrong = checks.regex(regex.match) if regex.match else "it is empty"
        if wrong := wrong or checks.substitution(regex.match, regex.rewrite):
            yield _invalid(at / "rewrite" / "uriRegexRewrite", regex.match, wrong)
    for name, value in (("uri", rewrite.uri), ("authority", rewrite.authority)):
        if wrong := checks.header_value(value):
            yield _invalid(at / "rewrite" / name, value, wrong)


def _of_answer(http: networking.HTTPRoute, at: FieldPath) -> Iterator[Problem]:
    if http.redirect is not None:
        place = at / "redirect"
        if (http.redirect.redirect_code or 301) not in _REDIRECT_CODES:
            code = http.redirect.redirect_code
            yield _invalid(place / "redirectCode", code, "use 301, 302, 303, 307 or 308")
        if not 0 <= (http.redirect.port or 0) <= _MAX_PORT:
            yield _invalid(place / "port", http.redirect.port, "it is not a port")
        for value in (http.redirect.uri, http.redirect.authority, http.redirect.scheme):
            if wrong := checks.header_value(value):
                yield _invalid(place, value, wrong)
    if http.direct_response is not None:
        response = http.direct_response
        body = response.body.string if response.body else ""
        if wrong := checks.direct_response(response.status, body):
            yield _invalid(at / "directResponse", response.status, wrong)


def _invalid(at: FieldPath, value: object, why: str) -> Problem:
    return Problem(at, Reason.INVALID, f'"{value}" cannot be used: {why}.', "Correct the value.")
