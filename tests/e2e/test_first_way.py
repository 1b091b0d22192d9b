"""The main way end to end: what the wire answers, what kubectl shows, what a restart keeps."""

import json
from pathlib import Path

import pytest
import yaml
from instance import Instance
from tests.e2e.gateway import ask, kubectl, token, until

RULE = """
apiVersion: gateway.kyma-project.io/v2
kind: APIRule
metadata: {{name: {name}, namespace: default}}
spec:
  hosts: [{name}]
  gateway: kyma-system/kyma-gateway
  service: {{name: httpbin, port: 8000}}
  rules:
{rules}
"""
JWT = """
    - path: {path}
      methods: [GET]
      jwt:
        authentications:
          - issuer: {issuer}
            jwksUri: {issuer}/oauth2/certs
{more}
"""


def issuer(instance: Instance) -> str:
    return f"http://oidc.{instance.domain}:{instance.http_port}"


def apply_rule(instance: Instance, name: str, rules: str) -> None:
    kubectl(instance, "apply", "-f", "-", text=RULE.format(name=name, rules=rules))
    kubectl(
        instance,
        *("wait", f"apirule/{name}", "--for=jsonpath={.status.state}=Ready", "--timeout=30s"),
    )


def test_without_a_token_the_answer_asks_for_one(instance: Instance) -> None:
    answer = ask(instance, "httpbin")

    assert answer.status == 401
    realm = f"httpbin.{instance.domain}:{instance.https_port}"
    assert answer.headers["www-authenticate"] == f'Bearer realm="{realm}"'


def test_a_token_opens_the_way_and_reaches_the_workload(instance: Instance) -> None:
    answer = ask(instance, "httpbin", token=token(instance))

    assert answer.status == 200
    headers = answer.json()["headers"]
    assert headers["Authorization"].startswith("Bearer ")
    assert "istio-ingressgateway-service-account" in headers["X-Forwarded-Client-Cert"]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("expired", 401),
        ("not-yet-valid", 401),
        ("wrong-issuer", 401),
        ("unknown-key", 401),
        ("bad-signature", 401),
        ("tampered", 401),
        ("garbage", 401),
        ("alg-none", 401),
        ("hs256-confusion", 401),
    ],
)
def test_a_forged_token_is_refused(instance: Instance, kind: str, status: int) -> None:
    forged = instance.apirule("token", "forge", kind).stdout.strip()

    answer = ask(instance, "httpbin", token=forged)

    assert answer.status == status
    challenge = answer.headers["www-authenticate"]
    assert 'error="invalid_token"' in challenge
    assert "/headers" not in challenge
    assert forged not in challenge


def test_a_good_token_without_the_scope_is_told_so(instance: Instance) -> None:
    more = "        authorizations: [{requiredScopes: [write]}]"
    path = JWT.format(path="/headers", issuer=issuer(instance), more=more)
    apply_rule(instance, "scoped", path)

    refused = ask(instance, "scoped", token=token(instance, "--scope", "read"))
    allowed = ask(instance, "scoped", token=token(instance, "--scope", "write"))

    assert (refused.status, allowed.status) == (403, 200)
    assert 'error="insufficient_scope"' in refused.headers["www-authenticate"]


def test_what_no_rule_names_is_404_and_other_methods_too(instance: Instance) -> None:
    apply_rule(instance, "narrow", JWT.format(path="/headers", issuer=issuer(instance), more=""))

    answers = [
        ask(instance, "narrow", "/ip").status,
        ask(instance, "narrow", "/headers", "-X", "POST").status,
        ask(instance, "nobody", "/").status,
    ]

    assert answers == [404, 404, 404]


def test_a_preflight_is_404_where_no_rule_has_options(instance: Instance) -> None:
    apply_rule(instance, "preflight", JWT.format(path="/headers", issuer=issuer(instance), more=""))
    preflight = (
        "-H",
        "Origin: https://app.example.org",
        "-H",
        "Access-Control-Request-Method: GET",
    )

    answer = ask(instance, "preflight", "/headers", "-X", "OPTIONS", *preflight)

    assert answer.status == 404
    assert "access-control-allow-origin" not in answer.headers


def test_an_open_path_beside_a_guarded_one_opens_only_itself(instance: Instance) -> None:
    guarded = JWT.format(path="/headers", issuer=issuer(instance), more="")
    apply_rule(instance, "mixed", guarded + "    - {path: /*, methods: [GET], noAuth: true}")

    answers = {
        path: ask(instance, "mixed", path).status
        for path in (
            "/headers",
            "/ip",
            "//headers",
            "/%68eaders",
            "/x/../headers",
            "/x%2f..%2fheaders",
        )
    }

    assert answers["/ip"] == 200
    assert {path: status for path, status in answers.items() if path != "/ip"} == dict.fromkeys(
        [path for path in answers if path != "/ip"], 401
    )


