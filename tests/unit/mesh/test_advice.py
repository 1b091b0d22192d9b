"""What is valid and does nothing is told, and what does something is not."""

import json
from typing import Any

import pytest
from joserfc.jwk import ECKey
from tests.unit.mesh.objects import virtual_service
from tests.unit.mesh.policies_given import authorization, resource

from apirule.apis import scheme, traffic
from apirule.mesh.advice import advice
from apirule.problem import Reason, Severity

KEY = ECKey.generate_key("P-256", {"kid": "good"}).as_dict(private=False)


def places(given: Any) -> list[str]:
    found = list(advice(given))
    assert all((p.reason, p.severity) == (Reason.MISLEADING, Severity.WARNING) for p in found)
    return [str(problem.field) for problem in found]


@pytest.mark.parametrize(
    ("http", "place"),
    [
        ("{redirect: {uri: /}, timeout: 3s}", "timeout"),
        ("{directResponse: {status: 200}, retries: {attempts: 1}}", "retries"),
        ("{corsPolicy: {allowMethods: [GET]}}", "corsPolicy"),
        ("{match: [{headers: {URI: {exact: /a}}}]}", "match[0].headers.URI"),
        ("{match: [{withoutHeaders: {method: {exact: GET}}}]}", "match[0].withoutHeaders.method"),
        ("{match: [{headers: {x_user: {exact: a}}}]}", "match[0].headers.x_user"),
        ("{match: [{uri: {regex: /a}, ignoreUriCase: true}]}", "match[0].ignoreUriCase"),
        (
            "{headers: {request: {set: {a: 'from %DOWNSTREAM_REMOTE_ADDRESS%'}}}}",
            "headers.request.set.a",
        ),
        (
            "{route: [{destination: {host: a}, headers: {response: {add: {a: '%REQ(X-B)%'}}}}]}",
            "route[0].headers.response.add.a",
        ),
    ],
)
def test_what_a_route_says_in_vain_is_told(http: str, place: str) -> None:
    (rule,) = virtual_service("v", http=f"[{http}]")

    assert places(rule) == [f"spec.http[0].{place}"]


@pytest.mark.parametrize(
    "http",
    [
        "{timeout: 3s, retries: {attempts: 1}, corsPolicy: {allowOrigins: [{exact: a}]}}",
        "{match: [{uri: {prefix: /a}, ignoreUriCase: true, headers: {x-user: {exact: a}}}]}",
        "{headers: {request: {set: {a: '100% %REQ(:AUTHORITY)% 5%', b: '%a%'}}}}",
    ],
)
def test_what_a_route_does_is_not_mentioned(http: str) -> None:
    (rule,) = virtual_service("v", http=f"[{http}]")

    assert places(rule) == []


def test_keys_that_are_not_used_are_named() -> None:
    def rule(*keys: Any) -> Any:
        jwks = json.dumps({"keys": keys})
        return resource(
            "RequestAuthentication", "ra", {"jwtRules": [{"issuer": "a", "jwks": jwks}]}
        )

    assert places(rule(KEY)) == []
    assert places(rule(KEY, {"kty": "oct", "k": "c2VjcmV0"})) == ["spec.jwtRules[0].jwks"]


def test_a_token_in_a_header_that_gateways_drop_is_told() -> None:
    rules = [{"issuer": "a", "fromHeaders": [{"name": "x_token"}, {"name": "x-token"}]}]

    found = places(resource("RequestAuthentication", "ra", {"jwtRules": rules}))

    assert found == ["spec.jwtRules[0].fromHeaders[0].name"]


@pytest.mark.parametrize(
    ("value", "is_told"), [("true", False), ("False", False), ("yes", True), ("", True)]
)
def test_a_trial_that_is_none_is_told(value: str, *, is_told: bool) -> None:
    policy = authorization({}, annotations={"istio.io/dry-run": value})

    assert places(policy) == (["metadata.annotations.istio.io/dry-run"] if is_told else [])


def test_a_condition_on_a_header_that_gateways_drop_is_told() -> None:
    when = [
        {"key": "request.headers[x_user]", "values": ["a"]},
        {"key": "request.headers[x-user]", "values": ["a"]},
        {"key": "request.auth.claims[x_user]", "values": ["a"]},
    ]

    assert places(authorization({"rules": [{"when": when}]})) == ["spec.rules[0].when[0].key"]


def test_a_mode_for_no_port_is_told() -> None:
    modes = {"80": {"mode": "STRICT"}, "99999": {"mode": "STRICT"}}

    found = places(resource("PeerAuthentication", "pa", {"portLevelMtls": modes}))

    assert found == ["spec.portLevelMtls.99999"]


def test_names_nobody_is_asked_for_are_told() -> None:
    off = {"mode": "DISABLE", "sni": "a.b", "subjectAltNames": ["x"]}
    spec = {
        "host": "a",
        "trafficPolicy": {"tls": off},
        "subsets": [{"name": "s", "trafficPolicy": {"tls": {**off, "mode": "SIMPLE"}}}],
    }
    rule = scheme.decode({"metadata": {"name": "r"}, "spec": spec}, traffic.DestinationRule)

    assert places(rule) == ["spec.trafficPolicy.tls.sni", "spec.trafficPolicy.tls.subjectAltNames"]
