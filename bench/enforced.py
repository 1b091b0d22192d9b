"""From a write to its first correct answer: how long an APIRule takes to be enforced.

    python bench/enforced.py [--rules 100] [--services 20] [--changes 100]

With ``rules`` APIRules over ``services`` Services, one of them is switched between ``noAuth`` and
``jwt``. ``--services 1`` is the worst spread: one sidecar holds the policies of all. A client asks
over one open connection every few milliseconds. Time runs from sending the write to the arrival of
the first correct answer, so it holds API server, controller, engine, both Envoys and the asking
itself.
"""

import argparse
import ssl
import statistics
import time
from typing import Any

import anyio
import msgspec
from anyio.streams.tls import TLSStream
from instance import Instance, running

from apirule.apis.gateway import v2
from apirule.kube.client import Client
from apirule.kube.config import KubeConfig
from apirule.names import ObjectName

NAMESPACE = "default"
TARGET = ObjectName(NAMESPACE, "bench-0")
LIMIT_S = 10.0
PACE_S = 0.002
"""Between two requests, so that the asking does not take the cores from those who are asked."""


class Asker:
    """One keep-alive HTTP/1.1 connection to the gateway."""

    def __init__(self, stream: TLSStream, host: str) -> None:
        self._stream = stream
        self._request = f"GET /headers HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()

    async def status(self) -> int:
        await self._stream.send(self._request)
        data = b""
        while b"\r\n\r\n" not in data:
            data += await self._stream.receive()
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        )
        while len(body) < length:
            body += await self._stream.receive()
        return int(head.split(b" ", 2)[1])

    async def until(self, wanted: int) -> float:
        """Ask until the status comes; return when it came."""
        with anyio.fail_after(LIMIT_S):
            while await self.status() != wanted:  # noqa: ASYNC110 - asking is what is measured
                await anyio.sleep(PACE_S)
        return time.monotonic()


async def connect(instance: Instance, host: str) -> Asker:
    context = ssl.create_default_context(cafile=str(instance.state / "ca.crt"))
    stream = await anyio.connect_tcp(
        "127.0.0.1", instance.https_port, ssl_context=context, tls_hostname=host
    )
    return Asker(stream, f"{host}:{instance.https_port}")


def service_of(index: int, services: int) -> str:
    """Return the Service of a rule; only the first, httpbin, has a running workload."""
    return f"bench-{index % services}" if index % services else "httpbin"


def service(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 8000}]},
    }


def rule(instance: Instance, index: int, *, open_to_all: bool, services: int = 1) -> dict[str, Any]:
    issuer = f"http://oidc.{instance.domain}:{instance.http_port}"
    access: dict[str, Any] = {"noAuth": True}
    if not open_to_all:
        authentication = {"issuer": issuer, "jwksUri": f"{issuer}/oauth2/certs"}
        access = {"jwt": {"authentications": [authentication]}}
    return {
        "apiVersion": "gateway.kyma-project.io/v2",
        "kind": "APIRule",
        "metadata": {"name": f"bench-{index}", "namespace": NAMESPACE},
        "spec": {
            "hosts": [f"bench-{index}.{instance.domain}"],
            "gateway": "kyma-system/kyma-gateway",
            "service": {"name": service_of(index, services), "port": 8000},
            "rules": [{"path": "/*", "methods": ["GET"], **access}],
        },
    }


async def all_ready(client: Client, count: int) -> None:
    listing = await client.list(v2.APIRule.gvk, NAMESPACE)
    waiting = {item["metadata"]["name"] for item in listing.items} - _ready(listing.items)
    while waiting:
        async with client.watch(
            v2.APIRule.gvk, NAMESPACE, resource_version=listing.resource_version
        ) as events:
            async for event in events:
                if _ready([event.object]):
                    waiting.discard(event.object["metadata"]["name"])
                if not waiting:
                    return


def _ready(items: list[dict[str, Any]]) -> set[str]:
    return {i["metadata"]["name"] for i in items if i.get("status", {}).get("state") == "Ready"}


async def measure(instance: Instance, rules: int, services: int, changes: int) -> None:
    async with Client(KubeConfig.load(instance.kubeconfig)) as client:
        for number in range(1, services):
            await client.create(service(f"bench-{number}"))
        began = time.monotonic()
        for index in range(rules):
            await client.create(rule(instance, index, open_to_all=index == 0, services=services))
        await all_ready(client, rules)
        took_s = time.monotonic() - began
        print(f"{rules} APIRules over {services} Services created and Ready in {took_s:.2f} s")
        host = f"bench-0.{instance.domain}"
        asker = await connect(instance, host)
        await asker.until(200)
        took = await by_api(client, instance, asker, changes)
        report("write to first correct answer", took)
        took = await by_kubectl(instance, asker, min(changes, 40))
        report("kubectl apply returned to first correct answer", took)


async def by_api(client: Client, instance: Instance, asker: Asker, changes: int) -> list[float]:
    took = []
    for change in range(changes):
        open_to_all = change % 2 == 1
        body = rule(instance, 0, open_to_all=open_to_all)
        access = {"noAuth": None, "jwt": None} | body["spec"]["rules"][0]
        patch = {"spec": {"rules": [{k: v for k, v in access.items() if v is not None}]}}
        sent = time.monotonic()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.patch, v2.APIRule.gvk, TARGET, patch)
            took.append(await asker.until(200 if open_to_all else 401) - sent)
    return took


async def by_kubectl(instance: Instance, asker: Asker, changes: int) -> list[float]:
    took = []
    path = anyio.Path(instance.state / "bench.yaml")
    for change in range(changes):
        open_to_all = change % 2 == 1
        await path.write_bytes(_manifest(instance, open_to_all=open_to_all))
        await anyio.run_process(
            ["kubectl", "apply", "-f", str(path)], env=instance.environment, check=True
        )
        returned = time.monotonic()
        took.append(max(0.0, await asker.until(200 if open_to_all else 401) - returned))
    return took


def _manifest(instance: Instance, *, open_to_all: bool) -> bytes:
    return msgspec.json.encode(rule(instance, 0, open_to_all=open_to_all))


def report(what: str, took: list[float]) -> None:
    ordered = sorted(took)
    p99 = ordered[max(0, round(len(ordered) * 0.99) - 1)]
    print(
        f"{what}: n={len(took)} p50 {statistics.median(took) * 1000:.1f} ms, "
        f"p99 {p99 * 1000:.1f} ms, max {ordered[-1] * 1000:.1f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rules", type=int, default=100)
    parser.add_argument("--services", type=int, default=20)
    parser.add_argument("--changes", type=int, default=100)
    arguments = parser.parse_args()
    with running("--demo") as instance:
        anyio.run(measure, instance, arguments.rules, arguments.services, arguments.changes)
        print(f"resident memory of all processes: {instance.status()['rssBytes'] / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
