"""logs: rotation, and refusals in words."""

import json
from pathlib import Path

import pytest

from apirule.apis import scheme
from apirule.apis.gateway import v2
from apirule.cli import denials
from apirule.cli.asked import Known
from apirule.cli.logs import Line, Log, Tail


def texts(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


def test_only_new_and_complete_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_text("one\ntw")
    tail = Tail(Log("app", path))

    first = texts(list(tail.read()))
    with path.open("a") as file:
        file.write("o\nthree\n")
    second = texts(list(tail.read()))
    tail.close()

    assert (first, second) == (["one\n"], ["two\n", "three\n"])


def test_a_rotation_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_text("one\n")
    tail = Tail(Log("app", path))
    assert texts(list(tail.read())) == ["one\n"]

    with path.open("a") as file:
        file.write("two\n")
    path.replace(tmp_path / "app.log.1")
    path.write_text("three\n")

    assert texts(list(tail.read())) == ["two\n", "three\n"]
    tail.close()


def test_a_log_that_does_not_exist_yet_is_waited_for(tmp_path: Path) -> None:
    tail = Tail(Log("app", tmp_path / "app.log"))
    assert list(tail.read()) == []

    (tmp_path / "app.log").write_text("one\n")

    assert texts(list(tail.read())) == ["one\n"]
    tail.close()


def entry(details: str, **more: object) -> str:
    return json.dumps({"details": details, "status": 403, **more})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (entry("jwt_authn_access_denied{Jwt_is_expired}"), "Jwt is expired"),
        (
            entry(
                "rbac_access_denied_matched_policy[none]",
                policy={"apirule_challenge_shadow_engine_result": "allowed"},
            ),
            "it has no token, and this path asks for one",
        ),
        (
            entry(
                "rbac_access_denied_matched_policy[none]",
                policy={"apirule_challenge_shadow_engine_result": "allowed"},
                token={"iss": "https://issuer.example"},
            ),
            "its token lacks a scope, an audience or another claim that this path asks for",
        ),
        (
            entry("rbac_access_denied_matched_policy[none]"),
            "no rule allows this caller, path and method with what the token holds",
        ),
        (
            entry("rbac_access_denied_matched_policy[ns[shop]-policy[closed]-rule[0]]"),
            "AuthorizationPolicy shop/closed denies it (rule 1)",
        ),
        (entry("ext_authz_denied"), "the external authorizer refused it"),
        (entry("route_not_found"), "no APIRule has this host, path and method"),
    ],
)
def test_a_refusal_is_told_in_words(line: str, words: str) -> None:
    found = denials.read(line)

    assert found is not None
    assert denials.reason(found) == words


IDP, OTHER = "https://idp.example", "https://other.example"


def known() -> Known:
    def jwt(issuer: str, *authorizations: object) -> object:
        authentication = {"issuer": issuer, "jwksUri": f"{issuer}/keys"}
        return {"authentications": [authentication], "authorizations": list(authorizations)}

    grants = ({"requiredScopes": ["read", "write"]}, {"audiences": ["app"]})
    rules = [
        {"path": "/orders", "methods": ["GET", "PUT"], "jwt": jwt(IDP, *grants)},
        {"path": "/orders/{*}", "methods": ["GET"], "jwt": jwt(OTHER)},
        {"path": "/*", "methods": ["HEAD"], "noAuth": True},
    ]

    def rule(name: str, host: str, rules: list[object]) -> v2.APIRule:
        spec = {"hosts": [host], "rules": rules}
        obj = {"metadata": {"name": name, "namespace": "shop"}, "spec": spec}
        return scheme.decode(obj, v2.APIRule)

    return Known(
        [rule("orders", "orders", [*rules]), rule("rest", "*.example.org", [rules[2]])],
        "example.org",
    )


GATEWAY = "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account"
NO_POLICY = "rbac_access_denied_matched_policy[none]"


@pytest.mark.parametrize(
    ("path", "details", "token", "words"),
    [
        (
            "/orders",
            NO_POLICY,
            {},
            f"it has no token; APIRule shop/orders rule 1 asks for one of {IDP}",
        ),
        (
            "/orders",
            NO_POLICY,
            {"iss": IDP, "scope": "read list", "aud": ["a", "b"]},
            (
                "APIRule shop/orders rule 1 needs scope write or needs audience app; "
                "its token has scope read list, audience a and b"
            ),
        ),
        (
            "/orders",
            NO_POLICY,
            {"iss": IDP},
            (
                "APIRule shop/orders rule 1 needs scope read write or needs audience app; "
                "its token has no scope, no audience"
            ),
        ),
        (
            "/orders/7",
            NO_POLICY,
            {"iss": IDP, "scope": "write"},
            f"APIRule shop/orders rule 2 needs a token of {OTHER}; its token is of {IDP}",
        ),
        (
            "/orders",
            NO_POLICY,
            {"iss": IDP, "scp": ["read", "write"]},
            "its token lacks a scope, an audience or another claim that this path asks for",
        ),
        (
            "/orders/7",
            "jwt_authn_access_denied{Jwt_issuer_is_not_configured}",
            {},
            f"Jwt issuer is not configured; APIRule shop/orders rule 2 asks for one of {OTHER}",
        ),
        (
            "/orders",
            "jwt_authn_access_denied{Jwt_verification_fails}",
            {},
            "Jwt verification fails: another key signed it, or it was changed",
        ),
        ("/no", "route_not_found", {}, "APIRule shop/orders has this path for HEAD only"),
        (
            "/orders",
            "route_not_found",
            {},
            "APIRule shop/orders has a rule for it, but does not serve it",
        ),
    ],
    ids=[
        *("no token", "not enough in the token", "nothing in the token", "another issuer"),
        *("enough by now", "an unknown issuer", "another key", "another method", "not served"),
    ],
)
def test_a_refusal_says_what_the_rule_wants_and_the_token_has(
    path: str, details: str, token: dict[str, object], words: str
) -> None:
    marks = {"apirule_challenge_shadow_engine_result": "allowed"}
    of_request = {"authority": "orders.example.org:8443", "path": path, "method": "GET"}
    found = denials.read(entry(details, policy=marks, peer=GATEWAY, token=token, **of_request))

    assert found is not None
    assert denials.reason(found, known()) == words


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("rest.example.org", "APIRule shop/rest has this path for HEAD only"),
        ("else.example.com", "no APIRule has the host else.example.com"),
    ],
)
def test_the_apirule_of_a_host_is_found_by_wildcard_too(host: str, words: str) -> None:
    found = denials.read(entry("route_not_found", authority=host, path="/x", method="GET"))

    assert found is not None
    assert denials.reason(found, known()) == words


def test_who_comes_from_inside_the_mesh_is_not_told_of_a_token() -> None:
    peer = "spiffe://cluster.local/ns/shop/sa/cart"
    request = {"authority": "orders.example.org", "path": "/orders", "method": "GET"}
    found = denials.read(entry(NO_POLICY, peer=peer, **request))

    assert found is not None
    assert denials.reason(found, known()).startswith("no rule allows this caller")


@pytest.mark.parametrize(
    "line",
    ["", "plain text", "[]", "3", '{"details": "via_upstream", "status": 403}', '{"status": 401}'],
)
def test_what_the_program_answered_is_its_own(line: str) -> None:
    assert denials.read(line) is None
