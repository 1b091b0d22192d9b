"""RequestAuthentications: which rules are one provider, where tokens are looked for, their keys."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.extensions.filters.http.jwt_authn.v3.config_pb2 import JwtAuthentication, JwtProvider
from tests.unit.mesh.policies_given import resource

from apirule import keysets
from apirule.apis.security import RequestAuthentication
from apirule.keysets import KeySet
from apirule.mesh import jwt_authn
from apirule.problem import Reason, Severity

A = "https://a.example"
RULE: dict[str, Any] = {"issuer": A, "jwksUri": f"{A}/jwks"}
KEYS = KeySet(A, f"{A}/jwks", keysets.PLACEHOLDER.replace("no-keys-available", "1"))


def policy(*rules: dict[str, Any], name: str = "ra") -> RequestAuthentication:
    made = resource("RequestAuthentication", name, {"jwtRules": list(rules)})
    assert isinstance(made, RequestAuthentication)
    return made


def built(*rules: dict[str, Any]) -> JwtAuthentication:
    key_sets = {(KEYS.issuer, KEYS.jwks_uri): KEYS}
    return jwt_authn.build([policy(rule) for rule in rules], key_sets)


def provider(rule: dict[str, Any]) -> JwtProvider:
    (only,) = built(rule).providers.values()
    return only


@pytest.mark.parametrize(
    "other",
    [
        RULE,
        RULE | {"fromHeaders": [{"name": "Authorization", "prefix": "Bearer "}]},
        RULE | {"spaceDelimitedClaims": ["scp", "scope"]},
    ],
)
def test_rules_that_say_the_same_are_one_provider(other: dict[str, Any]) -> None:
    assert len(built(RULE, other).providers) == 1


@pytest.mark.parametrize(
    "other",
    [
        RULE | {"issuer": "https://b.example"},
        RULE | {"jwksUri": f"{A}/other"},
        RULE | {"audiences": ["x"]},
        RULE | {"fromParams": ["t"]},
        RULE | {"forwardOriginalToken": True},
        RULE | {"outputPayloadToHeader": "x-payload"},
        RULE | {"spaceDelimitedClaims": ["roles"]},
    ],
)
def test_rules_that_differ_are_providers_of_their_own(other: dict[str, Any]) -> None:
    assert len(built(RULE, other).providers) == 2


def test_the_name_of_a_provider_depends_on_its_rule_alone() -> None:
    alone = set(built(RULE).providers)
    without_keys = set(jwt_authn.build([policy(RULE)], {}).providers)
    among_others = set(built(RULE | {"issuer": "https://0.example"}, RULE).providers)

    assert alone == without_keys
    assert alone < among_others


@pytest.mark.parametrize(
    ("places", "headers", "params", "cookies"),
    [
        ({}, ["Bearer ", "bearer ", "BEARER "], [], []),
        ({"fromParams": ["t"]}, [], ["t"], []),
        ({"fromCookies": ["c"]}, [], [], ["c"]),
        ({"fromHeaders": [{"name": "X", "prefix": "Kyma "}]}, ["Kyma "], [], []),
        ({"fromHeaders": [{"name": "Authorization"}]}, [""], [], []),
        ({"fromHeaders": [{"name": "X", "prefix": "Bearer "}]}, ["Bearer "], [], []),
    ],
)
def test_tokens_are_looked_for_where_the_rule_says_and_nowhere_else(
    places: dict[str, Any], headers: list[str], params: list[str], cookies: list[str]
) -> None:
    found = provider(RULE | places)

    assert [header.value_prefix for header in found.from_headers] == headers
    assert (list(found.from_params), list(found.from_cookies)) == (params, cookies)


def test_keys_come_from_the_key_set_of_issuer_and_place() -> None:
    assert provider(RULE).local_jwks.inline_string == KEYS.document
    other = provider(RULE | {"jwksUri": f"{A}/other"})
    assert other.local_jwks.inline_string == keysets.PLACEHOLDER


def test_inline_keys_are_cleaned() -> None:
    inline = KEYS.document.replace('"kty"', '"use":"sig","kty"')

    found = provider({"issuer": A, "jwks": inline})

    assert found.local_jwks.inline_string == KEYS.document


def test_without_rules_the_filter_is_empty() -> None:
    assert built() == JwtAuthentication()


def test_one_provider_or_no_token() -> None:
    (rule,) = built(RULE).rules

    one, other = rule.requires.requires_any.requirements
    assert one.provider_name.startswith(f"{A}#")
    assert other.HasField("allow_missing")


@pytest.mark.parametrize(
    ("rule", "place"),
    [
        ({"issuer": ""}, "issuer"),
        (RULE | {"jwks": KEYS.document}, "jwks"),
        ({"issuer": A, "jwks": "<html>"}, "jwks"),
        (RULE | {"audiences": [""]}, "audiences[0]"),
        (RULE | {"fromHeaders": [{"name": ""}]}, "fromHeaders[0].name"),
        (RULE | {"fromHeaders": [{"name": "x:y"}]}, "fromHeaders[0].name"),
        (RULE | {"fromHeaders": [{"name": "x", "prefix": "a\n"}]}, "fromHeaders[0].prefix"),
        (RULE | {"fromParams": ["a b"]}, "fromParams[0]"),
        (RULE | {"fromCookies": ["a;b"]}, "fromCookies[0]"),
        (RULE | {"spaceDelimitedClaims": [""]}, "spaceDelimitedClaims[0]"),
        (RULE | {"outputPayloadToHeader": "x y"}, "outputPayloadToHeader"),
        (
            RULE | {"outputClaimToHeaders": [{"header": "", "claim": "a"}]},
            "outputClaimToHeaders[0].header",
        ),
        (
            RULE | {"outputClaimToHeaders": [{"header": "a", "claim": ""}]},
            "outputClaimToHeaders[0].claim",
        ),
    ],
)
def test_what_envoy_would_refuse_is_named(rule: dict[str, Any], place: str) -> None:
    found = [str(problem.field) for problem in jwt_authn.problems(policy(rule))]

    assert found == [f"spec.jwtRules[0].{place}"]


def test_missing_keys_are_told_with_their_reason() -> None:
    failed = {(A, f"{A}/jwks"): KeySet(A, f"{A}/jwks", "", "It answered 503.")}

    ((_, problem),) = jwt_authn.notices([policy(RULE)], failed)

    assert problem.reason is Reason.KEYS_UNAVAILABLE
    assert "It answered 503." in problem.message


def test_keys_that_were_never_asked_for_are_no_advice() -> None:
    ((_, problem),) = jwt_authn.notices([policy(RULE)], {})

    assert problem.severity is Severity.NOTE


def test_an_issuer_with_two_sources_of_keys_is_believed_by_neither_and_both_are_told() -> None:
    other = RULE | {"jwks": KEYS.document, "jwksUri": ""}
    known = {(KEYS.issuer, KEYS.jwks_uri): KEYS}
    both = [policy(RULE, name="first"), policy(other, name="second")]

    found = list(jwt_authn.notices(both, known))
    built = jwt_authn.build(both, known)

    assert [told.metadata.name for told, _ in found] == ["first", "second"]
    assert {(p.reason, p.severity) for _, p in found} == {(Reason.CONFLICT, Severity.ERROR)}
    assert all("shop/first" in p.message and "shop/second" in p.message for _, p in found)
    documents = [provider.local_jwks.inline_string for provider in built.providers.values()]
    assert documents == [keysets.PLACEHOLDER] * 2


def test_the_same_source_of_keys_may_be_named_as_often_as_one_likes() -> None:
    known = {(KEYS.issuer, KEYS.jwks_uri): KEYS}
    both = [policy(RULE, name="first"), policy(RULE | {"audiences": ["x"]}, name="second")]

    assert list(jwt_authn.notices(both, known)) == []
    built = jwt_authn.build(both, known)
    documents = {provider.local_jwks.inline_string for provider in built.providers.values()}
    assert documents == {KEYS.document}
