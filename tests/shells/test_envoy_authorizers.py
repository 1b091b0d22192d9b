"""External authorizers: who is asked, with what, and what their answers do, in real Envoys."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import grpc
import pytest
import yaml
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from google.rpc import code_pb2, status_pb2
from ports import free_ports
from tests.shells.mesh_run import (
    DEADLINE_S,
    Answer,
    Authority,
    Envoy,
    connect,
    echo_app,
    mesh_secrets,
    request,
    running,
)

from apirule.apis import scheme
from apirule.apis.meta import GroupVersionKind, Resource
from apirule.mesh.build import build
from apirule.mesh.proxy import Proxy
from apirule.mesh.snapshot import Snapshot
from apirule.names import ObjectName

pytestmark = pytest.mark.envoy

MANIFESTS = (Path(__file__).parent / "authorizers.yaml").read_text()
ASKED: dict[str, dict[str, list[str]]] = {
    "shop": {
        "/plain": ["plain"],
        "/both": ["plain", "plain-again"],
        "/meshed": ["meshed"],
        "/rpc": ["rpc"],
        "/closed": ["plain"],
    },
    "failing": {
        "/down": ["down"],
        "/down-open": ["down-open"],
        "/down-503": ["down-503"],
        "/slow": ["slow"],
    },
    "lost": {
        "/nowhere": ["nowhere"],
        "/unknown": ["unknown"],
        "/telemetry": ["telemetry"],
        "/mixed": ["unknown", "plain"],
    },
    "crowded": {
        "/plain": ["plain"],
        "/body": ["body"],
        "/fifth": ["rpc", "meshed", "plain-again"],
    },
}
"""The paths of each workload, and which authorizers they ask."""
WORKLOAD = """
---
apiVersion: v1
kind: Pod
metadata:
  name: {name}-1
  namespace: shop
  labels: {{app: {name}}}
  annotations:
    apirule.local/ports: '[{{"port": 80, "app": "127.0.0.1:{app}", "sidecar": {port}}}]'
