"""Warnings and notes: a rule that is served, and does not do what its writer may believe."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from apirule.apis.gateway import v2
from apirule.facts import Facts
from apirule.problem import Problem
from apirule.validate import advice_cluster, advice_paths, advice_tokens, cors, ext_auth

_MOST_ALIKE = 20


def advise(rule: v2.APIRule, facts: Facts | None) -> Iterator[Problem]:
    """Yield advice; without Facts, what needs them is left out."""
    yield from at_once(rule, facts)
    if facts is not None:
        yield from advice_cluster.idle(rule, facts)


def at_once(rule: v2.APIRule, facts: Facts | None) -> Iterator[Problem]:
    """Yield the advice that holds even if the workload is about to be started."""
    for alike in (
        *advice_paths.advise(rule),
        cors.advise(rule),
        *advice_tokens.advise(rule),
        ext_auth.advise(rule),
    ):
        yield from _some(alike)
    if facts is not None:
        yield from advice_cluster.advise(rule, facts)


def _some(alike: Iterator[Problem]) -> Iterator[Problem]:
    """Yield advice of one kind, but no endless list of it: a rule may have a thousand paths."""
    yield from islice(alike, _MOST_ALIKE)
    if (left_out := next(alike, None)) is not None:
        yield Problem(
            left_out.field,
            left_out.reason,
            "From here on there is more of this kind, which is not listed",
            "Mend what is listed, and look again.",
            left_out.severity,
        )
