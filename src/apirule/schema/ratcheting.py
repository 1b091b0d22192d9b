"""Ratcheting: what was invalid before and stays as it was does not stand in the way of an update.

Without it a CRD that becomes stricter would freeze every object that no longer fits: nobody could
so much as take a finalizer off. The limits are those of Kubernetes: what is missing, what is there
twice, metadata, and whatever a logical junctor has to do with count at every write. But what the
object as a whole lacks may be missing still: another version of its kind may not ask for it, and an
object without ``spec`` would get no status otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from apirule.problem import Problem, Reason

_ALWAYS = frozenset((Reason.REQUIRED, Reason.DUPLICATE))
_JUNCTORS = ("allOf", "anyOf", "oneOf", "not")


def new_problems(
    problems: Sequence[Problem],
    obj: Mapping[str, Any],
    old: Mapping[str, Any],
    openapi: Mapping[str, Any],
) -> list[Problem]:
    """Return the problems of an object that its update has to mend."""
    return [
        problem
        for problem in problems
        if not _lacked(problem, old)
        and (problem.reason in _ALWAYS or not _stayed(problem, obj, old, openapi))
    ]


def same(one: Any, other: Any) -> bool:
    """Compare as JSON does: to Python ``1``, ``1.0`` and ``True`` are equal."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def counterpart(item: Any, old: Any, keys: Sequence[str]) -> Any:
    """Find the old entry of a list with keys; None: there is none, or it cannot be told."""
    if not keys or not isinstance(item, dict) or not isinstance(old, list):
        return None
    identity = [item.get(key) for key in keys]
    for entry in old:
        if isinstance(entry, dict) and [entry.get(key) for key in keys] == identity:
            return entry
    return None


def list_keys(schema: Mapping[str, Any]) -> Sequence[str]:
    """Return what tells the entries of a list apart; none if its order is all there is."""
    is_map = schema.get("x-kubernetes-list-type") == "map"
    return schema.get("x-kubernetes-list-map-keys") or () if is_map else ()


def _lacked(problem: Problem, old: Mapping[str, Any]) -> bool:
    parts = problem.field.parts
    return problem.reason is Reason.REQUIRED and len(parts) == 1 and parts[0] not in old


def _stayed(problem: Problem, new: Any, old: Any, schema: Any) -> bool:
    parts = problem.field.parts
    if parts[:1] in ((), ("metadata",)):
        return False
    unchanged = False
    for part in parts:
        if _joins(schema):
            return False
        unchanged = unchanged or same(new, old)
        new, old, schema = _step(new, old, schema, part)
    return not _joins(schema) and (unchanged or (new is not None and same(new, old)))


def _joins(schema: Any) -> bool:
    if not isinstance(schema, Mapping) or schema.get("x-kubernetes-int-or-string") is True:
        return False
    return any(name in schema for name in _JUNCTORS)


def _step(new: Any, old: Any, schema: Any, part: str | int) -> tuple[Any, Any, Any]:
    """Go to a field or an item. None stands for what is not there."""
    known: Mapping[str, Any] = schema if isinstance(schema, Mapping) else {}
    if isinstance(part, int):
        item = new[part] if isinstance(new, list) and part < len(new) else None
        return item, counterpart(item, old, list_keys(known)), known.get("items")
    child = (known.get("properties") or {}).get(part, known.get("additionalProperties"))
    item = new.get(part) if isinstance(new, dict) else None
    return item, old.get(part) if isinstance(old, dict) else None, child
