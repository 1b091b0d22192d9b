"""A RateLimit end to end: what kubectl shows, what the wire answers, and how it goes away."""

import json
from collections.abc import Iterator

import pytest
from instance import Instance
from tests.e2e.gateway import ask, kubectl, until

RULE = """
apiVersion: gateway.kyma-project.io/v2
kind: APIRule
metadata: {name: limited, namespace: default}
spec:
  hosts: [limited]
  gateway: kyma-system/kyma-gateway
  service: {name: httpbin, port: 8000}
  rules: [{path: /*, methods: [GET], noAuth: true}]
"""
LIMIT = """
apiVersion: gateway.kyma-project.io/v1alpha1
kind: RateLimit
metadata: {name: %(name)s, namespace: %(namespace)s}
spec:
  selectorLabels: {%(selector)s}
  enableResponseHeaders: true
  local:
    defaultBucket: {maxTokens: 1000, tokensPerFill: 1000, fillInterval: 600s}
    buckets:
      - path: /ip
        bucket: {maxTokens: 2, tokensPerFill: 1, fillInterval: 600s}
"""
AT_THE_WORKLOAD = {"name": "httpbin", "namespace": "default", "selector": "app: httpbin"}
AT_THE_GATEWAY = {"name": "edge", "namespace": "istio-system", "selector": "istio: ingressgateway"}


@pytest.fixture(scope="module", autouse=True)
def _rule(instance: Instance) -> Iterator[None]:
    kubectl(instance, "apply", "-f", "-", text=RULE)
    wait = ("wait", "apirule/limited", "--for=jsonpath={.status.state}=Ready", "--timeout=30s")
    kubectl(instance, *wait)
    yield
    kubectl(instance, "delete", "apirule/limited")


@pytest.mark.parametrize(
    "place", [AT_THE_WORKLOAD, AT_THE_GATEWAY], ids=["at-the-workload", "at-the-gateway"]
)
def test_a_limit_holds_once_it_is_ready_and_goes_with_its_object(
    instance: Instance, place: dict[str, str]
) -> None:
    one, there = f"ratelimit/{place['name']}", ("-n", place["namespace"])

    kubectl(instance, "apply", "-f", "-", text=LIMIT % place)
    kubectl(instance, "wait", *there, one, "--for=jsonpath={.status.state}=Ready", "--timeout=30s")
    # A connection that was open before is closed with its next answer, so some more may pass.
    answers = [ask(instance, "limited", "/ip?x=1") for _ in range(10)]
    other = ask(instance, "limited", "/get").status
    shown = kubectl(instance, "get", *there, one, "--no-headers").stdout.split()
    owned = json.loads(kubectl(instance, "get", *there, "envoyfilters", "-o", "json").stdout)
    kubectl(instance, "delete", *there, one)
    kubectl(instance, "wait", *there, f"envoyfilter/{place['name']}", "--for=delete")
    # The proxy is told after the object has gone.
    until(
        lambda: [ask(instance, "limited", "/ip").status for _ in range(4)] == [200] * 4, "no limit"
    )

    statuses = [answer.status for answer in answers]
    assert statuses[:2] == [200, 200]
    assert statuses[-1] == 429
    assert answers[-1].body == "local_rate_limited"
    assert answers[-1].headers["x-ratelimit-limit"].startswith("2")
    assert other == 200
    assert shown[:2] == [place["name"], "Ready"]
    assert [item["metadata"]["ownerReferences"][0]["name"] for item in owned["items"]] == [
        place["name"]
    ]


def test_an_envoy_filter_that_cannot_be_expressed_closes_and_says_so(instance: Instance) -> None:
    text = """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: unknown, namespace: default}
spec:
  workloadSelector: {labels: {app: httpbin}}
  configPatches:
    - applyTo: CLUSTER
      match: {context: SIDECAR_INBOUND}
      patch: {operation: MERGE, value: {}}
"""

    kubectl(instance, "apply", "-f", "-", text=text)
    kubectl(
        instance,
        *("wait", "envoyfilter/unknown", "--for=condition=Reconciled=False", "--timeout=30s"),
    )
    condition = json.loads(kubectl(instance, "get", "envoyfilter/unknown", "-o", "json").stdout)[
        "status"
    ]["conditions"][0]
    closed = ask(instance, "limited", "/ip").status
    kubectl(instance, "delete", "envoyfilter/unknown")

    assert condition["reason"] == "NotImplemented"
    assert "spec.configPatches[0].applyTo" in condition["message"]
    assert closed == 403


def test_the_default_gateway_stays_while_it_is_used(instance: Instance) -> None:
    off = '{"spec": {"enableKymaGateway": false}}'
    on = '{"spec": {"enableKymaGateway": true}}'

    kubectl(instance, "patch", "apigateway/default", "--type=merge", "-p", off)
    kubectl(
        instance,
        *("wait", "apigateway/default", "--for=jsonpath={.status.state}=Warning"),
    )
    description = kubectl(
        instance, "get", "apigateway/default", "-o", "jsonpath={.status.description}"
    ).stdout
    still = ask(instance, "limited", "/ip").status
    kubectl(instance, "patch", "apigateway/default", "--type=merge", "-p", on)
    kubectl(instance, "wait", "apigateway/default", "--for=condition=Ready")

    assert "APIRule default/" in description
    assert still == 200


def test_the_gateway_says_that_it_serves(instance: Instance) -> None:
    assert ask(instance, "healthz", "/healthz/ready").status == 200
