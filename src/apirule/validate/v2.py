"""Errors of an APIRule v2: what would keep it from being served as it reads.

The places and messages are those of the Kyma operator, in its order, because they stand in the
status that people search for; the fixes are ours. Without Facts, what needs them is left out.
"""

from __future__ import annotations

from collections.abc import Iterator

from apirule.apis.gateway import v2
from apirule.facts import Facts
from apirule.problem import METADATA, SPEC, FieldPath, Problem, Reason
from apirule.validate import cors, exposing, ext_auth, headers, jwt, rule_paths, workloads

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
_MAX_NAME = 63


def check(rule: v2.APIRule, facts: Facts | None) -> Iterator[Problem]:
    yield from exposing.check_gateway(rule, facts)
    yield from _check_name(rule)
    yield from _check_rules(rule, facts)
    yield from rule_paths.check_conflicts(rule)
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
    bare: workloads.Bare = {}
    for index, one in enumerate(rule.spec.rules):
        at = SPEC / "rules" / index
        yield from _check_access(one, at)
        yield from workloads.check_service(rule, one, at)
        if one.jwt is not None:
            yield from jwt.check(one.jwt, at / "jwt")
        if one.ext_auth is not None:
            yield from ext_auth.check(one.ext_auth, at / "extAuth")
        if facts is not None:
            yield from workloads.check_sidecars(rule, one, at, facts, bare)
            if one.ext_auth is not None:
                yield from ext_auth.check_authorizers(one.ext_auth, at / "extAuth", facts)
        yield from rule_paths.check(one.path, at / "path")
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