spec:
  serviceAccountName: shop
  containers: [{{name: shop, ports: [{{containerPort: 80}}]}}, {{name: istio-proxy}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  rules: [{{to: [{{operation: {{notPaths: [/closed]}}}}]}}]
"""
POLICY = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {workload}-{name}, namespace: shop, creationTimestamp: "{created}"}}
spec:
  selector: {{matchLabels: {{app: {workload}}}}}
  action: CUSTOM
  provider: {{name: {name}}}
  rules: [{{to: [{{operation: {{paths: {paths}}}}}]}}]
"""


def workloads(ports: dict[str, int]) -> Iterator[str]:
    for workload, asked in ASKED.items():
        yield WORKLOAD.format(name=workload, app=ports["app"], port=ports[workload])
        by_name: dict[str, list[str]] = {}
        for path, names in asked.items():
            for name in names:
                by_name.setdefault(name, []).append(path)
        for age, (name, paths) in enumerate(by_name.items()):
            yield POLICY.format(
                workload=workload,
                name=name,
                paths=json.dumps(paths),
                created=f"2026-01-01T00:00:{age:02}Z",
            )


def decode(text: str) -> list[Resource]:
    resources = []
    for document in yaml.safe_load_all(text):
        kind = scheme.type_of(GroupVersionKind.of(document))
        assert kind is not None
        resources.append(scheme.decode(document, kind))
    return resources


@dataclass
class Asked:
    """What the HTTP authorizer was asked, newest last, and what keeps it from answering."""

    checks: list[dict[str, Any]] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)

    def of(self, path: str) -> dict[str, Any]:
        return next(check for check in reversed(self.checks) if check["path"].endswith(path))


class _Authorizer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        asked: Asked = self.server.asked  # type: ignore[attr-defined]  # set where it is started
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked.checks.append({"path": self.path, "headers": headers, "body": body})
        if self.path.startswith("/slow"):
            assert asked.held.wait(DEADLINE_S)
        passes = (
            "yes" in (headers.get("x-pass"), headers.get("x-again"))
            or self.path.startswith("/slow")
            or body == "please"
        )
        self.send_response(200 if passes else 402)
        for name, value in (("x-user", "ada"), ("x-allowed-by", "me"), ("x-reason", "because")):
            self.send_header(name, value)
        text = b"" if passes else b"pay first"
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_GET  # noqa: N815 - a name of the base class

    def log_message(self, *_: object) -> None:
        """Keep the output of the tests quiet."""


@contextmanager
def http_authorizer(port: int) -> Iterator[Asked]:
    asked = Asked()
    with ThreadingHTTPServer(("127.0.0.1", port), _Authorizer) as server:
        server.asked = asked  # type: ignore[attr-defined]  # read by the handler
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield asked
        finally:
            asked.held.set()
            server.shutdown()
            thread.join()


class _GrpcAuthorizer(external_auth_pb2_grpc.AuthorizationServicer):  # type: ignore[misc]  # no stubs
    def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - a name of the service
        headers = request.attributes.request.http.headers
        passes = headers.get("x-pass") == "yes"
        code = code_pb2.OK if passes else code_pb2.PERMISSION_DENIED
        return external_auth_pb2.CheckResponse(status=status_pb2.Status(code=code))


@contextmanager
def grpc_authorizer(port: int) -> Iterator[None]:
    with ThreadPoolExecutor(2) as workers:
        server = grpc.server(workers)
        external_auth_pb2_grpc.add_AuthorizationServicer_to_server(_GrpcAuthorizer(), server)
        server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        try:
            yield
        finally:
            server.stop(None).wait()


@dataclass
class Mesh:
    ports: dict[str, int]
    asked: Asked
    authorizer: Envoy
    snapshot: Snapshot

    def send(self, path: str, *, to: str = "shop", body: str = "", **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = connect(self.ports[to])
        if not body:
            return request(connection, path, host="shop", headers=named)
        named["Content-Length"] = f"{len(body)}\r\n\r\n{body}"
        return request(connection, path, host="shop", method="POST", headers=named)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    folder = Path(mkdtemp(prefix="ap", dir="/tmp"))
    keys = ("app", "meshed", "http", "grpc", *ASKED)
    ports = dict(zip(keys, free_ports(len(keys)), strict=True))
    snapshot = Snapshot.of(decode(MANIFESTS % ports + "".join(workloads(ports))))
    authority = Authority()
    try:
        with ExitStack() as stack:
            stack.enter_context(echo_app("shop", ports["app"]))
            asked = stack.enter_context(http_authorizer(ports["http"]))
            stack.enter_context(grpc_authorizer(ports["grpc"]))

            def start(name: ObjectName) -> Envoy:
                proxy = snapshot.proxy(name)
                assert isinstance(proxy, Proxy)
                secrets: dict[str, Any] = mesh_secrets(authority, proxy.spiffe_id)
                config = build(snapshot, proxy)
                return stack.enter_context(
                    running(folder / proxy.name.name, proxy, config, secrets)
                )

            authorizer = start(ObjectName("auth", "meshed-1"))
            for workload in ASKED:
                start(ObjectName("shop", f"{workload}-1"))
            yield Mesh(ports, asked, authorizer, snapshot)
    finally:
        rmtree(folder)


def test_a_request_that_no_custom_policy_names_is_not_asked_about(mesh: Mesh) -> None:
    before = len(mesh.asked.checks)

    assert mesh.send("/free").status == 200
    assert len(mesh.asked.checks) == before


def test_what_the_authorizer_consents_to_reaches_the_application(mesh: Mesh) -> None:
    answer = mesh.send("/plain?a=1", x_pass="yes", x_in_a="1", x_other="2", x_user="mallory")

    assert answer.status == 200
    assert answer.echo["headers"]["x-user"] == "ada"
    assert "x-reason" not in answer.echo["headers"]
    assert answer.headers["x-allowed-by"] == "me"
    check = mesh.asked.of("/plain?a=1")
    assert check["path"] == "/check/plain?a=1"
    assert check["headers"]["x-asked-by"] == "shop"
    assert check["headers"]["x-in-a"] == "1"
    assert "x-other" not in check["headers"]


def test_a_refusal_is_handed_to_the_client_as_the_authorizer_said_it(mesh: Mesh) -> None:
    answer = mesh.send("/plain")

    assert (answer.status, answer.body) == (402, "pay first")
    assert answer.headers["x-reason"] == "because"
    assert "x-allowed-by" not in answer.headers


def test_of_two_authorizers_both_must_consent(mesh: Mesh) -> None:
    answers = [
        mesh.send("/both").status,
        mesh.send("/both", x_pass="yes").status,
        mesh.send("/both", x_again="yes").status,
        mesh.send("/both", x_pass="yes", x_again="yes").status,
    ]

    assert answers == [402, 402, 402, 200]


def test_an_authorizer_whose_name_begins_like_another_one_is_not_asked_in_its_place(
    mesh: Mesh,
) -> None:
    mesh.asked.checks.clear()

    mesh.send("/plain", x_pass="yes")

    assert [check["path"] for check in mesh.asked.checks] == ["/check/plain"]


def test_consent_does_not_replace_an_allow_policy(mesh: Mesh) -> None:
    assert mesh.send("/closed", x_pass="yes").status == 403


def test_an_authorizer_with_a_sidecar_is_called_with_mutual_tls(mesh: Mesh) -> None:
    assert mesh.send("/meshed", x_pass="yes").status == 200
    assert mesh.send("/meshed").status == 402
    line = mesh.authorizer.logged(path="/meshed", status=200)
    assert line["peer"] == "spiffe://cluster.local/ns/shop/sa/shop"


def test_the_body_is_shown_where_that_was_asked_for(mesh: Mesh) -> None:
    answer = mesh.send("/body", to="crowded", body="please")

    assert answer.status == 200
    assert mesh.asked.of("/body")["body"] == "please"
    assert mesh.send("/body", to="crowded", body="give me").status == 402
    assert mesh.send("/body", to="crowded", body="x" * 65).status == 413


def test_a_grpc_authorizer_decides_too(mesh: Mesh) -> None:
    assert (mesh.send("/rpc").status, mesh.send("/rpc", x_pass="yes").status) == (403, 200)


@pytest.mark.parametrize(
    ("workload", "path", "status"),
    [
        ("failing", "/down", 403),
        ("failing", "/down-503", 503),
        ("failing", "/down-open", 200),
        ("failing", "/slow", 403),
        ("lost", "/nowhere", 403),
        ("lost", "/unknown", 403),
        ("lost", "/telemetry", 403),
        ("lost", "/mixed", 403),
        ("lost", "/else", 200),
    ],
)
def test_without_an_answer_nothing_passes_unless_that_was_asked_for(
    mesh: Mesh, workload: str, path: str, status: int
) -> None:
    assert mesh.send(path, to=workload, x_pass="yes").status == status


def test_one_authorizer_too_many_is_refused_and_the_others_are_asked(mesh: Mesh) -> None:
    answers = [
        mesh.send(path, to="crowded", x_pass="yes", x_again="yes").status
        for path in ("/plain", "/fifth", "/else")
    ]

    assert answers == [200, 403, 200]


def test_what_cannot_be_asked_is_said_of_the_policy(mesh: Mesh) -> None:
    said = {
        ref.name
        for proxy in mesh.snapshot.proxies()
        for ref in build(mesh.snapshot, proxy).problems
    }

    assert said == {"lost-nowhere", "lost-unknown", "lost-telemetry", "crowded-plain-again"}
