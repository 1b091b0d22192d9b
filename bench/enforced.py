"""From a write to its first correct answer: how long an APIRule takes to be enforced.

    python bench/enforced.py [--rules 100] [--services 20] [--workloads 5] [--changes 100] [--json]

With ``rules`` APIRules over ``services`` Services, one of them is switched between ``noAuth`` and
``jwt``. ``--services 1`` is the worst spread: one sidecar holds the policies of all. ``workloads``
Services have a Pod with a sidecar; the others have none, so that a thousand rules fit on a laptop.
A client asks over one open connection every few milliseconds. Time runs from sending the write to
the arrival of the first correct answer, so it holds API server, controller, engine, both Envoys and
the asking itself. Two yardsticks of the same run say what the machine can do: a request over that
connection, and a write that no controller looks at.
"""

import argparse
import json
import math
import ssl
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import anyio
import msgspec
from anyio.streams.tls import TLSStream
from instance import Instance, running

from apirule.apis.gateway import v2
from apirule.apis.meta import GroupVersionKind
from apirule.kube.client import Client
from apirule.kube.config import KubeConfig
from apirule.names import ObjectName

NAMESPACE = "default"
TARGET = ObjectName(NAMESPACE, "bench-0")
YARDSTICK = ObjectName(NAMESPACE, "bench-yardstick")
CONFIG_MAP = GroupVersionKind("", "v1", "ConfigMap")
DEPLOYMENT = GroupVersionKind("apps", "v1", "Deployment")
ALL_READY = "first write of a rule to all Ready"
BY_API = "write to first correct answer"
LIMIT_S = 10.0
PACE_S = 0.002
"""Between two requests, so that the asking does not take the cores from those who are asked."""


class Asker:
    """One keep-alive HTTP/1.1 connection to the gateway."""

    def __init__(self, stream: TLSStream, host: str) -> None:
        self._stream = stream
        self._request = f"GET /headers HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await anyio.aclose_forcefully(self._stream)

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


@dataclass(frozen=True)
class Size:
    rules: int = 100
    services: int = 20
    workloads: int = 5
    """How many Services have a Pod, the demo's included."""

    def __str__(self) -> str:
        return f"{self.rules} APIRules, {self.services} Services, {self.workloads} workloads"


@dataclass(frozen=True)
class Measured:
    """``seconds`` by what was measured; ``rss`` is that of all processes, in bytes."""

    seconds: dict[str, list[float]]
    rss: int


def service_of(index: int, services: int) -> str:
    """Return the Service of a rule; the first one is that of the demo."""
    return f"bench-{index % services}" if index % services else "httpbin"


def deployment(name: str) -> dict[str, Any]:
    container = {"name": "httpbin", "image": "kennethreitz/httpbin"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [container | {"ports": [{"containerPort": 80}]}]},
            },
        },
    }


def service(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "selector": {"app": name},
            "ports": [{"name": "http", "port": 8000, "targetPort": 80}],
        },
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


async def all_ready(client: Client) -> None:
    """Wait until every APIRule there is now is Ready."""
    await _all(client, v2.APIRule.gvk, lambda o: o.get("status", {}).get("state") == "Ready")


async def _all(
    client: Client, gvk: GroupVersionKind, is_done: Callable[[dict[str, Any]], bool]
) -> None:
    listing = await client.list(gvk, NAMESPACE)
    waiting = {item["metadata"]["name"] for item in listing.items if not is_done(item)}
    while waiting:
        async with client.watch(
            gvk, NAMESPACE, resource_version=listing.resource_version
        ) as events:
            async for event in events:
                if is_done(event.object):
                    waiting.discard(event.object["metadata"]["name"])
                if not waiting:
                    return


