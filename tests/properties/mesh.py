"""One gateway and two guarded workloads, as real Envoys that hold all rule lists at once."""

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from socketserver import StreamRequestHandler, ThreadingTCPServer
from tempfile import mkdtemp
from typing import Any

import yaml
from joserfc import jwt
from joserfc.jwk import ECKey
from ports import free_ports
from tests.properties.rule_lists import ISSUERS, SERVICES, Request, Token
from tests.shells.mesh_run import Authority, mesh_secrets, running

from apirule import keysets
from apirule.apis import scheme
from apirule.apis.gateway import v2
from apirule.apis.meta import GroupVersionKind, Resource
from apirule.facts import Facts
from apirule.keysets import KeySet
from apirule.mesh.build import build
from apirule.mesh.proxy import Proxy
from apirule.mesh.snapshot import Snapshot
from apirule.names import ObjectName
from apirule.translate import translate

PATIENCE_S = 60
CONNECTIONS = 8

KEYS = {issuer: ECKey.generate_key("P-256", {"kid": issuer, "alg": "ES256"}) for issuer in ISSUERS}
STRANGER = ECKey.generate_key("P-256", {"kid": ISSUERS[0], "alg": "ES256"})

GATEWAY = """
apiVersion: v1
kind: Pod
metadata: {name: gw, namespace: istio-system, labels: {istio: ingressgateway}}
spec:
  serviceAccountName: istio-ingressgateway-service-account
  containers: [{name: istio-proxy, ports: [{containerPort: 8080, hostPort: %(http)s}]}]
---
apiVersion: v1
kind: Service
metadata: {name: istio-ingressgateway, namespace: istio-system}
spec: {selector: {istio: ingressgateway}, ports: [{name: http2, port: 80, targetPort: 8080}]}
---
apiVersion: networking.istio.io/v1beta1
kind: Gateway
metadata: {name: kyma-gateway, namespace: kyma-system}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*.example.org"]}]
"""
WORKLOAD = """
apiVersion: v1
kind: Pod
metadata:
  name: %(name)s-1
  namespace: web
  labels: {app: %(name)s}
  annotations:
    apirule.local/ports: '[{"port": 80, "app": "127.0.0.1:%(app)s", "sidecar": %(sidecar)s}]'
spec: {serviceAccountName: web, containers: [{name: app}, {name: istio-proxy}]}
---
apiVersion: v1
kind: Service
metadata: {name: %(name)s, namespace: web}
spec: {selector: {app: %(name)s}, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  {name: %(name)s-1, namespace: web, labels: {kubernetes.io/service-name: %(name)s}}
addressType: IPv4
ports: [{name: http, port: %(sidecar)s}]
endpoints: [{addresses: [127.0.0.1], targetRef: {kind: Pod, name: %(name)s-1, namespace: web}}]
"""


@dataclass(frozen=True)
class World:
    """What the rules find: a gateway, and the workloads behind the Services."""

    ports: dict[str, int]
    resources: tuple[Resource, ...]

    @classmethod
    def make(cls) -> "World":
        names = ["http", *(f"{kind} {name}" for name in SERVICES for kind in ("app", "sidecar"))]
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        texts = [GATEWAY % ports]
        for name in SERVICES:
            own = {"app": ports[f"app {name}"], "sidecar": ports[f"sidecar {name}"]}
            texts.append(WORKLOAD % {"name": name, **own})
        return cls(ports, tuple(_decoded("---".join(texts))))

    @property
    def facts(self) -> Facts:
        return Facts.of(self.resources)


@dataclass(frozen=True)
class Answer:
    status: int
    service: str


class Tokens:
    """Signs each token once, and puts it where a request has it."""

    def __init__(self) -> None:
        self._signed: dict[str, str] = {}

    def put(self, request: Request) -> tuple[str, str]:
        """Return the target and the header line."""
        token = request.token
        if token is None:
            return request.target, ""
        if token.name not in self._signed:
            self._signed[token.name] = _sign(token)
        signed = self._signed[token.name]
        for param in request.place.get("fromParams", ()):
            return f"{request.target}{'&' if '?' in request.target else '?'}{param}={signed}", ""
        for header in request.place.get("fromHeaders", ()):
            return request.target, f"{header['name']}: {header['prefix']}{signed}\r\n"
        return request.target, f"Authorization: Bearer {signed}\r\n"


