import json
from base64 import urlsafe_b64decode
from datetime import UTC, datetime
from typing import Any

import pytest

from apirule.local.issuer import keys, tokens
from apirule.local.issuer.clients import Algorithm, Client, ScopeClaim
from apirule.local.issuer.tokens import Forgery

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SECONDS = int(NOW.timestamp())


@pytest.fixture(scope="session")
def rings() -> dict[Algorithm, keys.Ring]:
    return {one: keys.Ring(next=keys.generate(one), active=keys.generate(one)) for one in Algorithm}


@pytest.fixture(scope="session")
def stranger() -> dict[Algorithm, keys.SigningKey]:
    return {one: keys.generate(one) for one in Algorithm}


def client(**fields: Any) -> Client:
    return Client(id="demo", secret="s", scopes=("read", "write"), lifetime_s=300, **fields)


def claims(**fields: Any) -> tokens.Claims:
    return tokens.access_claims(
        client(**fields),
        issuer="https://issuer",
        subject="demo",
        scopes=("read", "write"),
        audience="orders",
        token_id="id",
        now=NOW,
    )


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    head, payload, _ = token.split(".")
    return json.loads(urlsafe_b64decode(head + "==")), json.loads(urlsafe_b64decode(payload + "=="))


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        (ScopeClaim.SCOPE, "read write"),
        (ScopeClaim.SCP, ["read", "write"]),
        (ScopeClaim.SCOPES, ["read", "write"]),
    ],
)
def test_scopes_stand_where_the_client_wants_them(claim: ScopeClaim, value: object) -> None:
    assert claims(scope_claim=claim)[claim.value] == value


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_a_minted_token_is_read_back(
    rings: dict[Algorithm, keys.Ring], algorithm: Algorithm
) -> None:
    token = tokens.mint(claims(), rings[algorithm].active)

    assert tokens.read(token, keys.verifier(rings, NOW)) == claims()
    assert parts(token)[0] == {
        "alg": algorithm,
        "typ": "at+jwt",
        "kid": rings[algorithm].active.kid,
    }


SIGNED_WRONGLY = {
    Forgery.UNKNOWN_KEY,
    Forgery.BAD_SIGNATURE,
    Forgery.TAMPERED,
    Forgery.GARBAGE,
    Forgery.ALG_NONE,
    Forgery.HS256_CONFUSION,
}


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("kind", sorted(SIGNED_WRONGLY))
def test_no_forged_signature_is_believed(
    rings: dict[Algorithm, keys.Ring],
    stranger: dict[Algorithm, keys.SigningKey],
    algorithm: Algorithm,
    kind: Forgery,
) -> None:
    token = tokens.forge(
        kind, claims(), rings[algorithm].active, stranger=stranger[algorithm], now=NOW
    )

    with pytest.raises(ValueError, match="not one of ours"):
        tokens.read(token, keys.verifier(rings, NOW))


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        (Forgery.EXPIRED, {"exp": SECONDS - 3600, "iat": SECONDS - 7200, "nbf": SECONDS - 7200}),
        (Forgery.NOT_YET_VALID, {"exp": SECONDS + 7200, "nbf": SECONDS + 3600}),
        (Forgery.WRONG_ISSUER, {"iss": "https://issuer.invalid"}),
        (Forgery.WRONG_AUDIENCE, {"aud": "somebody-else"}),
        (Forgery.NO_SCOPE, {"scope": None}),
        (Forgery.NO_EXP, {"exp": None}),
    ],
)
def test_a_forged_claim_is_the_only_flaw(
    rings: dict[Algorithm, keys.Ring],
    stranger: dict[Algorithm, keys.SigningKey],
    kind: Forgery,
    changed: dict[str, Any],
) -> None:
    key = rings[Algorithm.RS256].active
    expected = {k: v for k, v in {**claims(), **changed}.items() if v is not None}

    token = tokens.forge(kind, claims(), key, stranger=stranger[Algorithm.RS256], now=NOW)

    assert tokens.read(token, keys.verifier(rings, NOW)) == expected


def test_every_kind_of_forgery_is_tried() -> None:
    of_claims = set(Forgery) - SIGNED_WRONGLY

    assert of_claims == {
        Forgery.EXPIRED,
        Forgery.NOT_YET_VALID,
        Forgery.WRONG_ISSUER,
        Forgery.WRONG_AUDIENCE,
        Forgery.NO_SCOPE,
        Forgery.NO_EXP,
    }


def test_each_wrong_signature_is_wrong_in_its_own_way(
    rings: dict[Algorithm, keys.Ring], stranger: dict[Algorithm, keys.SigningKey]
) -> None:
    key, other = rings[Algorithm.RS256].active, stranger[Algorithm.RS256]

    def head(kind: Forgery) -> dict[str, Any]:
        return parts(tokens.forge(kind, claims(), key, stranger=other, now=NOW))[0]

    assert head(Forgery.UNKNOWN_KEY)["kid"] == other.kid
    assert head(Forgery.BAD_SIGNATURE)["kid"] == key.kid
    assert head(Forgery.ALG_NONE)["alg"] == "none"
    assert head(Forgery.HS256_CONFUSION)["alg"] == "HS256"
    assert head(Forgery.HS256_CONFUSION)["kid"] == key.kid


def test_at_hash_is_half_of_the_hash_of_the_access_token() -> None:
    # The example of OpenID Connect Core, A.3.
    token = "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y"

    assert tokens.at_hash(token, Algorithm.RS256) == "77QmUPtjPfzWtF2AnpK9RQ"
