"""Warnings and notes: a rule that is served, and does not do what its writer may believe."""

from __future__ import annotations

from collections.abc import Iterator

from apirule.apis.gateway import v2
from apirule.facts import Facts
from apirule.problem import Problem
from apirule.validate import advice_cluster, advice_paths, advice_tokens, cors, ext_auth


def advise(rule: v2.APIRule, facts: Facts | None) -> Iterator[Problem]:
    """Yield advice; without Facts, what needs them is left out."""
    yield from at_once(rule, facts)
    if facts is not None:
        yield from advice_cluster.idle(rule, facts)


def at_once(rule: v2.APIRule, facts: Facts | None) -> Iterator[Problem]:
    """Yield the advice that holds even if the workload is about to be started."""
    yield from advice_paths.advise(rule)
    yield from cors.advise(rule)
    yield from advice_tokens.advise(rule)
    yield from ext_auth.advise(rule)
    if facts is not None:
        yield from advice_cluster.advise(rule, facts)