def test_plain_http_is_sent_to_https_on_the_right_port(instance: Instance) -> None:
    answer = ask(instance, "httpbin", scheme="http")

    assert answer.status == 301
    location = f"https://httpbin.{instance.domain}:{instance.https_port}/headers"
    assert answer.headers["location"] == location


def test_a_token_in_the_query_counts_only_where_the_rule_says_so(instance: Instance) -> None:
    good = token(instance)
    before = ask(instance, "httpbin", f"/get?access_token={good}").status
    more = "            fromParams: [access_token]"
    apply_rule(instance, "by-query", JWT.format(path="/get", issuer=issuer(instance), more=more))

    after = ask(instance, "by-query", f"/get?access_token={good}").status

    assert (before, after) == (401, 200)


def test_kubectl_shows_the_rule_its_conditions_and_events(instance: Instance) -> None:
    table = kubectl(instance, "get", "apirule", "httpbin").stdout
    rule = json.loads(kubectl(instance, "get", "apirule", "httpbin", "-o", "json").stdout)
    conditions = {c["type"]: c["status"] for c in rule["status"]["conditions"]}

    assert table.split()[:3] == ["NAME", "STATUS", "HOSTS"]
    assert rule["status"]["observedGeneration"] == rule["metadata"]["generation"]
    assert conditions["Enforced"] == "True"
    assert rule["status"]["description"] == "Reconciled successfully"


def test_every_mistake_of_a_manifest_is_answered_at_once(instance: Instance) -> None:
    text = """
apiVersion: gateway.kyma-project.io/v2
kind: APIRule
metadata: {name: wrong, namespace: default}
spec:
  hosts: [Foo]
  gateway: kyma-gateway
  service: {name: httpbin, port: 99999}
  rules:
    - {path: a, methods: [GETT], noAuth: true}
"""
    done = kubectl(instance, "apply", "-f", "-", text=text, check=False)

    assert done.returncode == 1
    for place in ("spec.service.port", "spec.rules[0].path", "spec.rules[0].methods[0]"):
        assert place in done.stderr


def test_a_rule_that_cannot_be_served_says_why_in_its_status(instance: Instance) -> None:
    rules = """
    - {path: /a, methods: [GET], noAuth: true, service: {name: missing, port: 1}}
    - {path: /a, methods: [GET], noAuth: true}
"""
    kubectl(instance, "apply", "-f", "-", text=RULE.format(name="broken", rules=rules))
    kubectl(
        instance,
        *("wait", "apirule/broken", "--for=jsonpath={.status.state}=Error", "--timeout=30s"),
    )
    rule = yaml.safe_load(kubectl(instance, "get", "apirule", "broken", "-o", "yaml").stdout)

    described = rule["status"]["description"]
    assert described.startswith("Validation errors: Attribute '.spec.rules[0]'")
    assert 'Service "missing" not found' in described
    assert "Path /a with method GET conflicts" in described


def test_no_token_and_no_key_reaches_a_log(instance: Instance) -> None:
    secret = token(instance)
    assert ask(instance, "httpbin", token=secret).status == 200
    ask(instance, "by-query", f"/get?access_token={secret}")
    # Envoy writes its log a moment later. What is asked last is in it when all before it is.
    assert ask(instance, "httpbin", "/anything/marker", token=secret).status == 200

    def texts() -> dict[Path, str]:
        folders = (instance.state / "logs", instance.state / "pods")
        logs = [log for folder in folders for log in folder.rglob("*.log*")]  # rotated ones too
        return {log: log.read_text(errors="replace") for log in logs}

    def told() -> int:
        return len({log.parent for log, text in texts().items() if "/anything/marker" in text})

    until(lambda: told() == 2, "gateway and sidecar have written their logs")
    leaking = [name for name, text in texts().items() if secret in text]
    private = [name for name, text in texts().items() if "PRIVATE KEY" in text]
    assert (leaking, private) == ([], [])


def test_a_sidecar_is_started_once(instance: Instance) -> None:
    image = "--image=docker.io/kennethreitz/httpbin"
    kubectl(instance, "create", "deployment", "once", image)
    kubectl(instance, "rollout", "status", "deployment/once", "--timeout=30s")
    pods = json.loads(kubectl(instance, "get", "pods", "-l", "app=once", "-o", "json").stdout)

    (pod,) = pods["items"]
    restarts = {s["name"]: s["restartCount"] for s in pod["status"]["containerStatuses"]}

    assert restarts == {"httpbin": 0, "istio-proxy": 0}
