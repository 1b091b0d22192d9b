"""What a real Envoy answers when it carries the security filters: the status of every token."""

from __future__ import annotations

import base64
import hmac
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.shells.security_envoy import Answer, Engine, Mtls, Workload, engine
from tests.shells.security_given import (
    JWT_A,
    JWT_B,
    KEY_A,
    KEY_B,
    KEYS,
    NOBODY,
    REALM,
    STRANGER,
    URI,
    A,
    Authority,
    B,
    authentication,
    bearer,
    manifests,
    policy,
    token,
    tried,
)

from apirule.mesh.config import MeshSettings
from apirule.paths import Template

pytestmark = pytest.mark.envoy

# One workload like the ones APIRules make: an open path, a path for any token of A, one for a
# scope, one for an audience, one for B.
SHOP = manifests(
    authentication(f"{JWT_A}, {JWT_B}"),
    policy("{rules: [{to: [{operation: {methods: [GET], paths: [/open]}}]}]}", "open"),
    policy(
        f"{{rules: [{{from: [{{source: {{requestPrincipals: ['{A}/*']}}}}], "
        "to: [{operation: {hosts: [api.kyma.localhost], paths: [/a]}}]}]}",
        "a",
    ),
    policy(
        "{rules: ["
        + ", ".join(
            f"{{from: [{{source: {{requestPrincipals: ['{A}/*']}}}}], "
            f"to: [{{operation: {{paths: [/scoped]}}}}], when: ["
            f"{{key: 'request.auth.claims[{claim}]', values: [read]}}, "
            f"{{key: 'request.auth.claims[{claim}]', values: [write]}}]}}"
            for claim in ("scp", "scope", "scopes")
        )
        + "]}",
        "scoped",
    ),
    policy(
        f"{{rules: [{{from: [{{source: {{requestPrincipals: ['{A}/*']}}}}], "
        "to: [{operation: {paths: [/audience]}}], "
        "when: [{key: 'request.auth.claims[aud]', values: [app1]}, "
        "{key: 'request.auth.claims[aud]', values: [app2]}]}]}",
        "audience",
    ),
    policy(
        f"{{rules: [{{from: [{{source: {{requestPrincipals: ['{B}/*']}}}}], "
        "to: [{operation: {paths: [/b]}}]}]}",
        "b",
    ),
    policy(
        "{action: DENY, rules: [{to: [{operation: {paths: [/denied]}}, "
        "{operation: {paths: [/a], methods: [DELETE]}}]}]}",
        "deny",
    ),
    policy("{action: AUDIT, rules: [{}]}", "audit"),
    tried("{action: DENY, rules: [{}]}", "tried-deny"),
    tried("{rules: [{}]}", "tried-allow"),
)

TEMPLATES = (
    "/{**}",
    "/a/{*}",
    "/a/{**}",
    "/a/{*}/x/{**}",
    "/a/{**}/end",
    "/{**}/x",
    "/a//{*}",
    "/{*}//b",
    "/{*}",
    "/{*}/{*}",
    "/a/",
    "/a.b/{*}",
    "/a(b)+$/{**}",
    "/%41b/{*}",
    "/" + "long-" * 60 + "/{*}",
)


def templates_workload() -> Workload:
    # Which template matched is read from which header value was allowed along with it.
    rules = [
        f"{{to: [{{operation: {{paths: ['{template}']}}}}], "
        f"when: [{{key: 'request.headers[x-template]', values: ['{index}']}}]}}"
        for index, template in enumerate(TEMPLATES)
    ]
    return Workload("templates", manifests(policy(f"{{rules: [{', '.join(rules)}]}}")))


def places_workload() -> Workload:
    rule = (
        f"{{issuer: '{A}', jwksUri: '{URI}', "
        "fromHeaders: [{name: X-Token, prefix: 'Kyma '}], fromParams: [jwt]}"
    )
    allowed = policy("{rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}")
    return Workload("places", manifests(authentication(rule), allowed), KEYS)


ALLOW_TOKEN = policy("{rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}")


CA = Authority.make()
INGRESS = "cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account"


