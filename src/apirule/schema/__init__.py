"""What an API server does with a schema: admit objects, describe kinds, check CRDs.

The API server holds one ``KindInfo`` per served version: ``builtin_kinds()`` and, for each
CustomResourceDefinition in its store, ``from_crd(crd)`` after ``check_crd(crd)`` found nothing. Per
write it calls ``admit``; for ``kubectl explain`` and discovery it uses ``openapi``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from apirule.apis.meta import Object
from apirule.problem import FieldPath, Problem, Reason
from apirule.schema.checks import check
from apirule.schema.definitions import check_crd
from apirule.schema.kinds import KindInfo, builtin_kinds, bundled_crds, from_crd
from apirule.schema.ratcheting import new_problems
from apirule.schema.structural import StructuralSchema

__all__ = [
    "Admission",
    "KindInfo",
    "StructuralSchema",
    "admit",
    "builtin_kinds",
    "bundled_crds",
    "check_crd",
    "from_crd",
]

_RULES_NOT_CHECKED = Problem(
    FieldPath("<nil>"),
    Reason.INVALID,
    "Invalid value: null: some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation",
    "Correct the other problems first.",
)
# Without these an object has the shape that the rules were written for.
_BLOCKING = {
    Reason.REQUIRED,
    Reason.NOT_SUPPORTED,
    Reason.TOO_LONG,
    Reason.TOO_MANY,
    Reason.TYPE_INVALID,
}


class Admission(msgspec.Struct, frozen=True):
    """What came of an object: store ``object`` if there are no ``problems``."""

    object: Object
    """Pruned and with defaults. Shares unchanged parts with the object given."""
    problems: list[Problem]
    """In schema order; the texts are the causes of a Kubernetes Status 422."""
    unknown_fields: list[str]
    """Paths of the pruned fields, sorted: ``unknown field "spec.bogus"`` in strict mode."""


def admit(
    obj: Mapping[str, Any], kind: KindInfo, *, old: Mapping[str, Any] | None = None
) -> Admission:
    """Prune, fill in defaults and validate an object against its kind.

    Status is treated like spec: on the main path of a kind with a status subresource, set it to
    the stored one first. Of metadata the fields and their types are checked; names, labels and
    what may change are left to the caller. ``old`` is the stored object on an update, for rules
    that compare the two, and because what was invalid before may stay so.
    """
    pruned, unknown = kind.schema.prune(obj)
    complete = kind.schema.default(pruned)
    if kind.builtin:
        complete = kind.schema.drop_empty(complete)
        problems = _problems_of_builtin(complete, kind)
        if problems and old is not None:
            known = set(_problems_of_builtin(kind.schema.default(old), kind))
            problems = [problem for problem in problems if problem not in known]
    else:
        problems = _problems_of_custom(complete, kind, old)
    return Admission(complete, problems, unknown)


def _problems_of_builtin(obj: Object, kind: KindInfo) -> list[Problem]:
    problems = kind.schema.validate(obj)
    if any(problem.reason is Reason.TYPE_INVALID for problem in problems):
        return problems
    return [*problems, *check(kind.resource, obj)]


def _problems_of_custom(
    obj: Object, kind: KindInfo, old: Mapping[str, Any] | None
) -> list[Problem]:
    problems = kind.schema.validate(obj)
    if problems and old is not None:
        problems = new_problems(problems, obj, old, kind.schema.openapi)
    rules = kind.schema.rules
    if rules and any(problem.reason in _BLOCKING for problem in problems):
        problems.append(_RULES_NOT_CHECKED)
    elif rules:
        problems += rules.evaluate(obj, old)
    return problems
