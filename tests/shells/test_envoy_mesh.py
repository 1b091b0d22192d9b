"""Gateway, sidecars and applications: what the built configuration does in real Envoys."""

import base64
import json
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import pytest
import yaml
from cryptography import x509
from ports import free_ports
from tests.shells.mesh_run import (
    DEADLINE_S,
    ENVOY,
    Answer,
    Authority,
    Envoy,
    connect,
    echo_app,
    mesh_secrets,
    request,
    running,
    static_document,
)

from apirule import names
from apirule.apis import scheme
from apirule.apis.meta import GroupVersionKind, Resource
from apirule.mesh.build import build
from apirule.mesh.config import ProxyConfig
from apirule.mesh.proxy import Proxy
from apirule.mesh.snapshot import Snapshot
from apirule.names import ObjectName

pytestmark = pytest.mark.envoy

DOMAIN = "kyma.localhost"
HOST = f"httpbin.{DOMAIN}"
GOLDEN = sorted((Path(__file__).parents[1] / "golden" / "mesh").glob("*.in.yaml"))
GATEWAY_ID = f"spiffe://{names.INGRESS_PRINCIPAL}"

RESOURCES = (Path(__file__).parent / "mesh.yaml").read_text()


def decode(text: str) -> list[Resource]:
    resources = []
    for document in yaml.safe_load_all(text):
        kind = scheme.type_of(GroupVersionKind.of(document))
        assert kind is not None
        resources.append(scheme.decode(document, kind))
    return resources


@dataclass
class Mesh:
    authority: Authority
    folder: Path
    ports: dict[str, int]
    gateway: Envoy
    sidecar: Envoy
    gateway_config: ProxyConfig
    gateway_proxy: Proxy

    def get(self, target: str, *, host: str = HOST, method: str = "GET", **headers: str) -> Answer:
        connection = connect(self.ports["https"], sni=HOST, authority=self.authority)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return request(connection, target, host=host, method=method, headers=named)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    folder = Path(mkdtemp(prefix="ap", dir="/tmp"))
    keys = ("https", "http", "app", "sidecar", "outbound", "open")
    ports = dict(zip(keys, free_ports(len(keys)), strict=True))
    authority = Authority()
    pair = authority.issue(x509.DNSName(f"*.{DOMAIN}"))
    data = pair.secret_data()
    text = RESOURCES % {
        **ports,
        "socket": folder / "plain.sock",
        "crt": data["tls.crt"],
        "key": data["tls.key"],
        "ca": base64.b64encode(authority.pem).decode(),
    }
    snapshot = Snapshot.of(decode(text))
    try:
        with ExitStack() as stack:
            stack.enter_context(echo_app("httpbin", ports["app"]))
            stack.enter_context(echo_app("plain", str(folder / "plain.sock")))

            def start(name: ObjectName) -> tuple[Envoy, ProxyConfig, Proxy]:
                proxy = snapshot.proxy(name)
                assert isinstance(proxy, Proxy)
                config = build(snapshot, proxy)
                secrets: dict[str, Any] = mesh_secrets(authority, proxy.spiffe_id)
                run = running(folder / proxy.name.name, proxy, config, secrets)
                return stack.enter_context(run), config, proxy

            sidecar, *_ = start(ObjectName("default", "httpbin-1"))
            start(ObjectName("open", "open-1"))
            gateway, config, proxy = start(ObjectName("istio-system", "gw"))
            yield Mesh(authority, folder, ports, gateway, sidecar, config, proxy)
    finally:
        rmtree(folder)


def test_a_request_reaches_the_application_through_mutual_tls(mesh: Mesh) -> None:
    answer = mesh.get("/ok?a=1&token=secret", x_request_id="one")

    assert answer.status == 200
    assert answer.echo["app"] == "httpbin"
    assert answer.echo["path"] == "/ok?a=1&token=secret"
    line = mesh.sidecar.logged(path="/ok", status=200)
    assert line["peer"] == GATEWAY_ID
    assert line["protocol"] == "HTTP/2"


def test_the_access_log_names_the_route_and_never_the_query(mesh: Mesh) -> None:
    mesh.get("/okay?access_token=secret")

    line = mesh.gateway.logged(path="/okay")

    assert line["route"] == "default/httpbin/8"
    assert line["details"] == "via_upstream"
    assert "secret" not in str(line)


def test_a_path_without_a_route_is_404(mesh: Mesh) -> None:
    answer = mesh.get("/nowhere")

    assert answer.status == 404
    assert mesh.gateway.logged(path="/nowhere")["details"] == "route_not_found"