def sources_workload() -> Workload:
    rules = policy(
        "{rules: ["
        f"{{from: [{{source: {{principals: ['{INGRESS}'], requestPrincipals: ['{A}/*']}}}}], "
        "to: [{operation: {paths: [/ingress]}}]},"
        "{from: [{source: {namespaces: [team-*]}}], to: [{operation: {paths: [/namespace]}}]},"
        "{from: [{source: {serviceAccounts: [other/robot]}}], to: [{operation: {paths: [/sa]}}]},"
        "{from: [{source: {trustDomains: [cluster.local], notPrincipals: ['*/sa/robot']}}], "
        "to: [{operation: {paths: [/domain]}}]},"
        "{from: [{source: {ipBlocks: [127.0.0.0/8], notIpBlocks: [127.0.0.9]}}], "
        "to: [{operation: {paths: [/near]}}]},"
        "{from: [{source: {ipBlocks: [10.0.0.0/8]}}], to: [{operation: {paths: [/far]}}]}"
        "]}"
    )
    certificate, key = CA.issue("spiffe://cluster.local/ns/shop/sa/default")
    return Workload(
        "sources",
        manifests(authentication(JWT_A), rules),
        KEYS,
        mtls=Mtls(certificate, key, CA.pem),
    )


CONDITIONS = manifests(
    authentication(JWT_A),
    policy(
        "{rules: ["
        "{to: [{operation: {paths: [/nested]}}], "
        "when: [{key: 'request.auth.claims[realm][roles]', values: [admin]}]},"
        "{to: [{operation: {paths: [/dotted]}}], "
        "when: [{key: 'request.auth.claims[example.com/role]', values: [adm*]}]},"
        "{to: [{operation: {paths: [/not-claim]}}], from: [{source: {requestPrincipals: ['*']}}], "
        "when: [{key: 'request.auth.claims[group]', notValues: [guest]}]},"
        "{to: [{operation: {paths: [/presenter]}}], "
        "when: [{key: request.auth.presenter, values: [cli]}]},"
        "{to: [{operation: {paths: [/audiences]}}], "
        "when: [{key: request.auth.audiences, values: [app]}]},"
        f"{{to: [{{operation: {{paths: [/principal]}}}}], "
        f"when: [{{key: request.auth.principal, values: ['{A}/alice']}}]}},"
        "{to: [{operation: {paths: [/header]}}], "
        "when: [{key: 'request.headers[X-Team]', values: [blue, 'green*']}]},"
        "{to: [{operation: {paths: [/port], ports: ['80']}}]},"
        "{to: [{operation: {paths: [/other-port], ports: ['81']}}]},"
        "{to: [{operation: {paths: [/not-port], notPorts: ['81']}}]},"
        "{to: [{operation: {paths: [/wild*, '*.css'], notPaths: [/wild/secret], "
        "methods: [GET, P*], notMethods: [PUT]}}]},"
        "{to: [{operation: {paths: [/hosts], hosts: ['*.shop.example', exact.example:9]}}]},"
        "{to: [{operation: {paths: [/not-hosts], notHosts: [api.kyma.localhost]}}]}"
        "]}"
    ),
)

WORKLOADS = (
    Workload("shop", SHOP, KEYS),
    Workload("istio", SHOP, KEYS, MeshSettings(missing_token_status=403)),
    Workload("conditions", CONDITIONS, KEYS),
    Workload("open", manifests(authentication(JWT_A)), KEYS),
    Workload("bare", manifests(policy("{selector: {matchLabels: {app: someone-else}}}"))),
    Workload("nothing", manifests(policy("{}"))),
    Workload("no-keys", manifests(authentication(JWT_A), ALLOW_TOKEN)),
    Workload(
        "audience",
        manifests(
            authentication(f"{{issuer: '{A}', jwksUri: '{URI}', audiences: [app]}}"), ALLOW_TOKEN
        ),
        KEYS,
    ),
    Workload("custom", manifests(policy("{action: CUSTOM, provider: {name: x}, rules: [{}]}"))),
    Workload(
        "headers",
        manifests(
            authentication(
                f"{{issuer: '{A}', jwksUri: '{URI}', outputPayloadToHeader: x-payload, "
                "outputClaimToHeaders: [{header: x-subject, claim: sub}]}"
            )
        ),
        KEYS,
    ),
    places_workload(),
    templates_workload(),
    sources_workload(),
)


