"""A rule that comes, changes and goes under load: nobody without a token passes meanwhile."""

import threading
from http.client import HTTPException, HTTPResponse

import pytest
from tests.conformance.lab import Lab, kubectl

RULE = """
apiVersion: gateway.kyma-project.io/v2
kind: APIRule
metadata: {{name: changing, namespace: default}}
spec:
  hosts: [changing]
  gateway: kyma-system/kyma-gateway
  service: {{name: witness, port: 8000}}
  rules:
{rules}
"""
JWT = "jwt: {{authentications: [{{issuer: '{issuer}', jwksUri: '{issuer}/oauth2/certs'}}]{more}}}"
SCOPES = ", authorizations: [{requiredScopes: [nobody]}]"
GUARDED = "    - {{path: /headers, methods: [GET], {jwt}}}\n"
FORMS = (
    GUARDED,
    "    - {{path: /headers, methods: [GET, POST], {scoped}}}\n",
    "    - {{path: /public, methods: [GET], noAuth: true}}\n"
    + GUARDED.replace("/headers", "'/{{*}}'"),
    GUARDED + "    - {{path: /*, methods: [GET], noAuth: true}}\n",
    "    - {{path: /*, methods: [GET, POST], {jwt}}}\n",
)
"""Whatever each of them opens, /headers needs a token."""


class Clients:
    """Two that ask for /headers without a token, over and over on open connections."""

    def __init__(self, lab: Lab) -> None:
        self.statuses: set[int] = set()
        self._lab = lab
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(2)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        name = self._lab.name("changing")
        request = f"GET /headers HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()
        while not self._stopping.is_set():
            try:
                with self._lab.door.connect(name) as connection:
                    for _ in range(50):
                        connection.sendall(request)
                        response = HTTPResponse(connection)
                        response.begin()
                        response.read()
                        self.statuses.add(response.status)
            except (OSError, HTTPException):
                # The other side may close a connection between two requests.
                continue


@pytest.mark.parametrize("waits", [True, False], ids=["settled", "hasty"])
def test_no_change_of_a_rule_opens_it_for_a_moment(lab: Lab, *, waits: bool) -> None:
    issuer = f"http://oidc.{lab.instance.domain}:{lab.instance.http_port}"
    jwt = JWT.format(issuer=issuer, more="")
    scoped = JWT.format(issuer=issuer, more=SCOPES)

    with Clients(lab) as clients:
        for index, form in enumerate(FORMS * 2):
            rules = form.format(jwt=jwt, scoped=scoped)
            kubectl(lab.instance, "apply", "-f", "-", text=RULE.format(rules=rules))
            if waits:
                ready = "--for=jsonpath={.status.state}=Ready"
                kubectl(lab.instance, "wait", "apirule/changing", ready, "--timeout=30s")
            if index % 2:
                kubectl(lab.instance, "delete", "apirule", "changing")

    assert {401, 404} & clients.statuses
    assert clients.statuses <= {401, 403, 404}
