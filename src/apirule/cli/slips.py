"""What people write in place of a path or a Gateway, and what they meant. Pure."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import msgspec

from apirule.problem import Problem

_SERVICE_HOST = re.compile(r"(?P<name>[a-z0-9-]+)\.(?P<namespace>[a-z0-9-]+)(\.svc(\..+)?)?")
_ANYTHING = (".*", "*", "**", "(.*)")
"""Last segments of other languages of patterns."""
_OPERATORS = ("{*}", "{**}")
_SAFE = "/{*}-._~!$&'()+,;=:@%"


def mended(problem: Problem, value: Any) -> Problem:
    """Return the problem with a fix that says what to write, where that can be told."""
    if not isinstance(value, str) or not value:
        return problem
    match problem.field.parts:
        case ("spec", "gateway"):
            fix = _gateway(value)
        case ("spec", "rules", int(), "path"):
            fix = _path(value)
        case _:
            return problem
    return msgspec.structs.replace(problem, fix=fix) if fix else problem


def _gateway(value: str) -> str:
    if "/" not in value and (found := _SERVICE_HOST.fullmatch(value)):
        return f"Write namespace/name: {found['namespace']}/{found['name']}."
    if re.fullmatch("[a-z0-9-]+", value):
        return f"Write the namespace first, such as kyma-system/{value}."
    return ""


def _path(value: str) -> str:
    if not value.startswith("/"):
        return f"A path begins with a slash: /{value}."
    *first, last = value.split("/")[1:]
    if not first and last in _ANYTHING:
        return "Write /*."
    segments = ["{*}" if one == "*" else one for one in first]
    segments.append("{**}" if last in _ANYTHING else last)
    if any("*" in one and one not in _OPERATORS for one in segments):
        return "An operator stands for a whole segment; write {*} for one, {**} for the rest."
    text = quote("/" + "/".join(segments), safe=_SAFE)
    return f"Write {text}." if text != value else ""
