"""Deployments and ReplicaSets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from apirule.apis.meta import Object
from apirule.problem import SPEC, FieldPath, Problem
from apirule.schema.checks import labels, words
from apirule.schema.checks.pods import template

_PER_CENT = re.compile(r"([0-9]+)%")
_HUNDRED = 100
_ROLLING = SPEC / "strategy" / "rollingUpdate"


def deployment(obj: Object) -> Iterator[Problem]:
    spec = obj.get("spec") or {}
    yield from _selection(spec, "deployment")
    yield from template(spec.get("template") or {}, SPEC / "template")
    yield from _strategy(spec.get("strategy") or {})
    deadline, ready = spec.get("progressDeadlineSeconds"), spec.get("minReadySeconds", 0)
    if deadline is not None and deadline <= ready:
        at = SPEC / "progressDeadlineSeconds"
        detail = "must be greater than minReadySeconds"
        yield words.invalid(at, deadline, detail, f"Write more than {ready}.")


def replica_set(obj: Object) -> Iterator[Problem]:
    spec = obj.get("spec") or {}
    yield from _selection(spec, "replicaset")
    yield from template(spec.get("template") or {}, SPEC / "template")


def _selection(spec: Mapping[str, Any], kind: str) -> Iterator[Problem]:
    selector = spec.get("selector")
    if selector is None:
        return
    yield from labels.selector(selector, SPEC / "selector")
    given = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    if not (selector.get("matchLabels") or selector.get("matchExpressions")):
        detail = f"empty selector is invalid for {kind}"
        yield words.invalid(SPEC / "selector", {}, detail, "Select the template's labels.")
    elif not labels.selects(selector, given):
        at = SPEC / "template" / "metadata" / "labels"
        detail = "`selector` does not match template `labels`"
        yield words.invalid(at, given, detail, "Give the template the labels selected.")


def _strategy(strategy: Mapping[str, Any]) -> Iterator[Problem]:
    rolling = strategy.get("rollingUpdate")
    if rolling is None:
        return
    if strategy.get("type") == "Recreate":
        detail = "may not be specified when strategy `type` is 'Recreate'"
        yield words.forbidden(_ROLLING, detail, "Remove rollingUpdate.")
        return
    for key in ("maxSurge", "maxUnavailable"):
        if key in rolling:
            yield from _share(rolling[key], _ROLLING / key)
    unavailable = rolling.get("maxUnavailable", "25%")
    if _is_nothing(unavailable) and _is_nothing(rolling.get("maxSurge", "25%")):
        detail = "may not be 0 when `maxSurge` is 0"
        yield words.invalid(
            _ROLLING / "maxUnavailable", unavailable, detail, "Allow at least one of the two."
        )
    match = _PER_CENT.fullmatch(str(unavailable))
    if match and int(match[1]) > _HUNDRED:
        detail = "must not be greater than 100%"
        yield words.invalid(_ROLLING / "maxUnavailable", unavailable, detail, "Write 100%.")


def _share(value: int | str, at: FieldPath) -> Iterator[Problem]:
    if isinstance(value, int):
        if value < 0:
            detail = "must be greater than or equal to 0"
            yield words.invalid(at, value, detail, "Write at least 0.")
    elif not _PER_CENT.fullmatch(value):
        detail = "a valid percent string must be a numeric string followed by an ending '%'"
        yield words.invalid(at, value, detail, "Write a number, or a percentage such as 25%.")


def _is_nothing(value: int | str) -> bool:
    return value == 0 or (isinstance(value, str) and value.strip("0") == "%")