async def measure(instance: Instance, size: Size, changes: int) -> dict[str, list[float]]:
    """Return the durations of everything that was measured, in seconds."""
    measured: dict[str, list[float]] = {}
    async with Client(KubeConfig.load(instance.kubeconfig)) as client:
        for number in range(1, size.services):
            await client.create(service(f"bench-{number}"))
            if number < size.workloads:
                await client.create(deployment(f"bench-{number}"))
        await _all(client, DEPLOYMENT, lambda o: bool(o.get("status", {}).get("availableReplicas")))
        began = time.monotonic()
        for index in range(size.rules):
            body = rule(instance, index, open_to_all=index == 0, services=size.services)
            await client.create(body)
        await all_ready(client)
        measured[ALL_READY] = [time.monotonic() - began]
        host = f"bench-0.{instance.domain}"
        asker = await connect(instance, host)
        await asker.until(200)
        measured["request"] = [await timed(asker.status) for _ in range(changes)]
        await client.create(config_map("0"))
        measured["write"] = [
            await timed(partial(client.patch, CONFIG_MAP, YARDSTICK, config_map(str(number))))
            for number in range(1, changes + 1)
        ]
        measured[BY_API] = await by_api(client, instance, asker, changes)
        ran, took = await by_kubectl(instance, asker, changes)
        measured["kubectl apply"] = ran
        measured["kubectl apply returned to first correct answer"] = took
    return measured


async def timed(action: Callable[[], Awaitable[object]]) -> float:
    began = time.monotonic()
    await action()
    return time.monotonic() - began


def config_map(value: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": YARDSTICK.name, "namespace": NAMESPACE},
        "data": {"value": value},
    }


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


async def by_kubectl(
    instance: Instance, asker: Asker, changes: int
) -> tuple[list[float], list[float]]:
    """Return how long kubectl ran, which is mostly its own start, and what came after."""
    ran, took = [], []
    path = anyio.Path(instance.state / "bench.yaml")
    for change in range(changes):
        open_to_all = change % 2 == 1
        await path.write_bytes(_manifest(instance, open_to_all=open_to_all))
        began = time.monotonic()
        await anyio.run_process(
            ["kubectl", "apply", "-f", str(path)], env=instance.environment, check=True
        )
        returned = time.monotonic()
        ran.append(returned - began)
        took.append(max(0.0, await asker.until(200 if open_to_all else 401) - returned))
    return ran, took


def _manifest(instance: Instance, *, open_to_all: bool) -> bytes:
    return msgspec.json.encode(rule(instance, 0, open_to_all=open_to_all))


def report(what: str, took: list[float]) -> None:
    one = summary(took)
    figures = ", ".join(f"{name} {value:.1f} ms" for name, value in one.items())
    print(f"{what}: n={len(took)} {figures}")


def summary(took: list[float]) -> dict[str, float]:
    """Return milliseconds. The p99 of n values is the one that at most n/100 of them exceed."""
    ordered = sorted(took)
    p99 = ordered[math.ceil(len(ordered) * 0.99) - 1]
    found = {"p50": statistics.median(took), "p99": p99, "max": ordered[-1]}
    return {name: round(value * 1000, 2) for name, value in found.items()}


def run(size: Size, changes: int) -> Measured:
    """Measure on an instance of its own."""
    with running("--demo") as instance:
        seconds = anyio.run(measure, instance, size, changes)
        return Measured(seconds, sum(process.rss for process in instance.processes()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    default = Size()
    parser.add_argument("--rules", type=int, default=default.rules)
    parser.add_argument("--services", type=int, default=default.services)
    parser.add_argument("--workloads", type=int, default=default.workloads)
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    size = Size(arguments.rules, arguments.services, arguments.workloads)
    measured = run(size, arguments.changes)
    summaries = {what: summary(took) for what, took in measured.seconds.items()}
    ratio = summaries[BY_API]["p50"] / summaries["write"]["p50"]
    rss = round(measured.rss / 2**20)
    if arguments.json:
        print(json.dumps({"ms": summaries, "ratio": round(ratio, 1), "rssMiB": rss}))
        return
    print(size)
    for what, took in measured.seconds.items():
        report(what, took)
    print(f"a change costs as much as {ratio:.1f} writes that nobody looks at")
    print(f"resident memory of all processes: {rss} MiB")


if __name__ == "__main__":
    main()
