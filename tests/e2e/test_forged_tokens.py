"""Every kind of forged token through real Envoys; a rotation of keys breaks no good one."""

import http.client
import json
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from instance import Instance
from tests.e2e.gateway import ask, token

from apirule.cli.token import KINDS

RULE = """\
apiVersion: gateway.kyma-project.io/v2
kind: APIRule
metadata: {{name: picky}}
spec:
  hosts: [picky.kyma.localhost]
  gateway: kyma-system/kyma-gateway
  service: {{name: httpbin, port: 8000}}
  rules:
    - path: /*
      methods: [GET]
      jwt:
        authentications: [{{issuer: "{issuer}", jwksUri: "{issuer}/oauth2/certs"}}]
        authorizations: [{{requiredScopes: [read], audiences: [demo]}}]
"""
ANSWERS = {
    **dict.fromkeys(KINDS, 401),
    "wrong-audience": 403,
    "no-scope": 403,
    # Envoy takes a token without exp for one that lasts; `token inspect` warns of it.
    "no-exp": 200,
}


@pytest.fixture(scope="module")
def picky(instance: Instance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """An instance with a rule that asks for a scope and an audience."""
    issuer = f"http://oidc.{instance.domain}:{instance.http_port}"
    file: Path = tmp_path_factory.mktemp("picky") / "rule.yaml"
    file.write_text(RULE.format(issuer=issuer))
    instance.apirule("apply", "-f", str(file), "--wait")
    yield instance
    instance.apirule("delete", "-f", str(file))


def test_the_good_token_of_which_all_are_made_is_let_through(picky: Instance) -> None:
    assert ask(picky, "picky", token=token(picky)).status == 200


@pytest.mark.parametrize("kind", KINDS)
def test_a_forged_token_is_answered_as_its_flaw_deserves(picky: Instance, kind: str) -> None:
    forged = picky.apirule("token", "forge", kind).stdout.strip()

    answer = ask(picky, "picky", f"/anything/{kind}", token=forged)

    assert answer.status == ANSWERS[kind]
    error = {401: "invalid_token", 403: "insufficient_scope"}.get(answer.status)
    assert error is None or f'error="{error}"' in answer.headers["www-authenticate"]


@pytest.mark.parametrize(
    ("kind", "lack"),
    [
        ("no-scope", "needs scope read; its token has no scope, audience demo"),
        ("wrong-audience", "needs audience demo; its token has scope read, audience somebody-else"),
    ],
)
def test_a_good_token_that_does_not_suffice_is_told_what_it_lacks(
    picky: Instance, kind: str, lack: str
) -> None:
    forged = picky.apirule("token", "forge", kind).stdout.strip()
    url = f"https://picky.{picky.domain}:{picky.https_port}/anything"

    done = picky.apirule("curl", "-sS", "--token", forged, url)

    assert done.stdout == "RBAC: access denied"
    assert f"why: APIRule default/picky rule 1 {lack}" in done.stderr


# ── rotation ─────────────────────────────────────────────────────────────────────────────────


class Gateway(http.client.HTTPSConnection):
    """A connection of its own to the gateway, whatever the resolver knows."""

    def __init__(self, instance: Instance) -> None:
        self._trusted = ssl.create_default_context(cafile=str(instance.state / "ca.crt"))
        super().__init__(f"httpbin.{instance.domain}", instance.https_port, timeout=10)

    def connect(self) -> None:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        self.sock = self._trusted.wrap_socket(plain, server_hostname=self.host)


def fresh_token(instance: Instance, client: str, secret: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", instance.http_port, timeout=10)
    form = {"grant_type": "client_credentials", "client_id": client, "client_secret": secret}
    headers = {
        "Host": f"oidc.{instance.domain}:{instance.http_port}",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    connection.request("POST", "/oauth2/token", urlencode(form), headers)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return str(answer["access_token"])


def status_of(connection: Gateway, token: str) -> int:
    connection.request("GET", "/headers", headers={"Authorization": f"Bearer {token}"})
    response = connection.getresponse()
    response.read()
    return response.status


def test_no_good_token_is_refused_while_keys_rotate(instance: Instance) -> None:
    values = json.loads(instance.apirule("env", "-o", "json").stdout)
    credentials = (values["CLIENT_ID"], values["CLIENT_SECRET"])
    statuses: Counter[int] = Counter()
    rotations, done = 3, threading.Event()

    def load() -> None:
        connection, old = Gateway(instance), fresh_token(instance, *credentials)
        while not done.is_set():
            for one in (old, fresh_token(instance, *credentials)):
                statuses[status_of(connection, one)] += 1
        connection.close()

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(rotations):
        instance.apirule("token", "rotate-keys")
        asked, deadline = statuses.total(), time.monotonic() + 30
        while statuses.total() < asked + 20 and time.monotonic() < deadline:
            done.wait(0.02)  # until enough was asked with the new key
    done.set()
    for thread in threads:
        thread.join()

    assert set(statuses) == {200}
    assert statuses[200] > 20 * rotations
