"""What Envoy would refuse: found here, so that one bad object never stops the push of the others.

Envoy refuses a resource as a whole and rarely says which entry is at fault. Each function returns
the reason in Envoy's own words where it has some, and None for what Envoy takes.
"""

from __future__ import annotations

import re

from apirule import re2

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_BAD_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_LONGEST_PARAMETER = 1024
_LONGEST_HEADER = 16384
_NO_BODY_LIMIT = 4096
"""Envoy's default for the body of a direct response, in bytes."""

_AUTHORITY = "%REQ(:AUTHORITY)%"
# What Envoy sets itself and does not let a route change.
_PROTECTED = frozenset({"host", ":authority"})

regex = re2.fault


def header_name(name: str) -> str | None:
    if not _HEADER_NAME.fullmatch(name.removeprefix(":")):
        return "it is not an HTTP header name"
    return None


def parameter_name(name: str) -> str | None:
    if not name:
        return "it is empty"
    if len(name.encode()) > _LONGEST_PARAMETER:
        return f"it is longer than {_LONGEST_PARAMETER} bytes"
    return None


def header_change(name: str) -> str | None:
    """Whether a route may set, add or remove the header. ``host`` is rewritten in another way."""
    if name.startswith(":") or name.lower() in _PROTECTED:
        return "Envoy does not let a route change it"
    return header_name(name)


def header_value(value: str) -> str | None:
    if _BAD_IN_VALUE.search(value):
        return "it contains a control character"
    if len(value.encode()) > _LONGEST_HEADER:
        return f"it is longer than {_LONGEST_HEADER} bytes"
    return None


def escape_header_value(value: str) -> str:
    """Keep ``%REQ(:AUTHORITY)%``, which APIRules for wildcard hosts need; take ``%`` as text else.

    Other command operators could carry what the client must not decide into trusted headers, and
    one that is misspelt would make Envoy refuse the whole route table.
    """
    return _AUTHORITY.join(part.replace("%", "%%") for part in value.split(_AUTHORITY))


def direct_response(status: int, body: str) -> str | None:
    if not 200 <= status <= 599:  # noqa: PLR2004 - Envoy's own bounds
        return f"the status {status} is not between 200 and 599"
    if len(body.encode()) > _NO_BODY_LIMIT:
        return f"the body is longer than {_NO_BODY_LIMIT} bytes"
    return None


def substitution(pattern: str, rewrite: str) -> str | None:
    r"""Check that a rewrite names only groups (``\1``) that the pattern has."""
    bare = rewrite.replace("\\\\", "")
    if re.search(r"\\(?![0-9])", bare):
        return "a backslash in the rewrite must be followed by a digit or a backslash"
    named = [int(group) for group in re.findall(r"\\([0-9])", bare)]
    groups = len(re.findall(r"(?<!\\)\((?!\?(?!P?<))", pattern))
    if named and max(named) > groups:
        return f"the rewrite names group {max(named)}, the pattern has {groups}"
    return None