@pytest.fixture(scope="module")
def envoy() -> Iterator[Engine]:
    with (
        tempfile.TemporaryDirectory(prefix="ap", dir="/tmp") as folder,
        engine(Path(folder), WORKLOADS) as running,
    ):
        yield running


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def signed_by_hand(algorithm: str, signature: Callable[[bytes], bytes]) -> str:
    """Make a token as no library would."""
    head = json.dumps({"alg": algorithm, "kid": "a1"}).encode()
    text = f"{encoded(head)}.{token().split('.')[1]}"
    return f"{text}.{encoded(signature(text.encode()))}"


def unsigned(algorithm: str) -> str:
    return signed_by_hand(algorithm, lambda _: b"")


def confused() -> str:
    """Sign with the public key as if it were a shared secret."""
    secret = KEY_A.as_pem(private=False)
    return signed_by_hand("HS256", lambda text: hmac.digest(secret, text, "sha256"))


FORGED: Mapping[str, Callable[[], str]] = {
    "signed by a stranger with the known kid": lambda: token(key=STRANGER),
    "expired": lambda: token({"exp": int(time.time()) - 3600}),
    "not yet valid": lambda: token({"nbf": int(time.time()) + 3600}),
    "of an unknown issuer": lambda: token({"iss": NOBODY}),
    "of issuer B signed by A": lambda: token({"iss": B}),
    "without issuer": lambda: token(without="iss"),
    "with an unknown kid": lambda: token(header={"kid": "a2"}),
    "garbage": lambda: "any-token",
    "three dots of garbage": lambda: "not.good.token",
    "alg none": lambda: unsigned("none"),
    "alg None": lambda: unsigned("nOnE"),
    "HS256 with the public key": confused,
    "signature cut off": lambda: token().rpartition(".")[0] + ".",
    "expiry as text": lambda: token({"exp": "tomorrow"}),
}


@pytest.mark.parametrize("path", ["/a", "/open", "/nowhere"])
@pytest.mark.parametrize("kind", FORGED)
def test_a_token_that_cannot_be_believed_is_401_on_every_path(
    envoy: Engine, kind: str, path: str
) -> None:
    answer = envoy.send("shop", path, bearer(FORGED[kind]()))

    assert answer.status == 401
    assert answer.challenge == f'{REALM}, error="invalid_token"'


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("garbage", "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sect"),
        ("three dots of garbage", "Jwt header is an invalid JSON"),
        ("expired", "Jwt is expired"),
        ("not yet valid", "Jwt not yet valid"),
        ("signed by a stranger with the known kid", "Jwt verification fails"),
        ("with an unknown kid", "Jwks doesn't have key to match kid or alg from Jwt"),
        ("HS256 with the public key", "Jwks doesn't have key to match kid or alg from Jwt"),
        ("of an unknown issuer", "Jwt issuer is not configured"),
    ],
)
def test_the_answer_says_what_is_wrong_with_a_token(envoy: Engine, kind: str, body: str) -> None:
    assert envoy.send("shop", "/a", bearer(FORGED[kind]())).body.startswith(body)


def test_a_token_that_never_expires_is_accepted(envoy: Engine) -> None:
    assert envoy.send("shop", "/a", bearer(token(without="exp"))).status == 200


@pytest.mark.parametrize(
    "header",
    [
        "X-Nothing: here",
        "Authorization: Basic dXNlcjpwYXNz",
        "Authorization: Bearer",
        "Authorization: Token abc",
    ],
)
def test_a_request_without_a_token_is_401_and_told_so(envoy: Engine, header: str) -> None:
    answer = envoy.send("shop", "/a", header)

    assert answer.status == 401
    assert answer.challenge == REALM
    assert answer.body == "Jwt is missing"