def test_a_host_without_a_rule_is_404(mesh: Mesh) -> None:
    assert mesh.get("/ok", host="other.example.org").status == 404


@pytest.mark.parametrize(
    "host", [f"{HOST}:8443", HOST.upper(), f"{HOST}."], ids=["port", "upper case", "trailing dot"]
)
def test_other_spellings_of_a_host_meet_the_same_route_and_policy(mesh: Mesh, host: str) -> None:
    assert mesh.get("/ok", host=host).status == 200
    assert mesh.get("/private", host=host).status == 403


def test_the_application_sees_the_port_the_client_used(mesh: Mesh) -> None:
    answer = mesh.get("/ok", host=f"{HOST}:8443")

    assert answer.echo["headers"]["host"] == f"{HOST}:8443"


def test_http_redirects_to_the_port_that_really_serves_https(mesh: Mesh) -> None:
    connection = connect(mesh.ports["http"])
    host = f"{HOST}:{mesh.ports['http']}"

    answer = request(connection, "/ok?x=1", host=host)

    assert answer.status == 301
    assert answer.headers["location"] == f"https://{HOST}:{mesh.ports['https']}/ok?x=1"


def test_http_for_a_host_the_gateway_does_not_serve_is_404(mesh: Mesh) -> None:
    answer = request(connect(mesh.ports["http"]), "/", host="example.org")

    assert answer.status == 404


def test_a_name_the_gateway_does_not_serve_gets_no_certificate(mesh: Mesh) -> None:
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        connect(mesh.ports["https"], sni="example.org", authority=mesh.authority)


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        ("/x/../ok", "/ok"),
        ("/x/%2e%2e/ok", "/ok"),
        ("//ok//a", "/ok/a"),
        ("/ok/..%2fprivate", None),
        ("/ok%2Fa", "/ok/a"),
        ("/ok/%2541", "/ok/%2541"),
        ("/%6fk", "/ok"),
    ],
)
def test_policy_route_and_application_see_one_path(mesh: Mesh, sent: str, seen: str | None) -> None:
    answer = mesh.get(sent)

    # None: it means /private, which the policy refuses.
    assert (answer.status, answer.headers.get("x-seen-path")) == (200 if seen else 403, seen)


