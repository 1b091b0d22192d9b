"""Matchers of Envoy for the value patterns of Istio: strings, paths, addresses, claims.

Every function here that takes a pattern raises ``ValueError`` with a sentence for the user when
Envoy could not load, or would misread, what comes out. Envoy 1.40 aborts on some path templates
instead of refusing them, so nothing unchecked may pass.

Regular expressions may become longer than the 100 instructions Envoy accepts by default: the
bootstrap has to set the runtime key ``RE2_PROGRAM_SIZE_KEY``, as Istio's does.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from envoy.config.core.v3.address_pb2 import CidrRange
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher
from envoy.extensions.path.match.uri_template.v3.uri_template_match_pb2 import (
    UriTemplateMatchConfig,
)
from envoy.type.matcher.v3.metadata_pb2 import MetadataMatcher
from envoy.type.matcher.v3.path_pb2 import PathMatcher
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.matcher.v3.value_pb2 import ListMatcher, OrMatcher, ValueMatcher
from google.protobuf.wrappers_pb2 import UInt32Value

from apirule.mesh.packing import pack

JWT_FILTER = "envoy.filters.http.jwt_authn"
"""Where the JWT filter leaves what it has verified, whatever the filter itself is called."""

PAYLOAD = "payload"
RE2_PROGRAM_SIZE_KEY = "re2.max_program_size.error_level"
RE2_PROGRAM_SIZE = 32768

MAX_TEMPLATE = 256
"""Envoy: UriTemplateMatchConfig.path_template has 1 to 256 characters."""

SEGMENT, REST = "{*}", "{**}"
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LITERAL_SEGMENT = re.compile(r"(?:[A-Za-z0-9._~!$&'()+,;=:@-]|%[0-9A-Fa-f]{2})*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def checked(value: str) -> str:
    if not value:
        raise ValueError("An empty value matches nothing.")
    if _CONTROL.search(value):
        raise ValueError(f"{value!r} contains a control character.")
    return value


def quoted(literal: str) -> str:
    """Quote for RE2 what it reads as an operator outside a class."""
    return re.sub(r"[\\.+*?()|\[\]{}^$]", r"\\\g<0>", literal)


def regex(pattern: str) -> StringMatcher:
    return StringMatcher(safe_regex=RegexMatcher(regex=pattern))


ANYTHING = regex("(?s).+")
"""Any value but the empty one. ``(?s)``: a claim may contain a newline, and a DENY must see it."""


def string(pattern: str, *, prefix: str = "", ignore_case: bool = False) -> StringMatcher:
    """Match ``exact``, ``prefix*``, ``*suffix`` or ``*``; ``prefix`` stands before the value."""
    checked(pattern)
    if pattern == "*":
        return ANYTHING
    if pattern.startswith("*"):
        if prefix:
            return regex(f"{quoted(prefix)}.*{quoted(pattern[1:])}")
        return StringMatcher(suffix=pattern[1:], ignore_case=ignore_case)
    if pattern.endswith("*"):
        return StringMatcher(prefix=prefix + pattern[:-1], ignore_case=ignore_case)
    return StringMatcher(exact=prefix + pattern, ignore_case=ignore_case)


def header_name(name: str) -> str:
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a header.")
    return name


def header(name: str, value: str) -> HeaderMatcher:
    """Match a header. ``*`` matches a header that is present, whatever it says."""
    if value == "*":
        return HeaderMatcher(name=name, present_match=True)
    return HeaderMatcher(name=name, string_match=string(value))


def host(value: str, *, any_port: bool = True) -> Sequence[HeaderMatcher]:
    """Match the authority of a request (any of the results will do), with ``any_port`` or without.

    The ports of one machine are rarely 80 and 443, so clients send them; a policy does not name
    them. A value that has a port itself is taken as it stands, and so are all in Istio.
    """
    authority = ":authority"
    checked(value)
    if value == "*":
        return (HeaderMatcher(name=authority, present_match=True),)
    plain = HeaderMatcher(name=authority, string_match=string(value, ignore_case=True))
    if not any_port or value.endswith("*") or re.search(r":[0-9]+$", value):
        return (plain,)
    if value.startswith("*"):
        with_port = regex(f"(?i).*{quoted(value[1:])}:[0-9]+")
    else:
        with_port = StringMatcher(prefix=f"{value}:", ignore_case=True)
    return (plain, HeaderMatcher(name=authority, string_match=with_port))


def is_template(path: str) -> bool:
    return SEGMENT in path or REST in path


def template(path: str) -> TypedExtensionConfig | PathMatcher:
    """Match a path with ``{*}`` (one segment) and ``{**}`` (any number of them).

    What Envoy's templates cannot say (an empty segment beside a wildcard, more than 256
    characters) becomes the regular expression with the same meaning. ``/{**}`` is a prefix: Envoy
    makes a large regular expression of each template, and this is the most frequent one.
    """
    segments = _template_segments(path)
    if segments == [REST]:
        return PathMatcher(path=StringMatcher(prefix="/"))
    written = "/" + "/".join({SEGMENT: "*", REST: "**"}.get(part, part) for part in segments)
    if len(written) > MAX_TEMPLATE or "" in segments[:-1]:
        return _template_regex(segments)
    config = UriTemplateMatchConfig(path_template=written)
    return TypedExtensionConfig(name="uri-template", typed_config=pack(config))


def _template_segments(path: str) -> list[str]:
    if not path.startswith("/"):
        raise ValueError(f"The path {path!r} does not begin with a slash.")
    segments = path[1:].split("/")
    for segment in segments:
        if segment not in (SEGMENT, REST) and not _LITERAL_SEGMENT.fullmatch(segment):
            raise ValueError(
                f"The segment {segment!r} of the path {path!r} mixes a wildcard with text or has a "
                f"character that a path cannot contain. {SEGMENT} and {REST} stand alone between "
                "slashes."
            )
    if REST in segments:
        after = segments[segments.index(REST) + 1 :]
        if SEGMENT in after or REST in after:
            raise ValueError(f"In the path {path!r} another wildcard follows {REST}.")
    return segments


def _template_regex(segments: Sequence[str]) -> PathMatcher:
    wildcards = {SEGMENT: "[^/]+", REST: ".*"}
    pattern = "".join("/" + wildcards.get(part, quoted(part)) for part in segments)
    return PathMatcher(path=regex(pattern))


def wide_path(value: str) -> PathMatcher:
    """Match a path or a template, and what a program may take for it.

    Templates know the characters of RFC 3986 alone, but clients send ``/a/[1]`` too. And of a path
    of nothing but slashes Envoy leaves two when it merges them.
    """
    if value == "/":
        return PathMatcher(path=regex("//?"))
    if not is_template(value):
        return path(value)
    segments = _template_segments(checked(value))
    if segments == [REST]:
        return PathMatcher(path=StringMatcher(prefix="/"))
    return _template_regex(segments)


def path(value: str) -> PathMatcher:
    """Match a path without wildcard segments; the query never takes part."""
    return PathMatcher(path=string(value))


def cidr(value: str) -> CidrRange:
    """Read an address or a block. Bits behind the prefix are cut off, as Envoy does."""
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError(
            f"{value!r} is neither an IP address nor a block such as 10.0.0.0/8."
        ) from None
    return CidrRange(
        address_prefix=str(network.network_address),
        prefix_len=UInt32Value(value=network.prefixlen),
    )


def payload(claims: Sequence[str], value: StringMatcher) -> MetadataMatcher:
    """Match a verified claim that is a string."""
    return _metadata(claims, ValueMatcher(string_match=value))


def payload_list(claims: Sequence[str], value: StringMatcher) -> MetadataMatcher:
    """Match a verified claim that is a string or a list which contains it."""
    one = ValueMatcher(string_match=value)
    either = OrMatcher(value_matchers=[ValueMatcher(list_match=ListMatcher(one_of=one)), one])
    return _metadata(claims, ValueMatcher(or_match=either))


def no_payload() -> MetadataMatcher:
    """Match no payload at all; for filters that hold when the payload is missing."""
    return _metadata((), ValueMatcher(null_match=ValueMatcher.NullMatch()))


def _metadata(claims: Sequence[str], value: ValueMatcher) -> MetadataMatcher:
    segments = [MetadataMatcher.PathSegment(key=key) for key in (PAYLOAD, *claims)]
    return MetadataMatcher(filter=JWT_FILTER, path=segments, value=value)
