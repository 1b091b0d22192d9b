"""Whom a workload calls, and how: DestinationRules, ServiceEntries and faults in a real Envoy."""

import base64
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from shutil import rmtree
from tempfile import mkdtemp

import pytest
from cryptography import x509
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
    server_context,
)
from tests.unit.mesh.objects import decode

from apirule.mesh.build import build
from apirule.mesh.config import MeshSettings
from apirule.mesh.proxy import Proxy
from apirule.mesh.snapshot import Snapshot
from apirule.names import ObjectName

pytestmark = pytest.mark.envoy

RESOURCES = (Path(__file__).parent / "traffic.yaml").read_text()


@dataclass
class Caller:
    port: int
    proxy: Envoy
    copies: SimpleQueue[str]

    def get(self, host: str, path: str = "/", **headers: str) -> Answer:
        """Ask as a program does that was given an http_proxy."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return request(connect(self.port), f"http://{host}{path}", host=host, headers=named)


@pytest.fixture(scope="module")
def caller() -> Iterator[Caller]:
    folder = Path(mkdtemp(prefix="ap", dir="/tmp"))
    keys = ("outbound", "one", "two", "tls", "sidecar", "public", "untrusted")
    ports = dict(zip(keys, free_ports(len(keys)), strict=True))
    authority, mesh_authority = Authority(), Authority("mesh")
    server = authority.issue(x509.DNSName("bank.example"))
    client = authority.issue(x509.DNSName("client.example")).secret_data()
    text = RESOURCES % {
        **ports,
        "socket": folder / "app.sock",
        "copy": folder / "copy.sock",
        "crt": client["tls.crt"],
        "key": client["tls.key"],
        "ca": base64.b64encode(authority.pem).decode(),
    }
    roots = folder / "roots.pem"
    roots.write_bytes(authority.pem)
    snapshot = Snapshot.of(decode(text), settings=MeshSettings(system_roots=str(roots)))
    copies: SimpleQueue[str] = SimpleQueue()
    try:
        with ExitStack() as stack:
            context = server_context(folder, server, clients=authority)
            stack.enter_context(echo_app("one", ports["one"]))
            stack.enter_context(echo_app("two", ports["two"]))
            stack.enter_context(echo_app("bank", ports["tls"], context=context))
            stack.enter_context(echo_app("socket", str(folder / "app.sock")))
            for name, signer in (("public", authority), ("untrusted", Authority("somebody"))):
                shown = server_context(folder, signer.issue(x509.DNSName(f"{name}.example")))
                stack.enter_context(echo_app(name, ports[name], context=shown))

            copy = str(folder / "copy.sock")
            stack.enter_context(echo_app("copy", copy, seen=copies))

            def start(name: str) -> Envoy:
                proxy = snapshot.proxy(ObjectName("web", name))
                assert isinstance(proxy, Proxy)
                secrets = mesh_secrets(mesh_authority, proxy.spiffe_id)
                run = running(folder / name, proxy, build(snapshot, proxy), secrets)
                return stack.enter_context(run)

            start("friend")
            yield Caller(ports["outbound"], start("caller"), copies)
    finally:
        rmtree(folder)


def test_a_subset_gets_only_its_endpoints_and_its_headers(caller: Caller) -> None:
    answers = [caller.get("shop.example", "/v2") for _ in range(4)]

    assert {answer.echo["app"] for answer in answers} == {"two"}
    assert {answer.echo["headers"]["x-subset"] for answer in answers} == {"v2"}


def test_requests_that_are_alike_stay_with_one_endpoint(caller: Caller) -> None:
    users = [f"user-{number}" for number in range(40)]

    first = [caller.get("shop.example", x_user=user).echo["app"] for user in users]
    again = [caller.get("shop.example", x_user=user).echo["app"] for user in users]

    assert first == again
    assert set(first) == {"one", "two"}


def test_a_fault_answers_for_the_workload(caller: Caller) -> None:
    assert caller.get("shop.example", "/teapot").status == 418
    assert caller.get("shop.example", "/other").status == 200


def test_a_delayed_request_is_answered_all_the_same(caller: Caller) -> None:
    assert caller.get("shop.example", "/slow").status == 200
    assert caller.proxy.logged(path="/slow")["flags"] == "DI"


def test_a_match_for_a_gateway_is_not_there_for_a_sidecar(caller: Caller) -> None:
    assert caller.get("shop.example", "/elsewhere").status == 200


def test_a_copied_request_is_answered_by_the_original(caller: Caller) -> None:
    answer = caller.get("shop.example", "/copied")

    assert answer.echo["app"] == "one"
    assert caller.copies.get(timeout=DEADLINE_S) == "/copied"


@pytest.mark.parametrize(
    ("host", "app"), [("socket.example", "socket"), ("by-name.example", "one")]
)
def test_a_host_is_served_in_a_socket_or_found_by_dns(caller: Caller, host: str, app: str) -> None:
    answer = caller.get(host, "/a?b=c")

    assert answer.echo["app"] == app
    assert answer.echo["path"] == "/a?b=c"
    assert answer.echo["headers"]["host"] == host


@pytest.mark.parametrize(
    "host",
    [
        "a.alias.example",
        "b.c.alias.example:80",
        "storefront",
        "storefront.web.svc.cluster.local:80",
        "a.alias.example.",
        "shop.example.:80",
    ],
)
def test_a_host_that_only_a_rule_names_is_called_by_it(caller: Caller, host: str) -> None:
    answer = caller.get(host)

    assert answer.status == 200
    assert answer.echo["headers"]["host"].removesuffix(":80") == "shop.example"


def test_a_host_that_nobody_declared_is_404(caller: Caller) -> None:
    assert caller.get("unknown.example").status == 404


def test_a_server_outside_is_called_with_a_certificate_of_the_caller(caller: Caller) -> None:
    answer = caller.get("bank.example")

    assert answer.echo["app"] == "bank"
    assert answer.echo["peer"] == ["client.example"]


def test_a_server_is_believed_that_this_machine_trusts_and_nobody_else(caller: Caller) -> None:
    answers = {name: caller.get(f"{name}.example") for name in ("public", "imposter", "untrusted")}

    assert {name: answer.status for name, answer in answers.items()} == {
        "public": 200,
        "imposter": 503,
        "untrusted": 503,
    }
    assert answers["public"].echo["app"] == "public"


def test_a_rule_may_name_who_answers(caller: Caller) -> None:
    assert caller.get("branch.example").status == 200


def test_a_server_with_the_name_of_another_gets_nothing(caller: Caller) -> None:
    assert caller.get("stranger.example").status == 503


def test_without_the_secret_nothing_is_sent(caller: Caller) -> None:
    assert caller.get("nobody.example").status == 503


def test_a_workload_that_is_no_service_is_called_by_mutual_tls(caller: Caller) -> None:
    allowed = caller.get("friend.example", "/here")
    refused = caller.get("friend.example", "/there")

    assert (allowed.status, refused.status) == (200, 403)
    assert "web/sa/caller" in allowed.echo["headers"]["x-forwarded-client-cert"]


def test_an_identity_that_is_not_the_one_named_gets_nothing(caller: Caller) -> None:
    assert caller.get("enemy.example", "/here").status == 503
