"""Advice about paths and methods: what is open, what is closed by accident."""

from __future__ import annotations

import re
from collections.abc import Iterator

from apirule.apis.gateway import v2
from apirule.paths import ANY, Template, overlap
from apirule.problem import SPEC, FieldPath, Problem, Reason, Severity

_NEVER_SENT = re.compile(
    r"//|/\.{1,2}(?=/|$)|%2[Ff]|%5[Cc]|%(?:4[1-9A-Fa-f]|5[0-9Aa]|6[1-9A-Fa-f]|7[0-9Aa]|3[0-9])"
    r"|%(?:2[DdEe]|5[Ff]|7[Ee])"
)
"""What a normalised path does not hold: it is merged, resolved or decoded before it is matched."""


def advise(rule: v2.APIRule) -> Iterator[Problem]:
    for index, one in enumerate(rule.spec.rules):
        at = SPEC / "rules" / index
        yield from _duplicate_methods(one, at)
        yield from _unreachable(one, at)
    served = [
        (index, Template.parse(one.path), one)
        for index, one in enumerate(rule.spec.rules)
        if _comparable(one.path)
    ]
    yield from _open_neighbours(served)
    yield from _open_rest(served)
    yield from _closed_methods(served)


def _comparable(path: str) -> bool:
    """Whether a path has no error of its own that keeps it from being set beside others."""
    try:
        return Template.parse(path).is_comparable
    except ValueError:
        return False


_Served = list[tuple[int, Template, v2.Rule]]


def _duplicate_methods(rule: v2.Rule, at: FieldPath) -> Iterator[Problem]:
    for method in dict.fromkeys(m for m in rule.methods if rule.methods.count(m) > 1):
        yield Problem(
            at / "methods",
            Reason.DUPLICATE,
            f"{method} is listed more than once",
            f"List {method} once; the Kyma operator refuses this rule.",
            Severity.WARNING,
        )


def _unreachable(rule: v2.Rule, at: FieldPath) -> Iterator[Problem]:
    if found := _NEVER_SENT.search(rule.path):
        yield Problem(
            at / "path",
            Reason.MISLEADING,
            f"{rule.path!r} holds {found[0]!r}, which no path holds once it is normalised",
            "Write the path as the Service sees it.",
            Severity.WARNING,
        )


def _open_neighbours(served: _Served) -> Iterator[Problem]:
    """Yield a warning where an open rule serves what looks the same as a guarded path."""
    for index, path, one in served:
        if one.no_auth or path.has_operator or path.text.endswith("/"):
            continue
        for method in dict.fromkeys(one.methods):
            opener = _first(served, f"{path}/", method)
            if opener is None or not opener[2].no_auth:
                continue
            yield Problem(
                SPEC / "rules" / index / "path",
                Reason.INSECURE,
                f"{path} needs a token, but rule {opener[0]} ({opener[1]}) serves {method} {path}/"
                " without one, and many programs answer both alike",
                f"Guard {path}/{{**}} in the same way, in a rule before rule {opener[0]}.",
                Severity.WARNING,
            )
            break


def _first(served: _Served, path: str, method: str) -> tuple[int, Template, v2.Rule] | None:
    return next((s for s in served if method in s[2].methods and s[1].matches(path)), None)


def _open_rest(served: _Served) -> Iterator[Problem]:
    """Yield a note where all that no rule guards is open."""
    if not any(one.jwt or (one.ext_auth and one.ext_auth.restrictions) for _, _, one in served):
        return
    for index, path, one in served:
        if one.no_auth and path.policy_text == f"/{ANY}":
            yield Problem(
                SPEC / "rules" / index,
                Reason.INSECURE,
                f"{', '.join(dict.fromkeys(one.methods))} on every path that no other rule guards"
                " needs no token",
                "Name the paths that are meant to be open, if these are not all.",
                Severity.NOTE,
            )


def _closed_methods(served: _Served) -> Iterator[Problem]:
    """Yield a note where an earlier rule takes a path from all methods of a later one."""
    for position, (index, path, one) in enumerate(served):
        for other, earlier, before in served[:position]:
            rest = sorted(set(one.methods) - set(before.methods))
            shares = set(one.methods) & set(before.methods)
            same = earlier.policy_text == path.policy_text
            if not rest or not shares or same or not overlap(earlier, path):
                continue
            yield Problem(
                SPEC / "rules" / index / "methods",
                Reason.MISLEADING,
                f"{', '.join(rest)} on the paths of rule {other} ({earlier}) is answered with 403:"
                f" what two rules share is closed to the later one in all of its methods",
                f"Give {', '.join(rest)} a rule of its own, or add it to rule {other}.",
                Severity.WARNING,
            )
