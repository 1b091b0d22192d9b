"""Errors of paths: of each by itself, and of rules that no request can reach.

A rule is in conflict if in one of its methods an earlier rule serves all of its paths. The Kyma
operator looks method by method, in the order in which the rules name them, and tells what it finds
first; so do we, and go on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from apirule.apis.gateway import v2
from apirule.paths import ANY, ONE, PathIndex, Template, example
from apirule.problem import SPEC, FieldPath, Problem, Reason

_MAX_TEMPLATE = 256
"""What Envoy takes as a path template; it would refuse the policy as a whole."""


def check(path: str, at: FieldPath) -> Iterator[Problem]:
    try:
        template = Template.parse(path)
    except ValueError:
        yield Problem(
            at,
            Reason.INVALID,
            f"{path!r} is not a path pattern",
            "Write segments after slashes, each one literal, {*} or {**}; or /* for every path.",
        )
        return
    anywhere = [place for place, part in enumerate(template.segments) if part == ANY]
    if len(anywhere) > 1:
        yield Problem(
            at,
            Reason.INVALID,
            "Only one {**} operator is allowed in the path.",
            f"Keep the last {{**}} of {path} and write {{*}} for the ones before it.",
        )
    if anywhere and ONE in template.segments[anywhere[0] :]:
        yield Problem(
            at,
            Reason.INVALID,
            "The {**} operator must be the last operator in the path.",
            f"End {path} with {{**}}, or write {{*}} for each segment.",
        )
    if template.has_operator and len(_as_envoys(path)) > _MAX_TEMPLATE:
        yield Problem(
            at,
            Reason.TOO_LONG,
            f"A path with an operator has at most {_MAX_TEMPLATE} characters, each {{*}} counted"
            f" as one and {{**}} as two, and this one has {len(_as_envoys(path))}",
            "Shorten the path, or guard a prefix of it that ends with {**}.",
        )
    if template.has_operator and "" in template.segments[:-1]:
        yield Problem(
            at,
            Reason.INVALID,
            f"{path!r} has an empty segment beside an operator, which Istio refuses",
            f"Write {re.sub('/{2,}', '/', path)}.",
        )


def _as_envoys(path: str) -> str:
    return path.translate({ord("{"): None, ord("}"): None})


def check_conflicts(rule: v2.APIRule) -> Iterator[Problem]:
    """Yield a problem for each rule that no request can reach in one of its methods."""
    rules = rule.spec.rules
    paths = [None if any(check(one.path, SPEC)) else Template.parse(one.path) for one in rules]
    told: set[int] = set()
    for method in dict.fromkeys(method for one in rules for method in one.methods):
        earlier: PathIndex[int] = PathIndex()
        for index, path in enumerate(paths):
            if path is None or method not in rules[index].methods:
                continue
            other = min(earlier.covering(path), default=None)
            if other is not None and index not in told:
                told.add(index)
                yield _conflict(index, path, method, other, Template.parse(rules[other].path))
            earlier.add(path, index)


def _conflict(index: int, path: Template, method: str, other: int, covering: Template) -> Problem:
    same = path.policy_text == covering.policy_text
    return Problem(
        SPEC / "rules",
        Reason.CONFLICT,
        f"Path {path} with method {method} conflicts with at least one of the previous rule paths",
        f"Rule {other} ({covering}) already serves every such request, {method} {example(path)} "
        f"for one; "
        + (
            f"merge rule {index} into it."
            if same
            else f"move rule {index} before it, or take {method} out of one of them."
        ),
    )
