"""Pieces of Envoy's configuration that come from outside: read, and checked against what we know.

A piece is a protobuf message in JSON. What an EnvoyFilter may say is a table of message types and
their fields; everything else is refused before an Envoy sees it, and so is what Envoy would refuse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from envoy.config.route.v3.route_components_pb2 import RateLimit
from envoy.extensions.filters.http.local_ratelimit.v3.local_rate_limit_pb2 import LocalRateLimit
from google.protobuf import json_format
from google.protobuf.message import Message

from apirule.problem import FieldPath, Problem, Reason

M = TypeVar("M", bound=Message)

FILTER_TYPES: Mapping[str, type[LocalRateLimit]] = {
    f"type.googleapis.com/{LocalRateLimit.DESCRIPTOR.full_name}": LocalRateLimit
}
_TYPED_STRUCTS = frozenset(
    f"type.googleapis.com/{name}"
    for name in ("udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct")
)
_ACTION = RateLimit.Action.DESCRIPTOR.full_name
_COMMON = "envoy.extensions.common.ratelimit.v3"
_FIELDS: Mapping[str, frozenset[str]] = {
    LocalRateLimit.DESCRIPTOR.full_name: frozenset(
        {
            *("stat_prefix", "status", "token_bucket", "filter_enabled", "filter_enforced"),
            *("response_headers_to_add", "request_headers_to_add_when_not_enforced"),
            *("descriptors", "rate_limits", "enable_x_ratelimit_headers"),
            *("always_consume_default_token_bucket", "local_rate_limit_per_downstream_connection"),
        }
    ),
    "envoy.type.v3.HttpStatus": frozenset({"code"}),
    "envoy.type.v3.TokenBucket": frozenset({"max_tokens", "tokens_per_fill", "fill_interval"}),
    "envoy.config.core.v3.RuntimeFractionalPercent": frozenset({"default_value", "runtime_key"}),
    "envoy.type.v3.FractionalPercent": frozenset({"numerator", "denominator"}),
    "envoy.config.core.v3.HeaderValueOption": frozenset({"header", "append", "append_action"}),
    "envoy.config.core.v3.HeaderValue": frozenset({"key", "value"}),
    f"{_COMMON}.LocalRateLimitDescriptor": frozenset({"entries", "token_bucket"}),
    f"{_COMMON}.RateLimitDescriptor.Entry": frozenset({"key", "value"}),
    RateLimit.DESCRIPTOR.full_name: frozenset({"actions"}),
    _ACTION: frozenset({"request_headers", "header_value_match", "generic_key", "remote_address"}),
    f"{_ACTION}.RequestHeaders": frozenset({"header_name", "descriptor_key", "skip_if_absent"}),
    f"{_ACTION}.HeaderValueMatch": frozenset(
        {"descriptor_key", "descriptor_value", "expect_match", "headers"}
    ),
    f"{_ACTION}.GenericKey": frozenset({"descriptor_key", "descriptor_value"}),
    f"{_ACTION}.RemoteAddress": frozenset(),
    "envoy.config.route.v3.HeaderMatcher": frozenset(
        {"name", "string_match", "present_match", "invert_match"}
    ),
    "envoy.type.matcher.v3.StringMatcher": frozenset(
        {"exact", "prefix", "suffix", "contains", "safe_regex", "ignore_case"}
    ),
    "envoy.type.matcher.v3.RegexMatcher": frozenset({"regex"}),
}
_PLAIN = "google.protobuf."
"""Durations and wrapped numbers have nothing inside that could be unknown."""


class NotReadable(Exception):  # noqa: N818  # a finding, which becomes a problem
    """Carries the problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def read(value: Any, kind: type[M], at: FieldPath) -> M:
    """Read a message from its JSON form. NotReadable: it has another form, or says too much."""
    message = kind()
    try:
        json_format.ParseDict(value, message)
    except (json_format.ParseError, TypeError, ValueError, AttributeError) as error:
        raise _invalid(at, f"It cannot be read as {kind.DESCRIPTOR.name}: {error}.") from error
    unknown = next(_unknown(message, at), None)
    if unknown is not None:
        raise NotReadable(
            Problem(
                unknown,
                Reason.NOT_IMPLEMENTED,
                "This field is not implemented here.",
                "Remove what is not needed, or use Istio.",
            )
        )
    return message


def read_extension(value: Any, at: FieldPath) -> LocalRateLimit:
    """Read a filter's configuration with its ``@type``, which may stand inside a TypedStruct."""
    if not isinstance(value, Mapping):
        raise _invalid(at, "It is not an object with an @type.")
    body = {key: item for key, item in value.items() if key != "@type"}
    named, at_type = str(value.get("@type", "")), at / "@type"
    if named in _TYPED_STRUCTS:
        surplus = next(iter(body.keys() - {"type_url", "typeUrl", "value"}), None)
        if surplus is not None:
            raise _invalid(at / surplus, "A TypedStruct has no such field.")
        named, at_type = str(body.get("type_url", body.get("typeUrl", ""))), at / "type_url"
        body, at = body.get("value") or {}, at / "value"
    kind = FILTER_TYPES.get(named)
    if kind is None:
        raise NotReadable(
            Problem(
                at_type,
                Reason.NOT_IMPLEMENTED,
                f'The type "{named}" is not implemented here.',
                f"Implemented are {', '.join(FILTER_TYPES)}.",
            )
        )
    return read(body, kind, at)


def _unknown(message: Message, at: FieldPath) -> Iterator[FieldPath]:
    name = message.DESCRIPTOR.full_name
    if name.startswith(_PLAIN) and name != "google.protobuf.Any":
        return
    known = _FIELDS.get(name, frozenset())
    for field, value in message.ListFields():
        if field.name not in known:
            yield at / field.name
        elif field.message_type is None:
            continue
        elif isinstance(value, Message):
            yield from _unknown(value, at / field.name)
        else:
            for index, item in enumerate(value):
                yield from _unknown(item, at / field.name / index)


def _invalid(at: FieldPath, message: str) -> NotReadable:
    return NotReadable(Problem(at, Reason.INVALID, message, "Correct the value."))
