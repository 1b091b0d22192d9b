"""External authorization end to end: from the Istio resource to what the wire answers."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from instance import Instance
from ports import free_ports
from tests.e2e.gateway import ask, kubectl, token

PROGRAM = Path(__file__).parent / "authorizer.py"
PASS = ("-H", "x-pass: yes")
ISTIO = """
apiVersion: operator.kyma-project.io/v1alpha2
kind: Istio
metadata: {name: default, namespace: kyma-system}
spec:
  config:
    authorizers:
"""
AUTHORIZER = """
      - name: NAME
        service: gate.default.svc.cluster.local
        port: PORT
        headers:
          inCheck: {include: [x-pass]}
          toUpstream: {onAllow: [x-user]}
          toDownstream: {onDeny: [x-reason]}
"""
RULE = """
apiVersion: gateway.kyma-project.io/v2
kind: APIRule
metadata: {name: NAME, namespace: default}
spec:
  hosts: [NAME]
  gateway: kyma-system/kyma-gateway
  service: {name: httpbin, port: 8000}
  rules:
    - path: /headers
      methods: [GET]
      extAuth:
        authorizers: [AUTHORIZER]
        restrictions: {authentications: [{issuer: ISSUER, jwksUri: ISSUER/oauth2/certs}]}
    - path: /ip
      methods: [GET]
      extAuth: {authorizers: [AUTHORIZER]}
"""


class Gate:
    """An authorizer that runs, and rules that ask it."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        (self.port,) = free_ports(1)

    def start(self) -> None:
        words = ("run", "--port", str(self.port), "gate", sys.executable, str(PROGRAM))
        self.instance.apirule(*words, str(self.port))

    def declare(self, *names: str) -> None:
        entries = [AUTHORIZER.replace("NAME", n).replace("PORT", str(self.port)) for n in names]
        kubectl(self.instance, "apply", "-f", "-", text=ISTIO + "".join(entries))
        self.wait("istio/default", "Ready", namespace="kyma-system")

    def rule(self, name: str, authorizer: str, state: str) -> None:
        issuer = f"http://oidc.{self.instance.domain}:{self.instance.http_port}"
        text = RULE.replace("NAME", name).replace("AUTHORIZER", authorizer)
        kubectl(self.instance, "apply", "-f", "-", text=text.replace("ISSUER", issuer))
        self.wait(f"apirule/{name}", state)

    def wait(self, what: str, state: str, *, namespace: str = "default") -> None:
        condition = f"--for=jsonpath={{.status.state}}={state}"
        kubectl(self.instance, "wait", what, "-n", namespace, condition, "--timeout=60s")


@pytest.fixture(scope="module")
def gate(instance: Instance) -> Iterator[Gate]:
    gate = Gate(instance)
    gate.start()
    gate.declare("gate")
    gate.rule("gated", "gate", "Ready")
    yield gate
    kubectl(instance, "delete", "apirule", "gated", "stranger", "--ignore-not-found")
    kubectl(instance, "delete", "istio", "default", "-n", "kyma-system", "--ignore-not-found")
    instance.apirule("stop", "gate", check=False)


def test_who_has_the_consent_and_a_token_gets_in(instance: Instance, gate: Gate) -> None:
    answer = ask(instance, "gated", "/headers", *PASS, token=token(instance))

    assert answer.status == 200
    assert answer.json()["headers"]["X-User"] == "ada"


def test_without_the_consent_a_token_does_not_help(instance: Instance, gate: Gate) -> None:
    answer = ask(instance, "gated", "/headers", token=token(instance))

    assert answer.status == 403
    assert answer.headers["x-reason"] == "no pass"


def test_without_a_token_the_consent_does_not_help(instance: Instance, gate: Gate) -> None:
    forged = instance.apirule("token", "forge", "bad-signature").stdout.strip()

    missing = ask(instance, "gated", "/headers", *PASS)
    bad = ask(instance, "gated", "/headers", *PASS, token=forged)

    assert (missing.status, bad.status) == (401, 401)
    assert "error" not in missing.headers["www-authenticate"]
    assert 'error="invalid_token"' in bad.headers["www-authenticate"]


def test_without_restrictions_the_consent_is_enough(instance: Instance, gate: Gate) -> None:
    assert ask(instance, "gated", "/ip", *PASS).status == 200
    assert ask(instance, "gated", "/ip").status == 403


def test_other_spellings_of_a_path_are_asked_about_too(instance: Instance, gate: Gate) -> None:
    spellings = ("//ip", "/%69p", "/x/../ip", "/x%2f..%2fip", "/./ip")

    assert {path: ask(instance, "gated", path).status for path in spellings} == dict.fromkeys(
        spellings, 403
    )


def test_an_unknown_authorizer_is_an_error_and_nothing_is_exposed(
    instance: Instance, gate: Gate
) -> None:
    gate.rule("stranger", "nobody", "Error")

    found = json.loads(kubectl(instance, "get", "apirule", "stranger", "-o", "json").stdout)
    place = ".spec.rules[0].extAuth.externalAuthorizers.nobody"
    assert found["status"]["description"].startswith(
        f"Validation errors: Attribute '{place}': Authorizer not found in Istio ConfigMap mesh data"
    )
    assert ask(instance, "stranger", "/ip", *PASS).status == 404


def test_a_rule_becomes_ready_when_its_authorizer_is_declared(
    instance: Instance, gate: Gate
) -> None:
    gate.rule("stranger", "later", "Error")

    gate.declare("gate", "later")

    gate.wait("apirule/stranger", "Ready")
    assert ask(instance, "stranger", "/ip", *PASS).status == 200
    assert ask(instance, "stranger", "/ip").status == 403


def test_an_authorizer_that_is_no_longer_declared_refuses_everything(
    instance: Instance, gate: Gate
) -> None:
    gate.declare("gate", "passing")
    gate.rule("stranger", "passing", "Ready")

    gate.declare("gate")

    gate.wait("apirule/stranger", "Error")
    policies = ("ap", "-l", "apirule.gateway.kyma-project.io/name=stranger")
    selected = json.loads(kubectl(instance, "get", *policies, "-o", "json").stdout)["items"]
    for policy in selected:
        if policy["spec"].get("action") == "CUSTOM":
            name = f"ap/{policy['metadata']['name']}"
            kubectl(instance, "wait", name, "--for=condition=Reconciled=False", "--timeout=30s")
    assert ask(instance, "stranger", "/ip", *PASS).status == 403
    assert ask(instance, "gated", "/ip", *PASS).status == 200


def test_an_authorizer_that_is_down_lets_nobody_in(instance: Instance, gate: Gate) -> None:
    kubectl(instance, "scale", "deployment/gate", "--replicas=0")
    kubectl(instance, "wait", "pod", "-l", "app=gate", "--for=delete", "--timeout=60s")

    refused = ask(instance, "gated", "/ip", *PASS).status

    kubectl(instance, "scale", "deployment/gate", "--replicas=1")
    kubectl(instance, "wait", "deployment/gate", "--for=condition=Available", "--timeout=60s")
    assert refused == 403
