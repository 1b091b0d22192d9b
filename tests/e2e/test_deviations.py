"""Requests that the Kyma operator lets through and this one refuses.

They are named after the deviations that ``docs/differences.md`` tells of.
"""

import http.client
import json
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from instance import Instance
from tests.e2e.gateway import ask, kubectl, token, until

RULE = """
apiVersion: gateway.kyma-project.io/v2
kind: APIRule
metadata: {{name: {name}, namespace: default}}
spec:
  hosts: ["{host}"]
  gateway: kyma-system/kyma-gateway
  service: {{name: {service}, port: 8000}}
  rules: {rules}
"""
WORKLOAD = """
apiVersion: v1
kind: Service
metadata: {name: fresh, namespace: default}
spec: {selector: {app: fresh}, ports: [{name: http, port: 8000, targetPort: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: fresh, namespace: default}
spec:
  selector: {matchLabels: {app: fresh}}
  template:
    metadata: {labels: {app: fresh}}
    spec:
      containers:
        - {name: httpbin, image: docker.io/kennethreitz/httpbin, ports: [{containerPort: 80}]}
"""


def rule(instance: Instance, path: str, *methods: str, guarded: bool = False) -> dict[str, object]:
    issuer = f"http://oidc.{instance.domain}:{instance.http_port}"
    jwt = {"authentications": [{"issuer": issuer, "jwksUri": f"{issuer}/oauth2/certs"}]}
    access: dict[str, object] = {"jwt": jwt} if guarded else {"noAuth": True}
    return {"path": path, "methods": methods or ("GET",), **access}


def apply(
    instance: Instance,
    name: str,
    *rules: dict[str, object],
    host: str = "",
    service: str = "httpbin",
    state: str = "Ready",
) -> None:
    text = RULE.format(name=name, host=host or name, service=service, rules=json.dumps(rules))
    kubectl(instance, "apply", "-f", "-", text=text)
    wait(instance, name, state)


def wait(instance: Instance, name: str, state: str) -> None:
    expected = f"--for=jsonpath={{.status.state}}={state}"
    kubectl(instance, "wait", f"apirule/{name}", expected, "--timeout=30s")


def test_d1_a_guarded_root_stays_guarded_beside_an_open_rest(instance: Instance) -> None:
    apply(instance, "d1", rule(instance, "/", guarded=True), rule(instance, "/*"))

    assert ask(instance, "d1", "/ip").status == 200
    assert [ask(instance, "d1", path).status for path in ("/", "/?x=1", "/./", "/a/..")] == [
        401
    ] * 4
    assert ask(instance, "d1", "//").status in (401, 403)
    assert ask(instance, "d1", "/", token=token(instance)).status == 200


def test_d2_a_path_between_two_rules_of_one_path_stays_guarded(instance: Instance) -> None:
    apply(
        instance,
        "d2",
        rule(instance, "/anything/{*}", "GET", guarded=True),
        rule(instance, "/anything/x", "POST", guarded=True),
        rule(instance, "/anything/{*}", "POST"),
    )

    assert ask(instance, "d2", "/anything/y", "-X", "POST").status == 200
    assert ask(instance, "d2", "/anything/x", "-X", "POST").status == 401
    assert ask(instance, "d2", "/anything/x", "-X", "POST", token=token(instance)).status == 200


def test_d4_a_second_rule_of_one_path_is_refused_and_opens_nothing(instance: Instance) -> None:
    longer = rule(instance, "/anything/x", guarded=True)
    guarded = rule(instance, "/anything", guarded=True)
    apply(instance, "d4", longer, guarded)

    apply(instance, "d4", longer, guarded, rule(instance, "/anything"), state="Error")

    assert ask(instance, "d4", "/anything").status == 401
    assert ask(instance, "d4", "/anything", token=token(instance)).status == 200


def test_d7_a_wildcard_host_opens_no_host_with_rules_of_its_own(instance: Instance) -> None:
    apply(instance, "d7", rule(instance, "/*"), host=f"*.{instance.domain}")
    try:
        # The demo guards httpbin.DOMAIN, on the same workload.
        assert ask(instance, "anyone").status == 200
        assert ask(instance, "httpbin").status == 401

        # Rules that come later are heeded, and forgotten when they go.
        apply(instance, "d7-late", rule(instance, "/headers", guarded=True))
        until(lambda: ask(instance, "d7-late").status == 401)
        assert ask(instance, "d7-late", token=token(instance)).status == 200
        assert ask(instance, "d7-late", "/ip").status == 404
        assert ask(instance, "anyone").status == 200
        kubectl(instance, "delete", "apirule", "d7-late")
        until(lambda: ask(instance, "d7-late").status == 200)
        assert ask(instance, "httpbin").status == 401
    finally:
        kubectl(instance, "delete", "apirule", "d7")


