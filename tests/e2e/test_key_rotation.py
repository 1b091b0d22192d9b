"""An issuer changes its keys: who has a new token need not wait for the next poll."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from instance import Instance
from joserfc import jwt
from joserfc.jwk import ECKey
from tests.e2e.gateway import ask, kubectl

DEADLINE_S = 30
RULE = """
apiVersion: gateway.kyma-project.io/v2
kind: APIRule
metadata: {{name: rotating, namespace: default}}
spec:
  hosts: [rotating]
  gateway: kyma-system/kyma-gateway
  service: {{name: httpbin, port: 8000}}
  rules:
    - path: /headers
      methods: [GET]
      jwt: {{authentications: [{{issuer: "{issuer}", jwksUri: "{issuer}/keys"}}]}}
"""


class Issuer(ThreadingHTTPServer):
    """Publishes the keys it has at the moment, and tells when somebody asked for them."""

    def __init__(self, events: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Keys)
        self.daemon_threads = True
        self.events = events
        self.keys: list[ECKey] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def token(self, key: ECKey) -> str:
        claims = {"iss": self.url, "sub": "alice", "exp": int(time.time()) + 300}
        return jwt.encode({"alg": "ES256", "kid": key.kid}, claims, key)


class _Keys(BaseHTTPRequestHandler):
    server: Issuer

    def do_GET(self) -> None:
        body = json.dumps({"keys": [key.as_dict(private=False) for key in self.server.keys]})
        self.server.events.append("fetched")
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Keep the output of the tests quiet."""


@contextmanager
def publishing(issuer: Issuer) -> Iterator[None]:
    thread = threading.Thread(target=issuer.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        issuer.shutdown()
        thread.join()
        issuer.server_close()


def test_a_token_with_a_new_key_has_the_keys_fetched_and_the_old_key_is_gone(
    instance: Instance,
) -> None:
    events: list[str] = []
    old, new = (ECKey.generate_key("P-256", {"kid": kid, "alg": "ES256"}) for kid in ("k1", "k2"))
    issuer = Issuer(events)
    issuer.keys = [old]
    with publishing(issuer):
        kubectl(instance, "apply", "-f", "-", text=RULE.format(issuer=issuer.url))
        try:
            ready = "--for=jsonpath={.status.state}=Ready"
            kubectl(instance, "wait", "apirule/rotating", ready, "--timeout=30s")
            assert _answers_until(instance, issuer.token(old), 200)[-1] == 200

            issuer.keys = [new]
            events.clear()
            answers = _answers_until(instance, issuer.token(new), 200, events)

            # Nobody fetches the keys before a token needs them: the next poll is far.
            assert (answers[0], answers[-1], set(answers)) == (401, 200, {401, 200})
            assert events.index("fetched") < events.index("200")
            assert ask(instance, "rotating", token=issuer.token(old)).status == 401
        finally:
            kubectl(instance, "delete", "apirule", "rotating")


def _answers_until(
    instance: Instance, token: str, wanted: int, events: list[str] | None = None
) -> list[int]:
    answers: list[int] = []
    deadline = time.monotonic() + DEADLINE_S
    while wanted not in answers and time.monotonic() < deadline:
        answers.append(ask(instance, "rotating", token=token).status)
        if events is not None:
            events.append(str(answers[-1]))
    return answers
