"""APIRule to Istio: lower it to an Exposure, emit one kind per module."""

from __future__ import annotations

import msgspec

from apirule.apis.gateway import v2
from apirule.apis.meta import Resource
from apirule.facts import Facts
from apirule.problem import Problem, Severity
from apirule.translate import authorization_policy, request_authentication, virtual_service
from apirule.translate.exposure import Exposure
from apirule.translate.from_v2 import lower
from apirule.validate import validate

__all__ = ["Outcome", "emit", "translate"]


class Outcome(msgspec.Struct, frozen=True):
    """``resources`` is None when the rule has errors: what exists must then stay as it is."""

    resources: tuple[Resource, ...] | None
    problems: tuple[Problem, ...]


def translate(rule: v2.APIRule, facts: Facts) -> Outcome:
    """Return what a rule asks Istio for, guards first, and everything there is to say of it."""
    problems = tuple(validate(rule, facts))
    if any(problem.severity is Severity.ERROR for problem in problems):
        return Outcome(None, problems)
    return Outcome(emit(lower(rule, facts)), problems)


def emit(exposure: Exposure) -> tuple[Resource, ...]:
    return (
        *request_authentication.emit(exposure),
        *authorization_policy.emit(exposure),
        virtual_service.emit(exposure),
    )
