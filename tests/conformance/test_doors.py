"""Every way in but the gateway: ports of a sidecar, the API server, files of an instance."""

import json
import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.conformance.cases import Try
from tests.conformance.lab import Lab
from tests.e2e.gateway import kubectl
from tests.shells.certificates import TestCa

from apirule.local.ca import CertificateAuthority
from apirule.mesh.proxy import OUTBOUND_ANNOTATION, PORTS_ANNOTATION

GATEWAY = "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account"
PAIRS = ("none", "client", "server", "gateway", "stranger")
"""The certificates of an instance that are for something else, and one of nobody's."""


def annotations(lab: Lab, app: str) -> dict[str, str]:
    pods = kubectl(lab.instance, "get", "pods", "-l", f"app={app}", "-o", "json").stdout
    [pod] = json.loads(pods)["items"]
    found: dict[str, str] = pod["metadata"]["annotations"]
    return found


@pytest.fixture
def inbound(lab: Lab) -> int:
    [place] = json.loads(annotations(lab, "witness")[PORTS_ANNOTATION])
    return int(place["sidecar"])


@pytest.fixture
def outbound(lab: Lab) -> int:
    return int(annotations(lab, "witness")[OUTBOUND_ANNOTATION])


def plain(port: int, target: str, *headers: str, method: str = "GET") -> bytes:
    """Send one request without TLS and return the first line of the answer."""
    text = "\r\n".join([f"{method} {target} HTTP/1.1", *headers, "Connection: close", "", ""])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(text.encode())
        return connection.makefile("rb").readline()


def over_tls(port: int, pair: tuple[Path, Path] | None) -> bytes:
    """Ask with a client certificate; nothing when the other side does not want to hear it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["istio-http/1.1", "istio", "http/1.1"])
    if pair is not None:
        context.load_cert_chain(*pair)
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
            context.wrap_socket(connection) as secured,
        ):
            secured.sendall(b"GET /api HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return secured.makefile("rb").readline()
    except OSError:
        return b""


def certificate(lab: Lab, name: str, folder: Path) -> tuple[Path, Path] | None:
    if name == "none":
        return None
    if name != "stranger":
        pki = lab.instance.state / "pki"
        return pki / f"{name}.crt", pki / f"{name}.key"
    made = TestCa(folder, "stranger").client("admin", ("system:masters",), uri=GATEWAY)
    return made.certificate, made.key


def test_a_program_beside_the_mesh_gets_nothing_from_a_sidecar(lab: Lab, inbound: int) -> None:
    before = len(lab.requests())
    host, token = f"Host: {lab.name('opened')}", lab.mint.token({})

    answers = [
        plain(inbound, "/headers", host),
        plain(inbound, "/headers", host, f"X-Forwarded-Client-Cert: URI={GATEWAY}"),
        plain(
            inbound, "/headers", f"Host: {lab.name('guarded')}", f"Authorization: Bearer {token}"
        ),
    ]

    assert [answer.split()[1] for answer in answers] == [b"403"] * 3
    assert len(lab.requests()) == before


@pytest.mark.parametrize("name", PAIRS)
def test_only_a_certificate_of_the_mesh_opens_a_sidecar(
    lab: Lab, inbound: int, name: str, tmp_path: Path
) -> None:
    before = len(lab.requests())

    answer = over_tls(inbound, certificate(lab, name, tmp_path))

    assert answer == b""
    assert len(lab.requests()) == before


def test_a_certificate_of_the_mesh_does_open_a_sidecar(
    lab: Lab, inbound: int, tmp_path: Path
) -> None:
    authority = CertificateAuthority.open(
        lab.instance.state / "pki", clock=lambda: datetime.now(UTC)
    )
    pair = authority.workload_pair(GATEWAY)
    made = tmp_path / "made.crt", tmp_path / "made.key"
    made[0].write_bytes(pair.certificate)
    made[1].write_bytes(pair.key)

    assert over_tls(inbound, made).startswith(b"HTTP/1.1 403")


def test_the_certificate_of_the_kubeconfig_does_open_the_api(lab: Lab, tmp_path: Path) -> None:
    answer = over_tls(lab.instance.api_port, certificate(lab, "client", tmp_path))

    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("name", [name for name in PAIRS if name != "client"])
def test_only_the_certificate_of_the_kubeconfig_opens_the_api(
    lab: Lab, name: str, tmp_path: Path
) -> None:
    answer = over_tls(lab.instance.api_port, certificate(lab, name, tmp_path))

    # Who shows nothing is told what is missing; who shows something else is not even heard.
    assert answer == (b"HTTP/1.1 401 Unauthorized\r\n" if name == "none" else b"")


def test_the_proxy_of_a_workload_leads_to_services_only(lab: Lab, outbound: int) -> None:
    api = f"127.0.0.1:{lab.instance.api_port}"
    targets = ["169.254.169.254", api, "localhost:22", "example.com", lab.name("opened")]

    answers = [plain(outbound, f"http://{host}/", f"Host: {host}") for host in targets]
    tunnel = plain(outbound, api, f"Host: {api}", method="CONNECT")

    assert {answer.split()[1] for answer in [*answers, tunnel]} == {b"404"}


def test_a_workload_is_not_the_gateway_to_another(lab: Lab, outbound: int) -> None:
    before = len(lab.requests())
    url = "http://witness.default.svc.cluster.local:8000/headers"

    answer = plain(
        outbound, url, f"Host: {lab.name('opened')}", f"X-Forwarded-Client-Cert: URI={GATEWAY}"
    )

    assert answer.split()[1] == b"403"
    assert len(lab.requests()) == before


def test_what_hides_behind_a_good_request_is_a_request_of_its_own(lab: Lab) -> None:
    host = f"Host: {lab.name('guarded')}"
    hidden = f"GET /headers HTTP/1.1\r\n{host}\r\nConnection: close\r\n\r\n"
    body = f"POST /open/x HTTP/1.1\r\n{host}\r\nContent-Length: {len(hidden)}\r\n\r\n{hidden}"
    last = f"GET /public HTTP/1.1\r\n{host}\r\nConnection: close\r\n\r\n"
    before = len(lab.requests())

    as_body = lab.door.statuses(lab.name("guarded"), (body + last).encode())
    between = len(lab.requests())
    piped = lab.door.statuses(
        lab.name("guarded"), f"GET /public HTTP/1.1\r\n{host}\r\n\r\n{hidden}".encode()
    )

    assert as_body == [200, 200]
    assert [seen["target"] for seen in lab.requests()[before:between]] == ["/open/x", "/public"]
    assert piped == [200, 401]
    assert [seen["target"] for seen in lab.requests()[between:]] == ["/public"]


def test_one_connection_does_not_lend_its_host_to_another(lab: Lab) -> None:
    guarded = Try(case="", expect=401)
    by_open_name = f"GET /headers HTTP/1.1\r\nHost: {lab.name('guarded')}\r\n\r\n"

    reply = lab.door.send(lab.name("opened"), by_open_name.encode())

    assert reply.status == lab.send(guarded).status == 401


def test_nobody_else_may_read_what_an_instance_keeps(lab: Lab) -> None:
    state = lab.instance.state
    # The settings hold no secret, and the folder above them is closed; the cache is kubectl's.
    kept = [p for p in state.rglob("*") if p.name != "settings.json" and ".kube" not in p.parts]

    def others_may(path: Path) -> bool:
        try:
            return bool(path.lstat().st_mode & 0o077)
        except FileNotFoundError:  # what was written and renamed
            return False

    assert kept
    assert [str(path) for path in (state, *kept) if others_may(path)] == []