def test_a_raw_token_without_scheme_counts_as_none(envoy: Engine) -> None:
    answer = envoy.send("shop", "/a", f"Authorization: {token()}")

    assert (answer.status, answer.challenge) == (401, REALM)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_case_of_the_scheme_does_not_matter(envoy: Engine, scheme: str) -> None:
    answer = envoy.send("shop", "/a", f"Authorization: {scheme} {token()}")

    assert answer.status == 200


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_case_of_the_scheme_opens_nothing(envoy: Engine, scheme: str) -> None:
    answer = envoy.send("shop", "/a", f"Authorization: {scheme} {token(key=STRANGER)}")

    assert answer.status == 401


@pytest.mark.parametrize(
    ("path", "claims", "status"),
    [
        ("/a", {}, 200),
        ("/a?x=/open", {}, 200),
        ("/a/", {}, 403),
        ("/b", {}, 403),
        ("/scoped", {}, 403),
        ("/scoped", {"scope": "read write"}, 200),
        ("/scoped", {"scp": "write read more"}, 200),
        ("/scoped", {"scopes": "read write"}, 200),
        ("/scoped", {"scp": ["read", "write"]}, 200),
        ("/scoped", {"scope": ["read", "write"]}, 200),
        ("/scoped", {"scope": "read"}, 403),
        ("/scoped", {"scope": "read", "scp": "write"}, 403),
        ("/scoped", {"scope": "readonly write"}, 403),
        ("/scoped", {"scope": "Read write"}, 403),
        ("/audience", {"aud": ["app1", "app2", "app3"]}, 200),
        ("/audience", {"aud": "app1"}, 403),
        ("/audience", {"aud": ["app1", "app22"]}, 403),
    ],
)
def test_what_a_token_may_do_is_decided_by_its_claims(
    envoy: Engine, path: str, claims: dict[str, Any], status: int
) -> None:
    answer = envoy.send("shop", path, bearer(token(claims)))

    assert answer.status == status


def test_a_token_is_still_good_while_clocks_may_differ(envoy: Engine) -> None:
    answer = envoy.send("shop", "/a", bearer(token({"exp": int(time.time()) - 30})))

    assert answer.status == 200


@pytest.mark.parametrize("path", ["/scoped", "/audience", "/b"])
def test_a_token_that_does_not_suffice_is_403_insufficient_scope(envoy: Engine, path: str) -> None:
    answer = envoy.send("shop", path, bearer(token()))

    assert answer.status == 403
    assert answer.challenge == f'{REALM}, error="insufficient_scope"'


def test_a_token_without_subject_is_403(envoy: Engine) -> None:
    assert envoy.send("shop", "/a", bearer(token(without="sub"))).status == 403


@pytest.mark.parametrize(("path", "status"), [("/a", 403), ("/b", 200)])
def test_a_token_of_another_issuer_opens_only_that_issuers_path(
    envoy: Engine, path: str, status: int
) -> None:
    answer = envoy.send("shop", path, bearer(token({"iss": B}, key=KEY_B)))

    assert answer.status == status


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/nowhere"), ("GET", "/denied"), ("GET", "/open/"), ("DELETE", "/a")],
)
@pytest.mark.parametrize("authorized", [True, False])
def test_where_no_token_could_help_the_answer_is_a_plain_403(
    envoy: Engine, method: str, path: str, *, authorized: bool
) -> None:
    headers = [bearer(token())] if authorized else []

    answer = envoy.send("shop", path, *headers, method=method)

    assert (answer.status, answer.challenge) == (403, None)


def test_an_open_path_needs_no_token(envoy: Engine) -> None:
    assert envoy.send("shop", "/open").status == 200


@pytest.mark.parametrize(
    "headers",
    [("good", "bad"), ("bad", "good"), ("good", "good")],
)
def test_two_authorization_headers_are_never_accepted(
    envoy: Engine, headers: tuple[str, str]
) -> None:
    texts = {"good": bearer(token()), "bad": bearer(token(key=STRANGER))}

    answer = envoy.send("shop", "/a", *(texts[name] for name in headers))

    assert answer.status == 401


