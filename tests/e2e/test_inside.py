"""Calls inside the mesh: one workload asks another through its sidecar, as with an http_proxy."""

import json
import subprocess
from collections.abc import Iterator

import pytest
from instance import Instance
from tests.e2e.gateway import Answer, ask, kubectl, token, until

HTTPBIN = "httpbin.default.svc.cluster.local:8000"
CALLER = """
apiVersion: v1
kind: Namespace
metadata: {name: inside, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: caller, namespace: inside}
---
apiVersion: v1
kind: Pod
metadata: {name: caller, namespace: inside}
spec:
  serviceAccountName: caller
  containers: [{name: app, image: curlimages/curl, command: [sleep, "3600"]}]
"""
ALLOW_INTERNAL = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow-internal, namespace: default}
spec:
  selector: {matchLabels: {app: httpbin}}
  rules:
    - from:
        - source:
            notPrincipals:
              - cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account
"""
ENTRY = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: issuer, namespace: inside}}
spec:
  hosts: [issuer.example]
  resolution: STATIC
  ports: [{{number: 80, name: http}}]
  endpoints: [{{address: 127.0.0.1, ports: {{http: {port}}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: issuer, namespace: inside}}
spec:
  hosts: [issuer.example]
  http:
    - rewrite: {{authority: "oidc.{domain}:{port}"}}
      route: [{{destination: {{host: issuer.example}}}}]
"""
RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: issuer, namespace: inside}}
spec:
  host: issuer.example
  trafficPolicy: {policy}
"""


@pytest.fixture(scope="module")
def proxy(instance: Instance) -> Iterator[str]:
    """Return what the workload ``inside/caller`` has as its http_proxy."""
    kubectl(instance, "apply", "-f", "-", text=CALLER)
    wait = ("wait", "pod/caller", "-n", "inside", "--for=condition=Ready", "--timeout=60s")
    kubectl(instance, *wait)
    pod = json.loads(kubectl(instance, "get", "pod/caller", "-n", "inside", "-o", "json").stdout)
    yield f"http://127.0.0.1:{pod['metadata']['annotations']['apirule.local/outbound']}"
    kubectl(instance, "delete", "namespace", "inside")


def call(proxy: str, url: str) -> Answer:
    done = subprocess.run(
        ["curl", "-sS", "-i", "--max-time", "10", "--noproxy", "", "-x", proxy, url],
        capture_output=True,
        text=True,
        check=True,
    )
    head, _, body = done.stdout.replace("\r\n", "\n").partition("\n\n")
    return Answer(int(head.split()[1]), body=body)


def apply(instance: Instance, text: str, *names: str, namespace: str) -> None:
    kubectl(instance, "apply", "-f", "-", text=text)
    for name in names:
        waited = ("wait", name, "--for=condition=Reconciled", "--timeout=30s")
        kubectl(instance, *waited, "-n", namespace)


def test_an_exposed_workload_refuses_calls_inside_until_they_are_allowed(
    instance: Instance, proxy: str
) -> None:
    before = call(proxy, f"http://{HTTPBIN}/headers")

    policy = "authorizationpolicy/allow-internal"
    apply(instance, ALLOW_INTERNAL, policy, namespace="default")
    try:
        allowed = call(proxy, f"http://{HTTPBIN}/headers")
        at_gateway = ask(instance, "httpbin").status
        with_token = ask(instance, "httpbin", token=token(instance)).status
    finally:
        kubectl(instance, "delete", policy, "-n", "default")
        # The proxy is told after the object has gone.
        until(lambda: call(proxy, f"http://{HTTPBIN}/headers").status == 403)

    assert before.status == 403
    assert allowed.status == 200
    certificate = allowed.json()["headers"]["X-Forwarded-Client-Cert"]
    assert "spiffe://cluster.local/ns/inside/sa/caller" in certificate
    assert (at_gateway, with_token) == (401, 200)


def test_whoever_misspells_a_field_is_told_at_once(instance: Instance, proxy: str) -> None:
    misspelt = ENTRY.format(port=1, domain="x").replace("rewrite:", "rewrit:")

    done = kubectl(instance, "apply", "--dry-run=server", "-f", "-", text=misspelt)

    assert 'Warning: spec.http[0].rewrit: There is no such field. Did you mean "rewrite"?' in (
        done.stderr
    )


def test_a_service_has_its_address_and_its_name_with_a_dot_at_the_end(
    instance: Instance, proxy: str
) -> None:
    found = ("get", "service/httpbin", "-n", "default", "-o", "jsonpath={.spec.clusterIP}")
    address = kubectl(instance, *found).stdout

    # 403: it got there, and the policy of the APIRule is against it.
    assert call(proxy, f"http://{address}:8000/headers").status == 403
    assert call(proxy, f"http://{HTTPBIN.replace(':', '.:')}/headers").status == 403
    assert call(proxy, f"http://{address}:8001/headers").status == 404


def test_a_host_outside_is_called_by_the_name_an_entry_gives_it(
    instance: Instance, proxy: str
) -> None:
    text = ENTRY.format(port=instance.http_port, domain=instance.domain)
    names = ("serviceentry/issuer", "virtualservice/issuer")

    apply(instance, text, *names, namespace="inside")
    answer = call(proxy, "http://issuer.example/.well-known/openid-configuration")

    assert answer.status == 200
    assert "jwks_uri" in answer.json()

    listed = kubectl(instance, "get", "se", "-n", "inside").stdout.split("\n")
    assert listed[0].split() == ["NAME", "HOSTS", "LOCATION", "RESOLUTION", "AGE"]

    # A rule that cannot be followed closes the host, and says why.
    policy = "{loadBalancer: {simple: PASSTHROUGH}}"
    kubectl(instance, "apply", "-f", "-", text=RULE.format(policy=policy))
    refused = ("wait", "dr/issuer", "-n", "inside", "--for=condition=Reconciled=False")
    kubectl(instance, *refused, "--timeout=30s")

    assert call(proxy, "http://issuer.example/").status == 503
    status = kubectl(instance, "get", "dr/issuer", "-n", "inside", "-o", "yaml").stdout
    assert "PASSTHROUGH is not implemented" in status

    # Corrected, it closes the host no longer.
    apply(instance, RULE.format(policy="{loadBalancer: {simple: RANDOM}}"), namespace="inside")
    kubectl(
        instance,
        *("wait", "dr/issuer", "-n", "inside", "--timeout=30s"),
        "--for=condition=Reconciled=True",
    )
    assert call(proxy, "http://issuer.example/.well-known/openid-configuration").status == 200