SPELLINGS = (
    *("//headers", "/./headers", "/x/../headers", "/x/%2e%2e/headers", "/%68eaders", "/headers?x"),
    *("/x%2f..%2fheaders", "/%2fheaders", "/x\\..\\headers", "///headers"),
)
OTHER_PATHS = ("/HEADERS", "/headers;x", "/headers;/x", "/headers.", "/headers%20")
NEIGHBOURS = ("/headers/", "/headers%2f", "/headers%2Fx", "/headers//", "/headers/%2e/x")


def test_d26_other_spellings_of_a_guarded_path_are_guarded(instance: Instance) -> None:
    rest = rule(instance, "/{**}")
    apply(instance, "d26", rule(instance, "/headers", guarded=True), rest)

    assert ask(instance, "d26", "/ip").status == 200
    assert {path: ask(instance, "d26", path).status for path in SPELLINGS} == dict.fromkeys(
        SPELLINGS, 401
    )


def test_d26_what_looks_alike_is_pointed_out_and_can_be_guarded_too(instance: Instance) -> None:
    guarded = [rule(instance, path, guarded=True) for path in ("/headers", "/headers/{**}")]
    apply(instance, "d26-all", *guarded, rule(instance, "/{**}"))
    text = RULE.format(
        name="d26-lint",
        host="d26-lint",
        service="httpbin",
        rules=json.dumps([guarded[0], rule(instance, "/{**}")]),
    )

    warned = kubectl(instance, "apply", "--dry-run=server", "-f", "-", text=text).stderr

    assert "/headers needs a token, but rule 1" in warned
    assert "/HEADERS, /headers;x, /headers. without one" in warned
    assert {path: ask(instance, "d26-all", path).status for path in NEIGHBOURS} == dict.fromkeys(
        NEIGHBOURS, 401
    )
    # The program knows none of these, so it answers 404: docs/security.md says that they are open.
    assert {path: ask(instance, "d26-all", path).status for path in OTHER_PATHS} == dict.fromkeys(
        OTHER_PATHS, 404
    )


@pytest.fixture
def fresh(instance: Instance) -> Iterator[None]:
    """A workload of its own, so that no other rule's policy stands before it."""
    kubectl(instance, "apply", "-f", "-", text=WORKLOAD)
    kubectl(instance, "rollout", "status", "deployment/fresh", "--timeout=60s")
    yield
    kubectl(instance, "delete", "-f", "-", text=WORKLOAD)


@pytest.mark.usefixtures("fresh")
def test_d6_a_rule_that_comes_and_goes_under_load_is_never_open(instance: Instance) -> None:
    good = token(instance)
    with load(instance, "d6", "/headers") as answers:
        for _ in range(6):
            apply(instance, "d6", rule(instance, "/*", guarded=True), service="fresh")
            until(lambda: ask(instance, "d6", token=good).status == 200)
            kubectl(instance, "delete", "apirule", "d6")

    assert answers[401] > 0
    assert set(answers) <= {401, 403, 404}, answers


@contextmanager
def load(instance: Instance, host: str, path: str) -> Iterator[Counter[int]]:
    """Ask without a token all the time, on two connections that stay."""
    answers: Counter[int] = Counter()
    over = threading.Event()
    name = f"{host}.{instance.domain}"
    context = ssl.create_default_context(cafile=str(instance.state / "ca.crt"))

    def work() -> None:
        seen: Counter[int] = Counter()
        connection = http.client.HTTPSConnection(name, instance.https_port)
        while not over.is_set():
            if connection.sock is None:
                plain = socket.create_connection(("127.0.0.1", instance.https_port))
                connection.sock = context.wrap_socket(plain, server_hostname=name)
            connection.request("GET", path)
            with connection.getresponse() as response:
                response.read()
                seen[response.status] += 1
        connection.close()
        answers.update(seen)

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    try:
        yield answers
    finally:
        over.set()
        for worker in workers:
            worker.join()