def test_a_token_in_the_query_counts_only_where_it_was_asked_for(envoy: Engine) -> None:
    answer = envoy.send("shop", f"/a?access_token={token()}")

    assert (answer.status, answer.challenge) == (401, REALM)


def test_the_realm_never_repeats_the_query(envoy: Engine) -> None:
    answer = envoy.send("places", "/x?jwt=se.cr.et")

    assert answer.status == 401
    assert answer.challenge == f'{REALM}, error="invalid_token"'
    assert "se.cr.et" not in json.dumps(dict(answer.headers)) + answer.body


@pytest.mark.parametrize("host", ['x"y', 'a", error="b', "a%22b"])
def test_the_realm_cannot_be_broken_out_of(envoy: Engine, host: str) -> None:
    answer = envoy.send("shop", "/scoped", host=host)

    assert answer.status in (400, 401)
    assert answer.challenge in (None, f'Bearer realm="{host}"')
    assert answer.challenge is None or answer.challenge.count('"') == 2


def test_istios_answers_are_given_on_demand(envoy: Engine) -> None:
    missing = envoy.send("istio", "/a")
    lacking = envoy.send("istio", "/scoped", bearer(token()))
    forged = envoy.send("istio", "/a", bearer("not.good.token"))

    assert (missing.status, missing.challenge) == (403, None)
    assert missing.body == "RBAC: access denied"
    assert (lacking.status, lacking.challenge) == (403, None)
    assert (forged.status, forged.challenge) == (401, f'{REALM}, error="invalid_token"')


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", ["X-Token: Kyma {token}"], 200),
        ("/", ["X-Token: {token}"], 401),
        ("/", ["Authorization: Bearer {token}"], 401),
        ("/?jwt={token}", [], 200),
        ("/?access_token={token}", [], 401),
        ("/?jwt={forged}", ["X-Token: Kyma {token}"], 401),
    ],
)
def test_tokens_are_read_from_the_places_of_the_rule_alone(
    envoy: Engine, path: str, headers: list[str], status: int
) -> None:
    texts = {"token": token(), "forged": token(key=STRANGER)}

    answer = envoy.send("places", path.format(**texts), *(h.format(**texts) for h in headers))

    assert answer.status == status


def test_a_token_is_not_forwarded_unless_the_rule_says_so(envoy: Engine) -> None:
    good = token()

    kept = envoy.send("shop", "/a", bearer(good)).echo
    cut = envoy.send("places", f"/p?jwt={good}&y=1").echo
    gone = envoy.send("places", "/p", f"X-Token: Kyma {good}").echo

    assert kept["headers"]["authorization"] == f"Bearer {good}"
    assert good not in cut["path"]
    assert "x-token" not in gone["headers"]


def test_claims_reach_the_application_in_headers_no_client_can_forge(envoy: Engine) -> None:
    forged = ["x-subject: mallory", "x-payload: forged"]

    without = envoy.send("headers", "/", *forged).echo["headers"]
    with_token = envoy.send("headers", "/", bearer(token()), *forged).echo["headers"]

    assert "x-subject" not in without
    assert "x-payload" not in without
    assert with_token["x-subject"] == "alice"
    assert "forged" not in with_token["x-payload"]


def test_without_policies_everything_passes_but_forged_tokens(envoy: Engine) -> None:
    assert envoy.send("bare", "/x").status == 200
    assert envoy.send("open", "/x").status == 200
    assert envoy.send("open", "/x", bearer(token())).status == 200
    assert envoy.send("open", "/x", bearer(token(key=STRANGER))).status == 401


def test_a_policy_without_rules_lets_nobody_in(envoy: Engine) -> None:
    answer = envoy.send("nothing", "/x")

    assert (answer.status, answer.challenge) == (403, None)


def test_a_policy_we_cannot_express_closes_its_workload(envoy: Engine) -> None:
    assert envoy.send("custom", "/x").status == 403


def test_without_keys_every_token_of_the_issuer_is_401(envoy: Engine) -> None:
    answer = envoy.send("no-keys", "/x", bearer(token()))

    assert answer.status == 401
    assert "Jwks doesn't have key to match" in answer.body


