"""Which paths a route must leave alone, because an earlier route serves them.

The list is the one of the Kyma operator, in its order, followed by what that one misses; so a
policy is only ever narrower, and the same text wherever nothing was missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from apirule.paths import ANY, EVERYTHING, PathIndex, Template

_ROOTS = (EVERYTHING, f"/{ANY}", "/")


class Matched(NamedTuple):
    """The requests of one rule."""

    path: Template
    methods: frozenset[str]


def all_not_paths(rules: Sequence[Matched]) -> tuple[tuple[str, ...], ...]:
    """Return for each rule the paths that it must not open.

    A path that two rules have is twice in the list of the Kyma operator. It stays so, for the hash
    of the policy depends on it.
    """
    earlier: PathIndex[int] = PathIndex()
    found = []
    for number, rule in enumerate(rules):
        listed = tuple(_listed(rules, rule))
        known = {*listed, rule.path.policy_text}
        meeting = (rules[index] for index in sorted(earlier.meeting(rule.path)))
        missed = dict.fromkeys(o.path.policy_text for o in meeting if o.methods & rule.methods)
        found.append((*listed, *(path for path in missed if path not in known)))
        earlier.add(rule.path, number)
    return tuple(found)


def _listed(rules: Sequence[Matched], rule: Matched) -> Iterator[str]:
    before = True
    for other in rules:
        if other.path.text in _ROOTS:
            continue
        if other.path.text == rule.path.text:
            before = False
        elif before and other.methods & rule.methods:
            yield other.path.policy_text
