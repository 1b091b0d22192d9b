"""Who is let in: clients with a certificate of the server's own CA, and nobody else."""

import contextlib
import socket
import ssl
from collections.abc import Iterator
from http.client import RemoteDisconnected
from pathlib import Path
from typing import Any

import pytest
from tests.shells.certificates import Pem, TestCa
from tests.shells.conftest import Pki, RunningApiServer
from tests.shells.http_client import Client
from tests.shells.test_apiserver_http import MAPS, config_map

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec_WebSocket_Version": "13",
    "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
EXEC = "/api/v1/namespaces/default/pods/p/exec?command=id"


def context_of(server: RunningApiServer, pem: Pem | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(server.ca))
    if pem is not None:
        context.load_cert_chain(pem.certificate, pem.key)
    return context


@pytest.fixture
def nobody(api_server: RunningApiServer) -> Iterator[Client]:
    """A client that shows no certificate."""
    client = Client(api_server.url, context_of(api_server))
    yield client
    client.close()


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/", {}),
        ("GET", "/version", {}),
        ("GET", "/readyz", {}),
        ("GET", "/openapi/v2", {}),
        ("GET", "/nowhere", {}),
        ("OPTIONS", MAPS, {}),
        ("HEAD", MAPS, {}),
        ("GET", MAPS, {}),
        ("GET", f"{MAPS}?watch=true", {}),
        ("POST", MAPS, {}),
        ("PATCH", f"{MAPS}/m", {}),
        ("DELETE", f"{MAPS}/m", {}),
        ("GET", MAPS, {"Authorization": "Bearer token"}),
        ("GET", MAPS, {"Authorization": "Basic YTpi"}),
        ("GET", MAPS, {"X_Remote_User": "admin", "X_Forwarded_Client_Cert": "x"}),
        ("GET", MAPS, {"Impersonate_User": "admin"}),
        ("GET", EXEC, UPGRADE),
        ("POST", EXEC, {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}),
        ("GET", "/nowhere", UPGRADE),
    ],
)
def test_without_a_certificate_every_request_is_401(
    nobody: Client, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = nobody.send(method, path, config_map("m") if method == "POST" else None, **headers)

    assert answer.status == 401
    if method != "HEAD":
        assert (answer.json["kind"], answer.json["reason"]) == ("Status", "Unauthorized")
        assert "apirule kubeconfig" in answer.json["message"]


def test_nothing_is_written_by_nobody(api_server: RunningApiServer, nobody: Client) -> None:
    before = api_server.app.store.revision

    assert nobody.post(MAPS, config_map("m")).status == 401

    assert api_server.app.store.revision == before


def test_what_follows_a_refusal_on_a_connection_is_not_read(
    api_server: RunningApiServer,
) -> None:
    host, _, port = api_server.url.removeprefix("https://").partition(":")
    ask = f"GET {MAPS} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context_of(api_server).wrap_socket(plain, server_hostname=host) as connection,
    ):
        connection.sendall(ask * 3)
        said = b"".join(iter(lambda: connection.recv(65536), b""))

    assert said.startswith(b"HTTP/1.1 401 ")
    assert said.count(b"HTTP/1.1 ") == said.count(b"HTTP/1.1 401 ")
    assert b"ConfigMapList" not in said


def test_a_large_body_of_nobody_is_refused(api_server: RunningApiServer, nobody: Client) -> None:
    before = api_server.app.store.revision
    body: Any = {**config_map("m"), "data": {"a": "x" * 2_000_000}}

    # The server may have answered and gone before all of it was sent.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
        assert nobody.post(MAPS, body).status == 401
    assert api_server.app.store.revision == before


def test_certificates_that_are_not_ours_end_the_connection(
    api_server: RunningApiServer, pki: Pki, tmp_path: Path
) -> None:
    other = TestCa(tmp_path, "other CA")
    # It has the name of ours, but not its key.
    twin = TestCa(tmp_path, "test CA")
    for pem in (other.client("stranger"), twin.client("tester"), pki.server):
        client = Client(api_server.url, context_of(api_server, pem))
        # TLS 1.3 tells a client that it was refused when it first reads.
        with pytest.raises((ssl.SSLError, RemoteDisconnected, ConnectionError)):
            client.get("/version")
        client.close()


def test_plain_http_is_no_way_in(api_server: RunningApiServer) -> None:
    host, _, port = api_server.url.removeprefix("https://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"GET {MAPS} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())

        assert b"HTTP/1.1 2" not in connection.recv(65536)


def test_a_certificate_of_ours_is_let_in_beside_nobody(
    api_server: RunningApiServer, nobody: Client
) -> None:
    client = Client(api_server.url, api_server.ssl_context())

    assert nobody.get(MAPS).status == 401
    assert client.get(MAPS).status == 200
    assert nobody.get(MAPS).status == 401
    client.close()