def test_an_audience_the_rule_does_not_name_is_403(envoy: Engine) -> None:
    wrong = envoy.send("audience", "/x", bearer(token({"aud": "other"})))
    right = envoy.send("audience", "/x", bearer(token({"aud": ["other", "app"]})))

    assert (wrong.status, right.status) == (403, 200)
    assert "Audiences in Jwt are not allowed" in wrong.body


@pytest.mark.parametrize(
    ("path", "claims", "status"),
    [
        ("/nested", {"realm": {"roles": ["user", "admin"]}}, 200),
        ("/nested", {"realm": {"roles": "admin"}}, 200),
        ("/nested", {"realm": {"roles": ["user"]}}, 403),
        ("/nested", {"realm": "admin"}, 403),
        ("/nested", {"realm": {"roles": True}}, 403),
        ("/dotted", {"example.com/role": "admiral"}, 200),
        ("/dotted", {"example": {"com/role": "admiral"}}, 403),
        ("/not-claim", {}, 200),
        ("/not-claim", {"group": "staff"}, 200),
        ("/not-claim", {"group": ["staff", "guest"]}, 403),
        ("/presenter", {"azp": "cli"}, 200),
        ("/presenter", {}, 403),
        ("/audiences", {"aud": ["x", "app"]}, 200),
        ("/audiences", {"aud": "app2"}, 403),
        ("/principal", {}, 200),
        ("/principal", {"sub": "bob"}, 403),
    ],
)
def test_conditions_on_claims(
    envoy: Engine, path: str, claims: dict[str, Any], status: int
) -> None:
    assert envoy.send("conditions", path, bearer(token(claims))).status == status


def test_a_condition_on_a_claim_asks_for_a_token(envoy: Engine) -> None:
    answer = envoy.send("conditions", "/nested")

    assert (answer.status, answer.challenge) == (401, REALM)


@pytest.mark.parametrize(
    ("request_line", "host", "header", "status"),
    [
        ("GET /header", "h", "x-team: blue", 200),
        ("GET /header", "h", "x-team: greenish", 200),
        ("GET /header", "h", "x-team: bluer", 403),
        ("GET /header", "h", "x-other: blue", 403),
        ("GET /port", "h", "x: y", 200),
        ("GET /other-port", "h", "x: y", 403),
        ("GET /not-port", "h", "x: y", 200),
        ("GET /wild/thing", "h", "x: y", 200),
        ("GET /wild", "h", "x: y", 200),
        ("GET /wild/secret", "h", "x: y", 403),
        ("GET /wild/./secret", "h", "x: y", 403),
        ("GET /x/y.css", "h", "x: y", 200),
        ("GET /x/y.css?z", "h", "x: y", 200),
        ("POST /wild", "h", "x: y", 200),
        ("PUT /wild", "h", "x: y", 403),
        ("DELETE /wild", "h", "x: y", 403),
        ("get /wild", "h", "x: y", 400),
        ("GET /hosts", "a.shop.example", "x: y", 200),
        ("GET /hosts", "A.SHOP.example:8443", "x: y", 200),
        ("GET /hosts", "shop.example", "x: y", 403),
        ("GET /hosts", "a.shop.example.evil", "x: y", 403),
        ("GET /hosts", "exact.example:9", "x: y", 200),
        ("GET /hosts", "exact.example", "x: y", 403),
        ("GET /not-hosts", "other.example", "x: y", 200),
        ("GET /not-hosts", "api.kyma.localhost", "x: y", 403),
        ("GET /not-hosts", "API.kyma.localhost:443", "x: y", 403),
    ],
)
def test_operations_and_headers(
    envoy: Engine, request_line: str, host: str, header: str, status: int
) -> None:
    method, path = request_line.split()

    answer = envoy.send("conditions", path, header, method=method, host=host)

    assert answer.status == status


