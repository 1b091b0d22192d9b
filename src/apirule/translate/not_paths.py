"""Which paths a route must leave alone, because an earlier route serves them.

The list is the one of the Kyma operator, in its order, followed by what that one misses; so a
policy is only ever narrower, and the same text wherever nothing was missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from apirule.paths import ANY, EVERYTHING, Template, overlap

_ROOTS = (EVERYTHING, f"/{ANY}", "/")


class Matched(NamedTuple):
    """The requests of one rule."""

    path: Template
    methods: frozenset[str]


def not_paths(rules: Sequence[Matched], index: int) -> tuple[str, ...]:
    """Return the paths that rule ``index`` must not open.

    A path that two rules have is twice in the list of the Kyma operator. It stays so, for the hash
    of the policy depends on it.
    """
    listed = tuple(_listed(rules, rules[index]))
    missed = dict.fromkeys(_missed(rules[:index], rules[index]))
    return (*listed, *(path for path in missed if path not in listed))


def _listed(rules: Sequence[Matched], rule: Matched) -> Iterator[str]:
    before = True
    for other in rules:
        if other.path.text in _ROOTS:
            continue
        if other.path.text == rule.path.text:
            before = False
        elif before and other.methods & rule.methods:
            yield other.path.policy_text


def _missed(earlier: Sequence[Matched], rule: Matched) -> Iterator[str]:
    for other in earlier:
        if (
            other.path.policy_text != rule.path.policy_text
            and other.methods & rule.methods
            and overlap(other.path, rule.path)
        ):
            yield other.path.policy_text