@contextmanager
def serving(world: World, rules: Sequence[v2.APIRule]) -> Iterator[None]:
    """Run the Envoys with everything that is translated from the rules."""
    made: list[Resource] = []
    for _ in range(2):  # the second time each rule knows the hosts of the others
        facts, made = Facts.of([*world.resources, *made]), []
        for rule in rules:
            outcome = translate(rule, facts)
            assert outcome.resources is not None, outcome.problems
            made += outcome.resources
    snapshot = Snapshot.of([*world.resources, *made], key_sets=_key_sets())
    authority = Authority()
    folder = Path(mkdtemp(prefix="ap", dir="/tmp"))
    try:
        with ExitStack() as stack:
            for name in SERVICES:
                stack.enter_context(_app(name, world.ports[f"app {name}"]))
            pods = [ObjectName("web", f"{name}-1") for name in SERVICES]
            for pod in (*pods, ObjectName("istio-system", "gw")):
                proxy = snapshot.proxy(pod)
                assert isinstance(proxy, Proxy)
                config = build(snapshot, proxy)
                assert not config.problems, config.problems
                secrets = mesh_secrets(authority, proxy.spiffe_id)
                stack.enter_context(running(folder / pod.name, proxy, config, secrets))
            yield
    finally:
        rmtree(folder)


def ask(world: World, questions: Sequence[tuple[str, Sequence[Request]]]) -> list[list[Answer]]:
    """Send the requests of each host, in order; several hosts at a time."""
    tokens = Tokens()

    def one(question: tuple[str, Sequence[Request]]) -> list[Answer]:
        host, requests = question
        return _ask(world.ports["http"], host, requests, tokens)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return list(pool.map(one, questions))


def _ask(port: int, host: str, requests: Sequence[Request], tokens: Tokens) -> list[Answer]:
    answers: list[Answer] = []
    while len(answers) < len(requests):
        # Envoy closes the connection after a request that is no HTTP.
        answers += _on_one_connection(port, host, requests[len(answers) :], tokens)
    return answers


def _on_one_connection(
    port: int, host: str, requests: Sequence[Request], tokens: Tokens
) -> list[Answer]:
    answers: list[Answer] = []
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection,
        connection.makefile("rb") as stream,
    ):
        for one in requests:
            target, header = tokens.put(one)
            text = (
                f"{one.method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n"
                f"{header}\r\n"
            )
            connection.sendall(text.encode("latin-1"))
            answer, is_last = _read(stream, has_body=one.method != "HEAD")
            answers.append(answer)
            if is_last:
                break
    return answers


def _read(stream: Any, *, has_body: bool) -> tuple[Answer, bool]:
    """Read one answer, and whether the connection ends with it."""
    status = int(stream.readline().split()[1])
    length, service, is_last = 0, "", False
    while (line := stream.readline().strip().lower()) != b"":
        name, _, value = line.partition(b": ")
        if name == b"content-length":
            length = int(value)
        elif name == b"x-app":
            service = value.decode()
        elif name == b"connection":
            is_last = value == b"close"
    stream.read(length if has_body else 0)
    return Answer(status, service), is_last


def _decoded(text: str) -> Iterator[Resource]:
    for document in yaml.safe_load_all(text):
        kind = scheme.type_of(GroupVersionKind.of(document))
        assert kind is not None
        yield scheme.decode(document, kind)


def _key_sets() -> dict[tuple[str, str], KeySet]:
    found = {}
    for issuer, key in KEYS.items():
        document = keysets.clean(json.dumps({"keys": [key.as_dict(private=False)]})).document
        found[issuer, f"{issuer}/keys"] = KeySet(issuer, f"{issuer}/keys", document)
    return found


def _sign(token: Token) -> str:
    key = STRANGER if token.fault == "stranger" else KEYS.get(token.issuer, STRANGER)
    now = int(time.time())
    expires = now - 3600 if token.fault == "expired" else now + 3600
    claims = {"iss": token.issuer, "sub": "alice", "exp": expires, **token.claims}
    return jwt.encode({"alg": "ES256", "kid": key.get("kid")}, claims, key)


@contextmanager
def _app(name: str, port: int) -> Iterator[None]:
    """Answer every request in the same way, as fast as may be; no request has a body."""
    answer = f"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-app: {name}\r\n\r\n".encode()

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline():
                if line == b"\r\n":
                    self.wfile.write(answer)

    class Server(ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