@pytest.mark.parametrize(
    ("caller", "path", "with_token", "status"),
    [
        (INGRESS, "/ingress", True, 200),
        (INGRESS, "/ingress", False, 401),
        ("cluster.local/ns/shop/sa/default", "/ingress", True, 403),
        ("cluster.local/ns/team-a/sa/x", "/namespace", False, 200),
        ("cluster.local/ns/my-team-a/sa/x", "/namespace", False, 403),
        ("cluster.local/ns/other/sa/robot", "/sa", False, 200),
        ("cluster.local/ns/shop/sa/robot", "/sa", False, 403),
        ("cluster.local/ns/shop/sa/x", "/domain", False, 200),
        ("cluster.local/ns/shop/sa/robot", "/domain", False, 403),
        ("cluster.localhost/ns/shop/sa/x", "/domain", False, 403),
        ("cluster.local/ns/shop/sa/x", "/near", False, 200),
        ("cluster.local/ns/shop/sa/x", "/far", False, 403),
    ],
)
def test_who_calls_is_read_from_the_certificate(
    envoy: Engine, tmp_path: Path, caller: str, path: str, *, with_token: bool, status: int
) -> None:
    headers = [bearer(token())] if with_token else []
    answer = envoy.send("sources", path, *headers, tls=CA.client(tmp_path, caller))

    assert answer.status == status


def test_a_caller_no_token_could_help_is_not_asked_for_one(envoy: Engine, tmp_path: Path) -> None:
    context = CA.client(tmp_path, "cluster.local/ns/shop/sa/x")

    answer = envoy.send("sources", "/ingress", tls=context)

    assert (answer.status, answer.challenge) == (403, None)


def allows(envoy: Engine, template: str, path: str) -> Answer:
    return envoy.send("templates", path, f"x-template: {TEMPLATES.index(template)}")


@pytest.mark.parametrize(
    ("template", "path", "matches"),
    [
        ("/a/{*}", "/a/1", True),
        ("/a/{*}", "/a/x%2Fy", True),
        ("/a/{*}", "/a/1?q=/z", True),
        ("/a/{*}", "/a/1.json", True),
        ("/a/{*}", "/a", False),
        ("/a/{*}", "/a/", False),
        ("/a/{*}", "/a/1/", False),
        ("/a/{*}", "/a/1/2", False),
        ("/a/{**}", "/a/", True),
        ("/a/{**}", "/a/1/2", True),
        ("/a/{**}", "/a//x", True),
        ("/a/{**}", "/a", False),
        ("/{**}", "/", True),
        ("/{**}", "/x/y", True),
        ("/a/{*}/x/{**}", "/a/1/x/", True),
        ("/a/{*}/x/{**}", "/a/1/x", False),
        ("/a/{**}/end", "/a/1/2/end", True),
        ("/a/{**}/end", "/a/end", False),
        ("/{**}/x", "/y/x", True),
        ("/{**}/x", "/x", False),
        ("/a//{*}", "/a//b", True),
        ("/a//{*}", "/a/b", False),
        ("/a.b/{*}", "/axb/1", False),
        ("/a(b)+$/{**}", "/a(b)+$/1", True),
        ("/a(b)+$/{**}", "/abb/1", False),
        (TEMPLATES[-1], TEMPLATES[-1].replace("{*}", "x"), True),
        (TEMPLATES[-1], TEMPLATES[-1].replace("{*}", "x/y"), False),
    ],
)
def test_path_templates(envoy: Engine, template: str, path: str, *, matches: bool) -> None:
    assert (allows(envoy, template, path).status == 200) == matches


SEGMENT = st.sampled_from(["", "a", "b", "x", "end", "%41b", "a.b", "a(b)+$", "axb", "1.json", "*"])


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(template=st.sampled_from(TEMPLATES), segments=st.lists(SEGMENT, min_size=1, max_size=5))
def test_envoy_matches_the_paths_that_validation_reckons_with(
    envoy: Engine, template: str, segments: list[str]
) -> None:
    path = "/" + "/".join(segments)
    # Envoy decodes what need not be encoded before any policy sees it.
    seen = path.replace("%41", "A")

    assert (allows(envoy, template, path).status == 200) == Template.parse(template).matches(seen)


def test_envoy_finds_nothing_deprecated_in_what_it_is_given(envoy: Engine) -> None:
    assert "deprecated" not in envoy.log.lower()
