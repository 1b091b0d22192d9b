"""Which rules a token would be accepted by, from its claims alone."""

from typing import Any

import pytest

from apirule.apis import scheme
from apirule.apis.gateway import v2
from apirule.cli.acceptance import verdicts

ISSUER = "https://issuer.example"
CLAIMS: dict[str, Any] = {"iss": ISSUER, "sub": "jane", "aud": ["app", "other"], "scope": "read"}


def rule(*authorizations: dict[str, Any], guard: str = "jwt") -> v2.APIRule:
    authentications = [{"issuer": ISSUER, "jwksUri": f"{ISSUER}/keys"}]
    jwt = {"authentications": authentications, "authorizations": list(authorizations)}
    access = {"jwt": jwt} if guard == "jwt" else {"extAuth": {"restrictions": jwt}}
    obj = {
        "metadata": {"namespace": "shop", "name": "orders"},
        "spec": {
            "rules": [
                {"path": "/open", "methods": ["GET"], "noAuth": True},
                {"path": "/*", "methods": ["GET"], **access},
            ]
        },
    }
    return scheme.decode(obj, v2.APIRule)


def scopes(*names: str) -> dict[str, Any]:
    return {"requiredScopes": list(names)}


@pytest.mark.parametrize(
    ("claims", "asked", "verdict"),
    [
        ({}, rule(), "shop/orders rule 2"),
        ({}, rule(scopes("read")), "shop/orders rule 2"),
        ({}, rule(guard="extAuth"), "shop/orders rule 2"),
        ({}, rule(scopes("write"), scopes("read")), "shop/orders rule 2"),
        ({}, rule({"audiences": ["app", "other"]}), "shop/orders rule 2"),
        ({"scope": None, "scp": ["read"]}, rule(scopes("read")), "shop/orders rule 2"),
        ({"scopes": "a b"}, rule(scopes("a", "b")), "shop/orders rule 2"),
        ({}, rule(scopes("read", "write")), "shop/orders rule 2 (needs scope write)"),
        (
            {"scp": ["write"]},  # all must stand in one claim
            rule(scopes("read", "write")),
            "shop/orders rule 2 (needs scope read)",
        ),
        (
            {},
            rule({"requiredScopes": ["write"], "audiences": ["app", "mine"]}),
            "shop/orders rule 2 (needs scope write, audience mine)",
        ),
        (
            {},
            rule(scopes("a"), scopes("b")),
            "shop/orders rule 2 (needs scope a or needs scope b)",
        ),
        ({"iss": "x"}, rule(), f"shop/orders rule 2 (needs a token of {ISSUER})"),
        ({"sub": None}, rule(), "shop/orders rule 2 (needs the claim sub)"),
        ({"aud": "app"}, rule({"audiences": ["app"]}), "shop/orders rule 2"),
    ],
)
def test_a_token_is_judged_by_issuer_scopes_and_audiences(
    claims: dict[str, Any], asked: v2.APIRule, verdict: str
) -> None:
    assert [str(one) for one in verdicts({**CLAIMS, **claims}, [asked])] == [verdict]
