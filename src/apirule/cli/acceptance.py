"""Which rules would let a token in, by its issuer, audience and scopes. Pure.

Whether it is signed and still valid is for others to say; so is what an external authorizer says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from apirule.apis.gateway import v2
from apirule.names import ObjectName
from apirule.translate.authorization_policy import SCOPE_CLAIMS


class Verdict(NamedTuple):
    rule: ObjectName
    number: int
    """Of the rule within its APIRule, from 1."""
    lacks: str
    """What keeps the token out; empty: nothing does."""

    def __str__(self) -> str:
        why = f" ({self.lacks})" if self.lacks else ""
        return f"{self.rule} rule {self.number}{why}"


def verdicts(claims: Mapping[str, Any], rules: Iterable[v2.APIRule]) -> Iterator[Verdict]:
    """Yield a verdict for each rule that asks for a token."""
    for rule in rules:
        for number, one in enumerate(rule.spec.rules, 1):
            asked = one.required_token
            if asked is not None:
                yield Verdict(rule.object_name, number, lacks(claims, asked))


def lacks(claims: Mapping[str, Any], asked: v2.Jwt) -> str:
    """Say what a token has not; empty: it has all."""
    issuers = [one.issuer for one in asked.authentications]
    if claims.get("iss") not in issuers:
        return f"needs a token of {' or '.join(issuers)}"
    if not isinstance(claims.get("sub"), str):
        return "needs the claim sub"
    grants = [one for one in asked.authorizations or () if one is not None]
    missing = [_missing(claims, one) for one in grants]
    return "" if "" in missing or not missing else " or ".join(dict.fromkeys(missing))


def _missing(claims: Mapping[str, Any], grant: v2.Authorization) -> str:
    """Say what a grant asks for and the token has not; empty: it has all."""
    audiences = [one for one in grant.audiences or () if one not in words(claims.get("aud"))]
    scopes = _missing_scopes(claims, grant.required_scopes or ())
    parts = [
        *([f"scope {' '.join(scopes)}"] if scopes else []),
        *([f"audience {' and '.join(audiences)}"] if audiences else []),
    ]
    return f"needs {', '.join(parts)}" if parts else ""


def _missing_scopes(claims: Mapping[str, Any], wanted: Sequence[str]) -> list[str]:
    """Return what is missing in the claim that has most of it: all must stand in the same one."""
    each = [
        [scope for scope in wanted if scope not in words(claims.get(claim), split=True)]
        for claim in SCOPE_CLAIMS
    ]
    return min(each, key=len)


def words(value: Any, *, split: bool = False) -> list[str]:
    """Return the entries of a claim that is a list or one string; ``split``: of several words."""
    if isinstance(value, str):
        return value.split() if split else [value]
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
