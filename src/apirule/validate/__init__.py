"""What a schema cannot say of an APIRule: every mistake and every piece of advice, at once."""

from __future__ import annotations

from apirule.apis.gateway.v2 import APIRule
from apirule.facts import Facts
from apirule.problem import Problem
from apirule.validate import advice, v2
from apirule.validate.admission import admission_warnings

__all__ = ["admission_warnings", "validate"]


def validate(rule: APIRule, facts: Facts | None) -> list[Problem]:
    """Return all problems of a rule: errors in the order of their checks, then advice.

    Without facts, what depends on other objects is left out.
    """
    errors = list(v2.check(rule, facts))
    return errors + list(advice.advise(rule, facts))
