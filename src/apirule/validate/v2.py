"""Errors of an APIRule v2: what would keep it from being served as it reads.

The places and messages are those of the Kyma operator, in its order, because they stand in the
status that people search for; the fixes are ours. Without Facts, what needs them is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from apirule.apis.gateway import v2
from apirule.facts import Facts
from apirule.paths import ANY, ONE, Template, covers, example
from apirule.problem import METADATA, SPEC, FieldPath, Problem, Reason
from apirule.validate import cors, exposing, ext_auth, headers, jwt, workloads

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
_MAX_NAME = 63
_MAX_TEMPLATE = 256
"""What Envoy takes as a path template; it would refuse the policy as a whole."""


def check(rule: v2.APIRule, facts: Facts | None) -> Iterator[Problem]:
    yield from exposing.check_gateway(rule, facts)
    yield from _check_name(rule)
    yield from _check_rules(rule, facts)
    yield from _check_conflicts(rule)
    yield from jwt.check_equality(rule)
    yield from exposing.check_hosts(rule, facts)
    yield from cors.check(rule.spec.cors_policy)


def _check_name(rule: v2.APIRule) -> Iterator[Problem]:
    if len(rule.metadata.name) > _MAX_NAME:
        yield Problem(
            METADATA / "name",
            Reason.TOO_LONG,
            f"{rule.metadata.name!r} is longer than {_MAX_NAME} characters and cannot be the "
            "value of the labels on the objects made from the rule",
            "Give the APIRule a shorter name.",
        )


def _check_rules(rule: v2.APIRule, facts: Facts | None) -> Iterator[Problem]:
    if not rule.spec.rules:
        yield Problem(SPEC / "rules", Reason.REQUIRED, "No rules defined", "Add a rule.")
    for index, one in enumerate(rule.spec.rules):
        at = SPEC / "rules" / index
        yield from _check_access(one, at)
        yield from workloads.check_service(rule, one, at)
        if one.jwt is not None:
            yield from jwt.check(one.jwt, at / "jwt")
        if one.ext_auth is not None:
            yield from ext_auth.check(one.ext_auth, at / "extAuth")
        if facts is not None:
            yield from workloads.check_sidecars(rule, one, at, facts)
            if one.ext_auth is not None:
                yield from ext_auth.check_authorizers(one.ext_auth, at / "extAuth", facts)
        yield from _check_path(one.path, at / "path")
        yield from _check_methods(one, at / "methods")
        yield from headers.check(one.request, at / "request")


def _check_access(rule: v2.Rule, at: FieldPath) -> Iterator[Problem]:
    given = (rule.no_auth is True, rule.jwt is not None, rule.ext_auth is not None)
    if sum(given) != 1:
        yield Problem(
            at,
            Reason.INVALID,
            "One of the following fields must be set: noAuth, jwt, extAuth",
            "Keep exactly one of the three; noAuth counts when it is true.",
        )


def _check_path(path: str, at: FieldPath) -> Iterator[Problem]:
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


def _check_methods(rule: v2.Rule, at: FieldPath) -> Iterator[Problem]:
    if not rule.methods:
        yield Problem(at, Reason.REQUIRED, "No methods defined", "List them, such as [GET].")
    for index, method in enumerate(rule.methods):
        if method not in METHODS:
            yield Problem(
                at / index,
                Reason.NOT_SUPPORTED,
                f"{method!r} is not a method that can be exposed",
                f"Write one of {', '.join(METHODS)}.",
            )


def _check_conflicts(rule: v2.APIRule) -> Iterator[Problem]:
    """Yield a problem for each rule that no request can reach in one of its methods."""
    earlier: list[tuple[int, Template, frozenset[str]]] = []
    for index, one in enumerate(rule.spec.rules):
        if any(_check_path(one.path, SPEC)):
            continue
        path = Template.parse(one.path)
        for method in dict.fromkeys(one.methods):
            for other, covering, methods in earlier:
                if method in methods and covers(covering, path):
                    yield _conflict(index, path, method, other, covering)
                    break
            else:
                continue
            break
        earlier.append((index, path, frozenset(one.methods)))


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
