"""What translation promises beside its golden pairs."""

from typing import Any

import pytest
from tests.unit.translate.build import IDP, JWT, apirule, facts, gateway, rule, workload

from apirule.apis.networking import VirtualService
from apirule.apis.security import AuthorizationPolicy, RequestAuthentication
from apirule.facts import Facts
from apirule.problem import Reason, Severity
from apirule.translate import translate
from apirule.translate.plan import OWNED_KINDS


def test_a_rule_with_an_error_gives_no_resources_at_all() -> None:
    # None, not nothing: an empty set of resources would delete what exists.
    outcome = translate(apirule(rule(), rule("/b/{**}/{**}")), facts())

    assert outcome.resources is None
    assert outcome.problems


@pytest.mark.parametrize(
    "access",
    [
        {"extAuth": {"authorizers": ["opa"]}},
        {"extAuth": {"authorizers": ["opa"], "restrictions": JWT}},
        {"extAuth": {"authorizers": []}},
        {"extAuth": {"authorizers": ["opa"]}, "noAuth": True},
        {"noAuth": False},
        {"jwt": JWT, "noAuth": True},
        {"jwt": {}},
    ],
)
def test_access_that_cannot_be_enforced_exposes_nothing(access: dict[str, Any]) -> None:
    assert translate(apirule(rule(**access)), facts()).resources is None


def test_a_rule_with_advice_is_translated() -> None:
    outcome = translate(apirule(rule(methods=("GET", "GET"))), facts())

    assert outcome.resources
    assert [(p.reason, p.severity) for p in outcome.problems] == [
        (Reason.DUPLICATE, Severity.WARNING)
    ]


def test_all_kinds_are_planned() -> None:
    outcome = translate(apirule(rule(jwt=JWT)), facts())

    kinds = {(r.gvk.group, r.gvk.kind) for r in outcome.resources or ()}
    assert kinds == set(OWNED_KINDS)


def test_rules_of_the_same_issuers_share_a_request_authentication() -> None:
    outcome = translate(apirule(rule("/a", jwt=JWT), rule("/b", jwt=JWT)), facts())

    found = [r for r in outcome.resources or () if isinstance(r, RequestAuthentication)]
    assert len(found) == 1


def test_every_policy_names_a_workload_the_gateway_and_the_host() -> None:
    outcome = translate(apirule(rule("/a", jwt=JWT), rule("/b")), facts())

    for resource in outcome.resources or ():
        if isinstance(resource, AuthorizationPolicy):
            assert resource.spec.selector is not None
            assert resource.spec.selector.match_labels == {"app": "shop", "tier": "front"}
            for one in resource.spec.rules:
                assert one.from_[0].source.principals
                assert one.to[0].operation.hosts == ("shop.example.org",)


def test_a_token_is_looked_for_in_one_named_place() -> None:
    outcome = translate(apirule(rule(jwt=JWT)), facts())

    (found,) = (r for r in outcome.resources or () if isinstance(r, RequestAuthentication))
    (jwt_rule,) = found.spec.jwt_rules
    assert [(h.name, h.prefix) for h in jwt_rule.from_headers] == [("Authorization", "Bearer ")]


def test_space_delimited_claims_are_left_out_for_an_istio_without_them() -> None:
    without = Facts.of([gateway(), *workload()], space_delimited_claims=False)

    outcome = translate(apirule(rule(jwt=JWT)), without)

    (found,) = (r for r in outcome.resources or () if isinstance(r, RequestAuthentication))
    assert found.spec.jwt_rules[0].space_delimited_claims == ()


def test_cookies_replace_a_cookie_header_in_any_spelling() -> None:
    request = {"headers": {"cookie": "x=y"}, "cookies": {"b": "2", "a": "1"}}

    outcome = translate(apirule(rule(noAuth=True, request=request)), facts())

    (found,) = (r for r in outcome.resources or () if isinstance(r, VirtualService))
    headers = found.spec.http[0].headers
    assert headers is not None
    assert headers.request is not None
    assert headers.request.set == {"x-forwarded-host": "shop.example.org", "Cookie": "a=1; b=2"}


def test_both_spellings_of_query_parameters_mean_the_same() -> None:
    def rendered(field: str) -> object:
        jwt = {"authentications": [{**IDP, field: ["token"]}]}
        return translate(apirule(rule(jwt=jwt)), facts()).resources

    assert rendered("fromParams") == rendered("fromParameters")
