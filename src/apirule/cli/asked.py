"""For which rule of which APIRule a request was, and what that asks of its token. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from apirule.apis.gateway import v2
from apirule.cli import acceptance
from apirule.mesh import hosts
from apirule.paths import Template
from apirule.translate.authorization_policy import SCOPE_CLAIMS


class Known(NamedTuple):
    rules: Sequence[v2.APIRule]
    domain: str
    """Of hosts without a dot."""

    def exposing(self, host: str) -> v2.APIRule | None:
        """Return the APIRule of a host; one that names it goes before one with a wildcard."""
        found = [
            (len(full), rule)
            for rule in self.rules
            for full in (one if "." in one else f"{one}.{self.domain}" for one in rule.spec.hosts)
            if hosts.covers(full, host)
        ]
        return max(found, key=lambda pair: pair[0])[1] if found else None


def number_of(rule: v2.APIRule, path: str, method: str) -> int:
    """Return which rule is the first to match, from 1; 0: none does."""
    matching = (
        number
        for number, one in enumerate(rule.spec.rules, 1)
        if method in one.methods and _matches(one, path)
    )
    return next(matching, 0)


def methods_of(rule: v2.APIRule, path: str) -> list[str]:
    """Return the methods that the rules have for a path."""
    return list(
        dict.fromkeys(
            method for one in rule.spec.rules if _matches(one, path) for method in one.methods
        )
    )


def lacking(rule: v2.APIRule, number: int, claims: Mapping[str, Any]) -> str:
    """Say what a rule wants and a verified token has not; empty: nothing that is known.

    No claims: there was no token.
    """
    asked = rule.spec.rules[number - 1].required_token
    if asked is None:
        return ""
    name = f"APIRule {rule.object_name} rule {number}"
    if not claims:
        return f"it has no token{issuers_wanted(rule, number)}"
    # Whether it has a sub is in no log.
    lacks = acceptance.lacks({**claims, "sub": ""}, asked)
    if not lacks:
        return ""
    return f"{name} {lacks}; its token {_has(claims, asked)}"


def issuers_wanted(rule: v2.APIRule, number: int) -> str:
    """Return the end of a sentence: whose tokens a rule asks for, if it does."""
    asked = rule.spec.rules[number - 1].required_token
    if asked is None:
        return ""
    issuers = " or ".join(dict.fromkeys(one.issuer for one in asked.authentications))
    return f"; APIRule {rule.object_name} rule {number} asks for one of {issuers}"


def _has(claims: Mapping[str, Any], asked: v2.Jwt) -> str:
    if claims.get("iss") not in [one.issuer for one in asked.authentications]:
        return f"is of {claims.get('iss')}"
    scopes = dict.fromkeys(
        scope for claim in SCOPE_CLAIMS for scope in acceptance.words(claims.get(claim), split=True)
    )
    audiences = acceptance.words(claims.get("aud"))
    scope = f"scope {' '.join(scopes)}" if scopes else "no scope"
    audience = f"audience {' and '.join(audiences)}" if audiences else "no audience"
    return f"has {scope}, {audience}"


def _matches(one: v2.Rule, path: str) -> bool:
    try:
        return Template.parse(one.path).matches(path)
    except ValueError:
        return False  # its APIRule is in state Error
