"""What the writer of an object is told at once, in the answer to his write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from apirule.apis import operator, scheme
from apirule.apis.gateway.v2 import GROUP, APIRule
from apirule.apis.meta import GroupVersionKind
from apirule.facts import Facts
from apirule.problem import SPEC, Problem, Reason, Severity
from apirule.validate import advice, v2

_VERSIONS = ("v2", "v2alpha1")
_LONGEST = 256
_MOST_BYTES = 3072
"""What all warnings may have. With 4096 a real API server begins to cut; some belongs to others."""


def admission_warnings(
    obj: Mapping[str, Any],
    old: Mapping[str, Any] | None = None,
    facts: Callable[[], Facts | None] = lambda: None,
) -> list[str]:
    """Return what there is to say of an object, as far as it fits into an answer.

    Nothing of a write that leaves the spec as it was, of other kinds, and of an object whose shape
    the schema refuses anyway. ``facts`` gives what is known of the cluster, None for nothing.
    """
    if old is not None and old.get("spec") == obj.get("spec"):
        return []
    return _fitting([_warning(problem) for problem in _problems(obj, facts)])


def _problems(obj: Mapping[str, Any], facts: Callable[[], Facts | None]) -> Iterator[Problem]:
    gvk = GroupVersionKind.of(obj)
    if (gvk.group, gvk.kind) == (operator.GROUP, operator.APIGateway.gvk.kind):
        yield from _of_api_gateway(obj)
    elif (gvk.group, gvk.kind) == (GROUP, "APIRule") and gvk.version in _VERSIONS:
        try:
            rule = scheme.decode(obj, APIRule)
        except msgspec.ValidationError:
            return
        known = facts()
        yield from v2.check(rule, known)
        yield from advice.at_once(rule, known)


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
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _fitting(texts: Sequence[str]) -> list[str]:
    size = 0
    for index, text in enumerate(texts):
        size += len(text.encode())
        if size > _MOST_BYTES:
            return [*texts[:index], f"{len(texts) - index} more; see the condition Accepted"]
    return list(texts)
