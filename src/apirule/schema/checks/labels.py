"""Labels and label selectors inside of a spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from apirule.problem import FieldPath, Problem
from apirule.schema import syntax
from apirule.schema.checks import words

_NEED_VALUES = ("In", "NotIn")


def labels(found: Mapping[str, str], at: FieldPath) -> Iterator[Problem]:
    for key, value in found.items():
        yield from words.misspelt(at, key, syntax.qualified_name)
        yield from words.misspelt(at, value, syntax.label_value)


def selector(found: Mapping[str, Any], at: FieldPath) -> Iterator[Problem]:
    yield from labels(found.get("matchLabels") or {}, at / "matchLabels")
    for index, condition in enumerate(found.get("matchExpressions") or ()):
        place = at / "matchExpressions" / index
        yield from words.misspelt(place / "key", condition.get("key", ""), syntax.qualified_name)
        operator, values = condition.get("operator"), condition.get("values")
        if operator in _NEED_VALUES and not values:
            detail = "must be specified when `operator` is 'In' or 'NotIn'"
            yield words.required(place / "values", "List the values.", detail)
        elif operator not in _NEED_VALUES and values:
            detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
            yield words.forbidden(place / "values", detail, "Remove the values.")
        for number, value in enumerate(values or ()):
            yield from words.misspelt(place / "values" / number, value, syntax.label_value)


def selects(found: Mapping[str, Any], given: Mapping[str, str]) -> bool:
    """Tell whether a ``metav1.LabelSelector`` selects an object with these labels."""
    for key, value in (found.get("matchLabels") or {}).items():
        if given.get(key) != value:
            return False
    for condition in found.get("matchExpressions") or ():
        key, operator = condition.get("key", ""), condition.get("operator", "")
        values = condition.get("values") or ()
        met = {
            "In": given.get(key) in values,
            "NotIn": given.get(key) not in values,
            "Exists": key in given,
            "DoesNotExist": key not in given,
        }.get(operator, False)
        if not met:
            return False
    return True
