"""What a schema cannot say of an APIRule: every mistake and every piece of advice, at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from apirule.apis import operator, scheme
from apirule.apis.gateway.v2 import GROUP, APIRule
from apirule.apis.meta import GroupVersionKind
from apirule.facts import Facts
from apirule.problem import SPEC, Problem, Reason, Severity
from apirule.validate import advice, v2

__all__ = ["admission_warnings", "validate"]

_VERSIONS = ("v2", "v2alpha1")
_MAX_WARNING = 256
"""Longer Warning headers may be cut off by what stands between server and client."""


def validate(rule: APIRule, facts: Facts | None) -> list[Problem]:
    """Return all problems of a rule: errors in the order of their checks, then advice.

    Without facts, what depends on other objects is left out.
    """
    errors = list(v2.check(rule, facts))
    return errors + list(advice.advise(rule, facts))


def admission_warnings(obj: Mapping[str, Any]) -> list[str]:
    """Return what to tell the writer of an object at once, knowing nothing of the cluster.

    Objects of other kinds, and those whose shape the schema refuses anyway, get no warnings.
    """
    gvk = GroupVersionKind.of(obj)
    if (gvk.group, gvk.kind) == (operator.GROUP, operator.APIGateway.gvk.kind):
        return [_warning(problem) for problem in _of_api_gateway(obj)]
    if (gvk.group, gvk.kind) != (GROUP, "APIRule") or gvk.version not in _VERSIONS:
        return []
    try:
        rule = scheme.decode(obj, APIRule)
    except msgspec.ValidationError:
        return []
    return [_warning(problem) for problem in _without_facts(rule)]


def _without_facts(rule: APIRule) -> Iterator[Problem]:
    yield from v2.check(rule, None)
    yield from advice.advise(rule, None)


def _of_api_gateway(obj: Mapping[str, Any]) -> Iterator[Problem]:
    spec = obj.get("spec")
    if isinstance(spec, Mapping) and spec.get("networkPoliciesEnabled"):
        yield Problem(
            SPEC / "networkPoliciesEnabled",
            Reason.MISLEADING,
            "It has no effect here: all Pods of one machine share its loopback network.",
            "Use AuthorizationPolicies to say who may call whom.",
            Severity.WARNING,
        )


def _warning(problem: Problem) -> str:
    text = " ".join(f"{str(problem).rstrip('.')}. {problem.fix}".split())
    return text if len(text) <= _MAX_WARNING else text[: _MAX_WARNING - 1] + "…"
