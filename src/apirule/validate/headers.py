"""Errors of the headers and cookies that a rule sets, and what text a header can hold."""

from __future__ import annotations

import re
from collections.abc import Iterator

from apirule.apis.gateway import v2
from apirule.problem import FieldPath, Problem, Reason

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NOT_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def is_name(text: str) -> bool:
    """Whether a header or a cookie can be called so: a token of RFC 9110, 5.6.2."""
    return _TOKEN.fullmatch(text) is not None


def is_value(text: str) -> bool:
    """Whether a header can say so: no line break nor another control character but the tab."""
    return _NOT_IN_VALUE.search(text) is None


def check(request: v2.RequestModifier | None, at: FieldPath) -> Iterator[Problem]:
    if request is None:
        return
    for kind, fields in (("headers", request.headers), ("cookies", request.cookies)):
        for name, value in (fields or {}).items():
            if not is_name(name):
                yield Problem(
                    at / kind / name,
                    Reason.INVALID,
                    f"{name!r} cannot be the name of one of the {kind}",
                    "Use letters, digits and hyphens.",
                )
            if not is_value(value) or (kind == "cookies" and ";" in value):
                yield Problem(
                    at / kind / name,
                    Reason.INVALID,
                    f"The value of {name!r} holds a character that would end it early",
                    "Leave out line breaks and other control characters"
                    + (" and semicolons." if kind == "cookies" else "."),
                )
