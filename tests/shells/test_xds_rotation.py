"""Listeners and certificates are replaced while requests run: none of them fails."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anyio
import anyio.abc
import anyio.streams.tls
import pytest
from cryptography import x509
from tests.shells.mesh_run import Authority, Pair
from tests.shells.xds_run import HOST, Mesh, eventually, guard, route, running

from apirule.apis.meta import Object

pytestmark = pytest.mark.envoy

AUTHORITY = Authority()
CREDENTIAL = "edge"
ENOUGH = 30
"""Requests that are answered before and after each change."""


def issued() -> Pair:
    return AUTHORITY.issue(x509.DNSName(HOST))


def credential(pair: Pair) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"namespace": "istio-system", "name": CREDENTIAL},
        "data": pair.secret_data(),
    }


def edge(*more: str) -> Object:
    tls = {"mode": "SIMPLE", "credentialName": CREDENTIAL}
    servers = [
        {"port": {"number": 443, "name": f"s{n}", "protocol": "HTTPS"}, "hosts": [h], "tls": tls}
        for n, h in enumerate((HOST, *more))
    ]
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "Gateway",
        "metadata": {"namespace": "kyma-system", "name": "edge"},
        "spec": {"selector": {"istio": "ingressgateway"}, "servers": servers},
    }


def limit() -> Object:
    """A limit nobody reaches: what it changes is the listeners of the gateway."""
    kind = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
    value = {"name": "limit", "typed_config": {"@type": kind, "stat_prefix": "x"}}
    patch = {
        "applyTo": "HTTP_FILTER",
        "match": {"context": "GATEWAY"},
        "patch": {"operation": "INSERT_FIRST", "value": value},
    }
    return {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"namespace": "istio-system", "name": "limit"},
        "spec": {"configPatches": [patch]},
    }


def peers(mode: str) -> Object:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"namespace": "default", "name": "peers"},
        "spec": {"mtls": {"mode": mode}},
    }


class Load:
    """Clients that ask over and over, on open connections and on new ones."""

    def __init__(self, mesh: Mesh) -> None:
        self.served = 0
        self.failed: list[object] = []
        self._mesh = mesh
        self._ended = False
        self._tls = ssl.create_default_context(cadata=AUTHORITY.pem.decode())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            for scheme in ("http", "https"):
                for closes in (True, False):
                    tasks.start_soon(self._ask, scheme, closes)
            await self.goes_on()
            yield
            await self.goes_on()
            self._ended = True

    async def goes_on(self) -> None:
        goal = self.served + ENOUGH
        await eventually(lambda: self.served >= goal, lambda: f"{self.served}, {self.failed[:3]}")

    async def _ask(self, scheme: str, closes: bool) -> None:
        port = self._mesh.https_port if scheme == "https" else self._mesh.gateway_port
        secured: dict[str, Any] = (
            {"ssl": self._tls, "server_hostname": HOST} if scheme == "https" else {}
        )
        connector = aiohttp.TCPConnector(force_close=closes)
        async with aiohttp.ClientSession(connector=connector) as session:
            while not self._ended:
                url = f"{scheme}://127.0.0.1:{port}/"
                try:
                    async with session.get(url, headers={"host": HOST}, **secured) as answer:
                        await answer.read()
                except aiohttp.ClientError as error:
                    self.failed.append(error)
                else:
                    self.served += 1
                    if answer.status != 200:
                        self.failed.append(answer.status)


@asynccontextmanager
async def under_load() -> AsyncIterator[tuple[Mesh, Load]]:
    rule = route("app", HOST, "app")
    rule["spec"]["gateways"] = ["kyma-system/kyma-gateway", "kyma-system/edge"]
    policy = guard("app", "app", "/{**}")
    async with running(rule, policy, credential(issued()), edge(), peers("STRICT")) as mesh:
        await mesh.reaches(200)
        load = Load(mesh)
        async with load.running():
            yield mesh, load
        assert load.failed == [], mesh.logs()


async def changed(mesh: Mesh, load: Load, obj: Object) -> None:
    mesh.run.feed.put(obj)
    await mesh.run.status(obj, "True")
    await load.goes_on()


async def test_listeners_of_gateway_and_sidecar_are_replaced_without_a_failed_request() -> None:
    async with under_load() as (mesh, load):
        for _ in range(2):
            await changed(mesh, load, edge("more.kyma.localhost"))
            await changed(mesh, load, limit())
            await changed(mesh, load, peers("PERMISSIVE"))
            mesh.run.feed.delete(limit())
            await changed(mesh, load, edge())
            await changed(mesh, load, peers("STRICT"))


async def test_certificates_of_workloads_are_replaced_without_a_failed_request() -> None:
    async with under_load() as (mesh, load):
        identity = "spiffe://cluster.local/ns/default/sa/app"
        for number in range(4):
            before = mesh.run.authority.workload_pair(identity).certificate
            mesh.run.authority.keep_only(())
            mesh.run.feed.put(route(f"touch-{number}", "touch.kyma.localhost", "app"))
            await mesh.run.synced(mesh.gateway_node, mesh.sidecar_node())
            await changed(mesh, load, route("after", f"after-{number}.kyma.localhost", "app"))

            assert mesh.run.authority.workload_pair(identity).certificate != before


async def test_a_gateway_certificate_is_replaced_for_new_connections_and_open_ones_go_on() -> None:
    async with under_load() as (mesh, load):
        old, new = await _shown(mesh), issued()
        kept = await _connected(mesh)

        mesh.run.feed.put(credential(new))
        wanted = x509.load_pem_x509_certificate(new.certificate).serial_number
        seen = old
        while seen != wanted:
            seen = await _shown(mesh)
        await load.goes_on()

        await kept.send(f"GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n".encode())
        answer = await kept.receive()
        assert (old != wanted, answer.split(b"\r\n")[0]) == (True, b"HTTP/1.1 200 OK")
        await kept.aclose()


async def _connected(mesh: Mesh) -> anyio.abc.ByteStream:
    context = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
    return await anyio.connect_tcp(
        "127.0.0.1",
        mesh.https_port,
        tls=True,
        tls_hostname=HOST,
        ssl_context=context,
        tls_standard_compatible=False,
    )


async def _shown(mesh: Mesh) -> int:
    """Return the serial number of the certificate that a new connection is shown."""
    async with await _connected(mesh) as stream:
        shown = stream.extra(anyio.streams.tls.TLSAttribute.peer_certificate_binary)
    return x509.load_der_x509_certificate(shown or b"").serial_number
