"""Advice about paths and methods: what is open, what is closed by accident."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from apirule.apis.gateway import v2
from apirule.paths import ANY, PathIndex, Template
from apirule.problem import SPEC, Problem, Reason, Severity

_NEVER_SENT = re.compile(
    r"//|/\.{1,2}(?=/|$)|%2[Ff]|%5[Cc]|%(?:4[1-9A-Fa-f]|5[0-9Aa]|6[1-9A-Fa-f]|7[0-9Aa]|3[0-9])"
    r"|%(?:2[DdEe]|5[Ff]|7[Ee])"
)
"""What a normalised path does not hold: it is merged, resolved or decoded before it is matched."""


def advise(rule: v2.APIRule) -> tuple[Iterator[Problem], ...]:
    """Return one iterator for each kind of advice."""
    served = [
        (index, Template.parse(one.path), one)
        for index, one in enumerate(rule.spec.rules)
        if _comparable(one.path)
    ]
    first = _First(served)
    return (
        _duplicate_methods(rule),
        _unreachable(rule),
        _open_neighbours(served, first),
        _open_spellings(served, first),
        _open_rest(served),
        _closed_methods(served),
    )


def _comparable(path: str) -> bool:
    """Whether a path has no error of its own that keeps it from being set beside others."""
    try:
        return Template.parse(path).is_comparable
    except ValueError:
        return False


_Rule = tuple[int, Template, v2.Rule]
_Served = list[_Rule]


def _duplicate_methods(rule: v2.APIRule) -> Iterator[Problem]:
    for index, one in enumerate(rule.spec.rules):
        for method in dict.fromkeys(m for m in one.methods if one.methods.count(m) > 1):
            yield Problem(
                SPEC / "rules" / index / "methods",
                Reason.DUPLICATE,
                f"{method} is listed more than once",
                f"List {method} once; the Kyma operator refuses this rule.",
                Severity.WARNING,
            )


def _unreachable(rule: v2.APIRule) -> Iterator[Problem]:
    for index, one in enumerate(rule.spec.rules):
        if found := _NEVER_SENT.search(one.path):
            yield Problem(
                SPEC / "rules" / index / "path",
                Reason.MISLEADING,
                f"{one.path!r} holds {found[0]!r}, which no path holds once it is normalised",
                "Write the path as the Service sees it.",
                Severity.WARNING,
            )


class _First:
    """Which rule serves a request: the first one that matches."""

    def __init__(self, served: _Served) -> None:
        self._served = {index: (index, path, one) for index, path, one in served}
        self._by_method: defaultdict[str, PathIndex[int]] = defaultdict(PathIndex)
        for index, path, one in served:
            for method in dict.fromkeys(one.methods):
                self._by_method[method].add(path, index)

    def of(self, method: str, path: str) -> _Rule | None:
        first = min(self._by_method[method].covering(Template.parse(path)), default=None)
        return None if first is None else self._served[first]


def _open_neighbours(served: _Served, first: _First) -> Iterator[Problem]:
    """Yield a warning where an open rule serves what is below a guarded path."""
    for index, path, method, opener in _open_beside(served, first, "/"):
        number, open_path, _ = opener
        spelled = [s for s in _spellings(path.text) if first.of(method, s) == opener]
        open_too = "".join(f", {one}" for one in spelled)
        yield Problem(
            SPEC / "rules" / index / "path",
            Reason.INSECURE,
            f"{path} needs a token, but rule {number} ({open_path}) serves {method} {path}/"
            f"{open_too} without one",
            f"Guard {path}/{{**}} in the same way, in a rule before rule {number}."
            + (f" {spelled[0]} stays open unless you name the open paths." if spelled else ""),
            Severity.WARNING,
        )


def _open_spellings(served: _Served, first: _First) -> Iterator[Problem]:
    """Yield a note where an open rule serves a guarded path in another spelling.

    One that is open for everything is told of as such.
    """
    for index, path, method, (number, opener, _) in _open_beside(served, first, ";x"):
        below = first.of(method, f"{path}/")
        if opener.policy_text == f"/{ANY}" or (below is not None and below[2].no_auth):
            continue
        yield Problem(
            SPEC / "rules" / index / "path",
            Reason.INSECURE,
            f"{path} needs a token, but rule {number} ({opener}) serves {method}"
            f" {', '.join(_spellings(path.text))} without one",
            f"Name the paths that are meant to be open in rule {number}, if the program answers"
            " these alike.",
            Severity.NOTE,
        )


def _open_beside(
    served: _Served, first: _First, ending: str
) -> Iterator[tuple[int, Template, str, _Rule]]:
    """Yield each guarded path without operator that is open with an ending, and whose that is."""
    for index, path, one in served:
        if one.no_auth or path.has_operator or path.text.endswith("/"):
            continue
        for method in dict.fromkeys(one.methods):
            opener = first.of(method, path.text + ending)
            if opener is not None and opener[2].no_auth:
                yield index, path, method, opener
                break


def _spellings(path: str) -> list[str]:
    """Return what some programs take for the same path."""
    parent, slash, name = path.rpartition("/")
    capitals = name.upper() if name.upper() != name else name.lower()
    return [*([parent + slash + capitals] if capitals != name else []), f"{path};x", f"{path}."]


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
                " needs no token, guarded ones in capitals, with ;x or a dot at the end included",
                "Name the paths that are meant to be open, if these are not all.",
                Severity.NOTE,
            )


def _closed_methods(served: _Served) -> Iterator[Problem]:
    """Yield a note where an earlier rule takes a path from all methods of a later one."""
    by_methods: defaultdict[frozenset[str], PathIndex[int]] = defaultdict(PathIndex)
    paths = {index: path for index, path, _ in served}
    for index, path, one in served:
        methods = frozenset(one.methods)
        takers = sorted(
            (other, methods - before)
            for before, earlier in by_methods.items()
            if methods & before and methods - before
            for other in earlier.meeting(path)
            if paths[other].policy_text != path.policy_text
        )
        for other, closed in takers:
            rest = ", ".join(sorted(closed))
            yield Problem(
                SPEC / "rules" / index / "methods",
                Reason.MISLEADING,
                f"{rest} on the paths of rule {other} ({paths[other]}) is answered with 403:"
                f" what two rules share is closed to the later one in all of its methods",
                f"Give {rest} a rule of its own, or add it to rule {other}.",
                Severity.WARNING,
            )
        by_methods[methods].add(path, index)
