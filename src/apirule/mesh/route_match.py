"""Which requests a route takes: HTTPMatchRequest to RouteMatch.

A match that cannot be expressed makes the caller leave out the whole VirtualService: without it,
a later route would take requests that were never meant for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import msgspec
from envoy.config.route.v3 import route_components_pb2 as route_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2
from google.protobuf.wrappers_pb2 import BoolValue

from apirule.apis.networking import HTTPMatchRequest, StringMatch
from apirule.mesh import checks
from apirule.mesh.snapshot import MESH, selects
from apirule.problem import FieldPath, Problem, Reason

_ANY = re.compile(r"\^?/?\.\*\$?|\*")
# Istio takes these from `uri`, `scheme`, `method` and `authority`; as header names they do nothing.
PSEUDO_HEADERS = frozenset({"uri", "scheme", "method", "authority"})
_FALSE = BoolValue(value=False)


class Caller(msgspec.Struct, frozen=True):
    """Whose routes are made: ``gateways`` are the names its table serves, ``port`` its port."""

    namespace: str
    gateways: frozenset[str]
    port: int
    labels: Mapping[str, str]


def depends_on_caller(match: HTTPMatchRequest) -> bool:
    return bool(match.port or match.source_labels or match.source_namespace or match.gateways)


def is_for(match: HTTPMatchRequest, caller: Caller, *, namespace: str) -> bool:
    """Whether a match is there for this caller at all; ``namespace`` completes Gateway names."""
    if match.port and match.port != caller.port:
        return False
    if match.source_namespace and match.source_namespace != caller.namespace:
        return False
    if not selects(match.source_labels or {}, caller.labels):
        return False
    named = {full_gateway(gateway, namespace) for gateway in match.gateways}
    return not named or not named.isdisjoint(caller.gateways)


def full_gateway(name: str, namespace: str) -> str:
    """Istio: a name without a slash means a Gateway of the same namespace."""
    return name if name == MESH or "/" in name else f"{namespace}/{name}"


def is_catch_all(match: HTTPMatchRequest) -> bool:
    """Whether the match takes every request, so that nothing after it is ever reached."""
    others = (match.method, match.headers, match.without_headers, match.query_params)
    if any(others) or match.authority or match.scheme:
        return False
    uri = match.uri
    return (
        uri is None
        or uri.prefix == "/"
        or (uri.regex is not None and _ANY.fullmatch(uri.regex) is not None)
    )


def emit(match: HTTPMatchRequest) -> route_pb2.RouteMatch:
    """Return the match. Only for one in which ``problems`` found nothing."""
    result = route_pb2.RouteMatch(
        headers=list(_headers(match)), query_parameters=list(_query(match.query_params or {}))
    )
    uri = match.uri or StringMatch(prefix="/")
    if uri.exact is not None:
        result.path = uri.exact
    elif uri.regex is not None:
        result.safe_regex.regex = ".*" if uri.regex == "*" else uri.regex
    else:
        result.prefix = uri.prefix or "/"
    if match.ignore_uri_case and uri.regex is None:
        result.case_sensitive.CopyFrom(_FALSE)
    return result


def problems(match: HTTPMatchRequest, at: FieldPath) -> Iterator[Problem]:
    for name in ("uri", "method", "authority", "scheme"):
        value: StringMatch | None = getattr(match, name)
        if value is not None:
            yield from _of_value(value, at / name, may_be_empty=False)
    for name, group in (
        ("headers", match.headers),
        ("withoutHeaders", match.without_headers),
        ("queryParams", match.query_params),
    ):
        for key, value in (group or {}).items():
            yield from _of_key(key, at / name, is_header=name != "queryParams")
            yield from _of_value(value, at / name / key, may_be_empty=True)


def _of_key(key: str, at: FieldPath, *, is_header: bool) -> Iterator[Problem]:
    if key.startswith("@"):
        yield Problem(
            at / key,
            Reason.NOT_IMPLEMENTED,
            f'Routing by a claim ("{key}") is not implemented by the local engine.',
            "Decide with an AuthorizationPolicy instead.",
        )
    elif wrong := checks.header_name(key) if is_header else checks.parameter_name(key):
        yield Problem(
            at / key, Reason.INVALID, f'"{key}" cannot be matched: {wrong}.', "Correct the name."
        )


def _of_value(value: StringMatch, at: FieldPath, *, may_be_empty: bool) -> Iterator[Problem]:
    given = [v for v in (value.exact, value.prefix, value.regex) if v is not None]
    if len(given) > 1 or not (given or may_be_empty):
        yield Problem(
            at,
            Reason.INVALID,
            f"{len(given)} of exact, prefix and regex are given.",
            "Give exactly one.",
        )
    if value.regex is not None and value.regex != "*":
        wrong = checks.regex(value.regex) if value.regex else "it is empty"
        if wrong:
            yield Problem(
                at / "regex",
                Reason.INVALID,
                f'"{value.regex}" is not a regular expression of RE2: {wrong}.',
                "Correct it; RE2 has no look-around and no back references.",
            )


def _headers(match: HTTPMatchRequest) -> Iterator[route_pb2.HeaderMatcher]:
    if match.method is not None:
        yield _header(":method", match.method)
    if match.authority is not None:
        yield _header(":authority", _with_any_port(match.authority))
    if match.scheme is not None:
        yield _header(":scheme", match.scheme)
    for name, value in sorted((match.headers or {}).items()):
        if name.lower() not in PSEUDO_HEADERS:
            yield _header(name, value)
    for name, value in sorted((match.without_headers or {}).items()):
        if name.lower() not in PSEUDO_HEADERS:
            matcher = _header(name, value)
            matcher.invert_match = True
            matcher.treat_missing_header_as_empty = not matcher.HasField("present_match")
            yield matcher


def _with_any_port(authority: StringMatch) -> StringMatch:
    """Let clients name the port, which they do wherever the gateway is not on 443."""
    if authority.exact is None or ":" in authority.exact:
        return authority
    return StringMatch(regex=f"(?i){re.escape(authority.exact)}(:[0-9]+)?")


def _header(name: str, value: StringMatch) -> route_pb2.HeaderMatcher:
    if _is_presence(value):
        return route_pb2.HeaderMatcher(name=name.lower(), present_match=True)
    return route_pb2.HeaderMatcher(name=name.lower(), string_match=_string(value))


def _query(params: Mapping[str, StringMatch]) -> Iterator[route_pb2.QueryParameterMatcher]:
    for name, value in sorted(params.items()):
        if _is_presence(value):
            yield route_pb2.QueryParameterMatcher(name=name, present_match=True)
        else:
            yield route_pb2.QueryParameterMatcher(name=name, string_match=_string(value))


def _is_presence(value: StringMatch) -> bool:
    """Istio: nothing at all, an empty prefix, or the expression ``*`` ask only for presence."""
    return value.exact is None and (value.regex == "*" or (not value.regex and not value.prefix))


def _string(value: StringMatch) -> string_pb2.StringMatcher:
    if value.exact is not None:
        return string_pb2.StringMatcher(exact=value.exact)
    if value.regex is not None:
        return string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=value.regex))
    return string_pb2.StringMatcher(prefix=value.prefix)


string_matcher = _string
