"""Envoy's local rate limit: what of a configuration Envoy would refuse, found before it does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher, RateLimit
from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import LocalRateLimitDescriptor
from envoy.extensions.filters.http.local_ratelimit.v3.local_rate_limit_pb2 import LocalRateLimit
from envoy.type.v3.token_bucket_pb2 import TokenBucket

from apirule.mesh import checks
from apirule.problem import FieldPath, Problem, Reason

SHORTEST_FILL = timedelta(milliseconds=50)
_ERRORS = range(400, 600)


def problems(config: LocalRateLimit, at: FieldPath) -> Iterator[Problem]:
    if not config.stat_prefix:
        yield _invalid(at / "stat_prefix", "It is missing.")
    if config.status.code and config.status.code not in _ERRORS:
        yield _invalid(at / "status", f"{config.status.code} is not the status of an error.")
    for name in ("filter_enabled", "filter_enforced"):
        share = getattr(config, name)
        if config.HasField(name) and not share.HasField("default_value"):
            yield _invalid(at / name / "default_value", "It is missing.")
    if config.HasField("token_bucket"):
        yield from _of_bucket(config.token_bucket, at / "token_bucket")
    elif config.descriptors or config.HasField("filter_enabled"):
        yield _invalid(at / "token_bucket", "It is missing.")
    yield from _of_descriptors(config, at / "descriptors")
    yield from of_rate_limits(config.rate_limits, at / "rate_limits")
    for name in ("response_headers_to_add", "request_headers_to_add_when_not_enforced"):
        yield from _of_headers(getattr(config, name), at / name)


def of_rate_limits(limits: Iterable[RateLimit], at: FieldPath) -> Iterator[Problem]:
    for index, limit in enumerate(limits):
        here = at / index / "actions"
        if not limit.actions:
            yield _invalid(here, "It is missing.")
        for position, action in enumerate(limit.actions):
            yield from _of_action(action, here / position)


def _of_bucket(bucket: TokenBucket, at: FieldPath) -> Iterator[Problem]:
    if not bucket.max_tokens:
        yield _invalid(at / "max_tokens", "It must be at least 1.")
    if bucket.HasField("tokens_per_fill") and not bucket.tokens_per_fill.value:
        yield _invalid(at / "tokens_per_fill", "It must be at least 1.")
    if bucket.fill_interval.ToTimedelta() < SHORTEST_FILL:
        yield _invalid(at / "fill_interval", "It must be at least 50ms.")


def _of_descriptors(config: LocalRateLimit, at: FieldPath) -> Iterator[Problem]:
    seen: set[tuple[tuple[str, str], ...]] = set()
    default = config.token_bucket.fill_interval.ToNanoseconds()
    for index, descriptor in enumerate(config.descriptors):
        here = at / index
        yield from _of_entries(descriptor, here / "entries")
        if not descriptor.HasField("token_bucket"):
            yield _invalid(here / "token_bucket", "It is missing.")
            continue
        yield from _of_bucket(descriptor.token_bucket, here / "token_bucket")
        if default and descriptor.token_bucket.fill_interval.ToNanoseconds() % default:
            yield _invalid(
                here / "token_bucket" / "fill_interval",
                "It must be a multiple of that of the main token bucket.",
            )
        entries = tuple((entry.key, entry.value) for entry in descriptor.entries)
        if entries in seen:
            yield _invalid(here / "entries", "Another descriptor has the same entries.")
        seen.add(entries)


def _of_entries(descriptor: LocalRateLimitDescriptor, at: FieldPath) -> Iterator[Problem]:
    if not descriptor.entries:
        yield _invalid(at, "It is missing.")
    for index, entry in enumerate(descriptor.entries):
        if not entry.key or not entry.value:
            yield _invalid(at / index, "It must have a key and a value.")


def _of_action(action: RateLimit.Action, at: FieldPath) -> Iterator[Problem]:
    match action.WhichOneof("action_specifier"):
        case "request_headers":
            headers = action.request_headers
            if not headers.descriptor_key:
                yield _invalid(at / "request_headers" / "descriptor_key", "It is missing.")
            if why := checks.header_name(headers.header_name):
                yield _invalid(at / "request_headers" / "header_name", f"{_capital(why)}.")
        case "header_value_match":
            yield from _of_match(action.header_value_match, at / "header_value_match")
        case "generic_key":
            if not action.generic_key.descriptor_value:
                yield _invalid(at / "generic_key" / "descriptor_value", "It is missing.")
        case "remote_address":
            return
        case _:
            yield _invalid(at, "It says nothing.")


def _of_match(matched: RateLimit.Action.HeaderValueMatch, at: FieldPath) -> Iterator[Problem]:
    if not matched.descriptor_value:
        yield _invalid(at / "descriptor_value", "It is missing.")
    if not matched.headers:
        yield _invalid(at / "headers", "It is missing.")
    for index, header in enumerate(matched.headers):
        yield from _of_matcher(header, at / "headers" / index)


def _of_matcher(matcher: HeaderMatcher, at: FieldPath) -> Iterator[Problem]:
    if why := checks.header_name(matcher.name):
        yield _invalid(at / "name", f"{_capital(why)}.")
    if matcher.WhichOneof("header_match_specifier") != "string_match":
        return
    text = matcher.string_match
    kind = text.WhichOneof("match_pattern")
    if kind is None:
        yield _invalid(at / "string_match", "It says nothing.")
    elif kind == "safe_regex":
        why = checks.regex(text.safe_regex.regex) if text.safe_regex.regex else "it is empty"
        if why:
            yield _invalid(at / "string_match" / "safe_regex", f"{_capital(why)}.")
    elif kind != "exact" and not getattr(text, kind):
        yield _invalid(at / "string_match" / kind, "It is empty.")


def _of_headers(headers: Iterable[base_pb2.HeaderValueOption], at: FieldPath) -> Iterator[Problem]:
    for index, option in enumerate(headers):
        here = at / index / "header"
        if why := checks.header_change(option.header.key):
            yield _invalid(here / "key", f"{_capital(why)}.")
        if why := checks.header_value(option.header.value):
            yield _invalid(here / "value", f"{_capital(why)}.")
        if "%" in option.header.value.replace("%%", ""):
            # One that is misspelt would make Envoy refuse the listener.
            yield _invalid(here / "value", "Command operators are not implemented; write %% for %.")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _invalid(at: FieldPath, message: str) -> Problem:
    return Problem(at, Reason.INVALID, message, "Correct the value; until then nothing passes.")