@pytest.mark.parametrize(
    ("target", "host", "headers", "why"),
    [
        ("/ok/%252e%252e/private", HOST, {}, "The path has"),
        ("/ok", f"q.{HOST}:1,z.{DOMAIN}", {}, "The host has"),
        ("/ok", HOST, {"authorization": "Basic eDp5,Bearer a.b.c"}, "There is something before"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_with_its_reason(
    mesh: Mesh, target: str, host: str, headers: dict[str, str], why: str
) -> None:
    answer = mesh.get(target, host=host, **headers)

    assert (answer.status, answer.body.startswith(why)) == (400, True)


def test_headers_are_set_removed_and_never_expanded(mesh: Mesh) -> None:
    answer = mesh.get("/anything/1", x_secret="s", x_forwarded_host="spoofed")

    headers = answer.echo["headers"]
    assert headers["x-forwarded-host"] == HOST
    assert headers["x-discount"] == "100% %DOWNSTREAM_REMOTE_ADDRESS%"
    assert "x-secret" not in headers
    assert answer.headers["x-added"] == "yes"


def test_what_a_client_says_of_itself_is_not_believed(mesh: Mesh) -> None:
    connection = connect(mesh.ports["https"], sni=HOST, authority=mesh.authority)
    spoofed = {
        "x-forwarded-client-cert": "URI=spiffe://cluster.local/ns/x/sa/admin",
        "x-envoy-original-path": "/private",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-forwarded-for": "9.9.9.9",
        "X_Forwarded_For": "8.8.8.8",
    }

    headers = request(connection, "/ok", host=HOST, headers=spoofed).echo["headers"]

    assert "admin" not in headers["x-forwarded-client-cert"]
    assert GATEWAY_ID in headers["x-forwarded-client-cert"]
    assert "x-envoy-original-path" not in headers
    assert headers["x-forwarded-for"] == "9.9.9.9,127.0.0.1"
    assert "x_forwarded_for" not in headers


@pytest.mark.parametrize("claimed", [{}, {"x_forwarded_for": "9.9.9.9"}])
def test_a_policy_sees_where_a_client_really_is(mesh: Mesh, claimed: dict[str, str]) -> None:
    assert mesh.get("/ok/from-here", **claimed).status == 200
    assert mesh.get("/ok/from-elsewhere", **claimed).status == 403


def test_the_application_behind_a_unix_socket_answers_at_a_rewritten_path(mesh: Mesh) -> None:
    answer = mesh.get("/plain/a")

    assert (answer.echo["app"], answer.echo["path"]) == ("plain", "/a")


def test_an_unknown_service_answers_503_and_leaves_the_other_routes_alone(mesh: Mesh) -> None:
    assert mesh.get("/gone").status == 503
    assert mesh.get("/ok").status == 200


def test_a_route_that_cannot_be_expressed_answers_503_in_its_place(mesh: Mesh) -> None:
    assert mesh.get("/broken").status == 503
    found = {str(p.field) for group in mesh.gateway_config.problems.values() for p in group}
    assert "spec.http[4].headers.request.set.x bad" in found


def test_redirects_and_direct_responses(mesh: Mesh) -> None:
    moved, teapot = mesh.get("/moved"), mesh.get("/teapot")

    assert (moved.status, moved.headers["location"]) == (308, f"https://{HOST}/anything/new")
    assert (teapot.status, teapot.body) == (418, "short")


def test_weights_reach_both_destinations(mesh: Mesh) -> None:
    seen = set()
    for _ in range(200):
        answer = mesh.get("/split")
        seen.add(answer.echo["app"])
        if len(seen) == 2:
            break

    assert seen == {"httpbin", "plain"}


def test_a_preflight_of_an_allowed_origin_is_answered_by_the_gateway(mesh: Mesh) -> None:
    answer = mesh.get(
        "/cors",
        method="OPTIONS",
        origin="https://shop.example",
        access_control_request_method="POST",
    )

    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    assert answer.headers["access-control-max-age"] == "10"


def test_the_cors_answer_of_the_application_is_replaced(mesh: Mesh) -> None:
    allowed = mesh.get("/cors", method="POST", origin="https://shop.example")
    other = mesh.get("/cors", method="POST", origin="https://evil.example")

    assert allowed.headers["access-control-allow-origin"] == "https://shop.example"
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("status", ["401", "503"])
def test_an_answer_of_the_application_is_passed_on_as_it_is(mesh: Mesh, status: str) -> None:
    answer = mesh.get("/ok", x_answer=status)

    assert answer.status == int(status)
    assert "www-authenticate" not in answer.headers


def test_a_websocket_passes_both_proxies(mesh: Mesh) -> None:
    with connect(mesh.ports["https"], sni=HOST, authority=mesh.authority) as connection:
        upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        connection.sendall(f"GET /ok HTTP/1.1\r\nHost: {HOST}\r\n{upgrade}{key}\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
        connection.sendall(b"ping")

        assert head.startswith(b"HTTP/1.1 101 ")
        assert connection.recv(4) == b"PING"


def test_a_strict_workload_resets_plain_text(mesh: Mesh) -> None:
    connection = connect(mesh.ports["sidecar"])

    with pytest.raises((ConnectionResetError, OSError, ValueError)):
        request(connection, "/ok", host=HOST)


@pytest.mark.parametrize(
    ("issuer", "identity", "accepted"),
    [
        (
            "ours",
            GATEWAY_ID,
            True,
        ),
        (
            "ours",
            GATEWAY_ID.replace("cluster.local", "elsewhere"),
            False,
        ),
        ("ours", None, False),
        (
            "another",
            GATEWAY_ID,
            False,
        ),
    ],
    ids=["gateway", "foreign trust domain", "no certificate", "foreign CA"],
)
def test_a_strict_workload_asks_for_an_identity_of_the_mesh(
    mesh: Mesh, tmp_path: Path, issuer: str, identity: str | None, accepted: bool
) -> None:
    signer = mesh.authority if issuer == "ours" else Authority("another CA")
    answer = _call_sidecar(mesh, tmp_path, signer.identity(identity) if identity else None)

    assert answer == (200 if accepted else None)


def test_a_permissive_workload_takes_plain_text_and_knows_no_caller(mesh: Mesh) -> None:
    answer = request(
        connect(mesh.ports["open"]), "/", host="open", headers={"x-forwarded-client-cert": "URI=x"}
    )

    assert answer.status == 200
    assert "x-forwarded-client-cert" not in answer.echo["headers"]


def test_a_permissive_workload_takes_mutual_tls_of_the_mesh(mesh: Mesh, tmp_path: Path) -> None:
    pair = mesh.authority.identity(GATEWAY_ID)

    assert _call_sidecar(mesh, tmp_path, pair, port="open") == 200
    assert _call_sidecar(mesh, tmp_path, None, port="open") is None
    assert _call_sidecar(mesh, tmp_path, pair, port="open", alpn="http/1.1") is None


def test_a_server_that_demands_a_client_certificate_cannot_be_passed_by(
    mesh: Mesh, tmp_path: Path
) -> None:
    host = f"m.{DOMAIN}"
    path = tmp_path / "pair.pem"
    pair = mesh.authority.identity("spiffe://anyone")
    path.write_bytes(pair.certificate + pair.key)
    context = ssl.create_default_context(cadata=mesh.authority.pem.decode())

    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        request(connect(mesh.ports["https"], sni=host, authority=mesh.authority), "/", host=host)
    # By way of a server that demands none, the host is not known.
    assert mesh.get("/", host=host).status == 404
    context.load_cert_chain(path)
    connection = context.wrap_socket(connect(mesh.ports["https"]), server_hostname=host)
    assert request(connection, "/", host=host).status == 200


def _call_sidecar(
    mesh: Mesh, folder: Path, pair: Any, *, port: str = "sidecar", alpn: str = "istio"
) -> int | None:
    """Return the status, None where no connection comes about."""
    context = ssl.create_default_context(cadata=mesh.authority.pem.decode())
    context.check_hostname = False
    context.set_alpn_protocols([alpn, "http/1.1"])
    if pair is not None:
        path = folder / "pair.pem"
        path.write_bytes(pair.certificate + pair.key)
        context.load_cert_chain(path)
    try:
        connection = context.wrap_socket(connect(mesh.ports[port]))
        return request(connection, "/ok", host=HOST).status
    except (ssl.SSLError, ConnectionResetError):
        return None


def test_an_application_calls_another_as_itself(mesh: Mesh) -> None:
    url = "http://httpbin.default:8000"
    host = "httpbin.default:8000"

    friend = request(connect(mesh.ports["outbound"]), f"{url}/from-a-friend", host=host)
    other = request(connect(mesh.ports["outbound"]), f"{url}/ok", host=host)

    assert friend.status == 200
    assert "spiffe://cluster.local/ns/default/sa/httpbin" in str(
        friend.echo["headers"]["x-forwarded-client-cert"]
    )
    assert other.status == 403


def test_an_application_calls_a_workload_without_a_sidecar(mesh: Mesh) -> None:
    for url in ("http://plain", "http://plain.default.svc.cluster.local:80"):
        host = url.removeprefix("http://")
        answer = request(connect(mesh.ports["outbound"]), f"{url}/x", host=host)

        assert answer.echo["app"] == "plain"


def test_an_unknown_host_is_404_for_an_application(mesh: Mesh) -> None:
    answer = request(connect(mesh.ports["outbound"]), "http://example.org/", host="example.org")

    assert answer.status == 404


@pytest.mark.parametrize("case", GOLDEN, ids=lambda p: p.name.removesuffix(".in.yaml"))
def test_envoy_takes_what_the_golden_pairs_give(case: Path, tmp_path: Path) -> None:
    snapshot = Snapshot.of(decode(case.read_text()))
    for proxy in snapshot.proxies():
        secrets: dict[str, Any] = mesh_secrets(Authority(), proxy.spiffe_id)
        document = static_document(proxy, build(snapshot, proxy), secrets)
        path = tmp_path / f"{proxy.name.name}.json"
        path.write_text(json.dumps(document))

        check = subprocess.run(
            [ENVOY, "--mode", "validate", "-c", str(path)],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

        assert check.returncode == 0, check.stderr[-2000:]


def test_envoy_has_nothing_to_warn_of(mesh: Mesh) -> None:
    for envoy in (mesh.gateway, mesh.sidecar):
        assert [line for line in envoy.log if "[warning]" in line] == []


def test_an_idle_proxy_is_small(mesh: Mesh) -> None:
    for envoy in (mesh.gateway, mesh.sidecar):
        status = Path(f"/proc/{envoy.process.pid}/status").read_text()
        anonymous_kib = int(status.split("RssAnon:")[1].split()[0])

        assert anonymous_kib < 40 * 1024


def test_a_second_envoy_does_not_get_some_of_the_requests(mesh: Mesh) -> None:
    """The kernel lets sockets of one user share a port, if they ask for it."""
    secrets = mesh_secrets(mesh.authority, mesh.gateway_proxy.spiffe_id)
    second = running(mesh.folder / "2", mesh.gateway_proxy, mesh.gateway_config, secrets)

    with pytest.raises(AssertionError, match="Address already in use"), second:
        pass
