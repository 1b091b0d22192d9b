"""A state folder with supervisor, API server and controllers, for tests of real Pods."""

import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import anyio
import pytest
import uvicorn
from anyio.abc import TaskGroup

from apirule.apis.meta import GroupVersionKind
from apirule.kube.client import Client
from apirule.kube.config import KubeConfig
from apirule.kube.errors import NotFound
from apirule.kube.informer import Informers, name_of
from apirule.local.apiserver.app import ApiServer
from apirule.local.processes import containers, injector
from apirule.local.processes.client import SupervisorClient
from apirule.local.processes.kubelet import Kubelet
from apirule.local.processes.launch import SupervisorConnection, launch
from apirule.local.store import Store
from apirule.local.workloads.deployment import Deployments
from apirule.local.workloads.endpoints import EndpointSlices
from apirule.local.workloads.replicaset import ReplicaSets
from apirule.names import ObjectName

T = TypeVar("T")
Object = dict[str, Any]

DEADLINE_S = 20.0
NAMESPACE = GroupVersionKind("", "v1", "Namespace")
POD = GroupVersionKind("", "v1", "Pod")
SERVICE = GroupVersionKind("", "v1", "Service")
CONFIG_MAP = GroupVersionKind("", "v1", "ConfigMap")
EVENT = GroupVersionKind("", "v1", "Event")
DEPLOYMENT = GroupVersionKind("apps", "v1", "Deployment")
REPLICA_SET = GroupVersionKind("apps", "v1", "ReplicaSet")
SLICE = GroupVersionKind("discovery.k8s.io", "v1", "EndpointSlice")

SERVE = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "$(PORT)"]
SLEEP = ["sleep", "1000"]


def now() -> datetime:
    return datetime.now(UTC)


class Cluster:
    """A state folder with a supervisor, an API server, and controllers that can be restarted."""

    def __init__(self, state: Path, client: Client, url: str, store: Store) -> None:
        self.state = state
        self.store = store
        self.client = client
        self.url = url
        self.supervisor = SupervisorClient(state / "run")
        self.pods_folder = state / "pods"

    @asynccontextmanager
    async def controllers(self, **more: Any) -> AsyncIterator[TaskGroup]:
        async with anyio.create_task_group() as tasks:
            informers = Informers(self.client)
            kubelet = Kubelet(
                self.client,
                informers,
                self.supervisor,
                pods=self.pods_folder,
                run=self.state / "run",
                xds_socket=self.state / "run" / "xds.sock",
                domain="kyma.localhost",
                now=now,
                **more,
            )
            workloads = (
                Deployments(self.client, informers, now=now),
                ReplicaSets(self.client, informers, now=now),
                EndpointSlices(self.client, informers),
            )
            await tasks.start(informers.run)
            await tasks.start(kubelet.run)
            for controller in workloads:
                await tasks.start(controller.run)
            yield tasks
            tasks.cancel_scope.cancel()

    async def create(self, *objects: Object) -> None:
        for obj in objects:
            await self.client.create(obj)

    def put(self, pod_: Object) -> None:
        """Write a Pod as an earlier version may have: past everything that would refuse it."""
        meta = {"uid": str(uuid4()), "creationTimestamp": "2026-01-02T03:04:05Z"}
        self.store.create("pods", {**pod_, "metadata": {**pod_["metadata"], **meta}})

    async def pods(self, selector: str = "") -> list[Object]:
        return (await self.client.list(POD, "default", label_selector=selector)).items

    async def pod(self, name: str) -> Object:
        return await self.client.get(POD, ObjectName("default", name))

    async def ready_pod(self, name: str) -> Object:
        async def ready() -> Object | None:
            pod = await self.pod(name)
            return pod if is_ready(pod) else None

        return await eventually(ready, f"Pod {name} is ready", self.explain)

    async def phase(self, name: str, phase: str) -> Object:
        async def there() -> Object | None:
            pod = await self.pod(name)
            return pod if pod["status"].get("phase") == phase else None

        return await eventually(there, f"Pod {name} is {phase}", self.explain)

    async def rolled_out(self, name: str) -> Object:
        async def done() -> Object | None:
            deployment = await self.client.get(DEPLOYMENT, ObjectName("default", name))
            status, wanted = deployment.get("status") or {}, deployment["spec"]["replicas"]
            counts = ("updatedReplicas", "replicas", "availableReplicas")
            observed = status.get("observedGeneration") == deployment["metadata"]["generation"]
            same = all(status.get(count, 0) == wanted for count in counts)
            return deployment if observed and same else None

        return await eventually(done, f"Deployment {name} is rolled out", self.explain)

    async def event(
        self, name: str, reason: str, message: str = "", *, namespace: str = "default"
    ) -> Object:
        async def written() -> Object | None:
            for event in (await self.client.list(EVENT, namespace)).items:
                about = (event["involvedObject"]["name"], event["reason"])
                if about == (name, reason) and message in event["message"]:
                    return event
            return None

        return await eventually(written, f"Event {reason} of {name}", self.explain)

    async def gone(self, name: str) -> None:
        async def missing() -> bool:
            try:
                await self.pod(name)
            except NotFound:
                return True
            return False

        await eventually(missing, f"Pod {name} is gone", self.explain)

    async def explain(self) -> str:
        pods = [(name_of(p), p.get("status")) for p in (await self.client.list(POD)).items]
        events = (await self.client.list(EVENT)).items
        told = [f"{e['involvedObject']['name']}: {e['reason']}: {e['message']}" for e in events]
        processes = await self.supervisor.list()
        return "\n".join([*map(str, pods), *told, *map(str, processes)])

    def kubectl(self, *arguments: str) -> str:
        done = subprocess.run(
            ["kubectl", "-s", self.url, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.state)},
            timeout=DEADLINE_S * 2,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(name="cluster")
async def running_cluster() -> AsyncIterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="ap", dir="/tmp") as folder:
        state = Path(folder)
        pid = launch(state)
        try:
            async with serving(state) as (client, url, store):
                for name, labels in (
                    ("default", {}),
                    ("mesh", {"istio-injection": "enabled"}),
                ):
                    await ensure(client, name, labels)
                yield Cluster(state, client, url, store)
        finally:
            with SupervisorConnection(state / "run") as connection:
                connection.ask("shutdown")
            await eventually(lambda: ended(pid), "the supervisor ends")
            assert (state / "logs" / "supervisor.log").read_text() == ""


@asynccontextmanager
async def serving(state: Path) -> AsyncIterator[tuple[Client, str, Store]]:
    store = Store.open(state / "api.db")
    api = ApiServer(
        store, clock=now, logs=containers.PodLogs(state / "pods"), admission=[injector.admit]
    )
    config = uvicorn.Config(api, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        stopped = anyio.Event()

        async def serve() -> None:
            await server.serve([listener])
            stopped.set()

        async with anyio.create_task_group() as tasks:
            await tasks.start(api.run)
            tasks.start_soon(serve)
            async with Client(KubeConfig(server=url)) as client:
                yield client, url, store
            api.end_watches()
            server.should_exit = True
            await stopped.wait()
            tasks.cancel_scope.cancel()
    store.close()


async def ensure(client: Client, name: str, labels: dict[str, str]) -> None:
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": labels},
    }

    await client.apply(namespace)


async def eventually(
    get: Callable[[], Awaitable[T | None]],
    what: str,
    explain: Callable[[], Awaitable[str]] | None = None,
) -> T:
    with anyio.move_on_after(DEADLINE_S):
        while True:
            if value := await get():
                return value
            await anyio.sleep(0.02)
    raise AssertionError(f"in vain: {what}\n{await explain() if explain else ''}")


def is_ready(pod: Object) -> bool:
    if pod["metadata"].get("deletionTimestamp"):
        return False
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


async def ended(pid: int) -> bool:
    try:
        text = await anyio.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return text.rpartition(")")[2].split()[0] in ("Z", "X")


def pod(name: str, *containers_: Object, namespace: str = "default", **spec: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"containers": list(containers_), **spec},
    }


def container(command: list[str] | None = None, *ports: int, **more: Any) -> Object:
    given: Object = {"name": "app", "image": "example/app", **more}
    if command:
        given["command"] = command
    if ports:
        given["ports"] = [{"containerPort": port} for port in ports]
    return given


def service(name: str, port: int, target: int | str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": name}, "ports": [{"port": port, "targetPort": target}]},
    }


def deployment(name: str, template: Object, **spec: Any) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": template},
            **spec,
        },
    }


def status_of(pod_: Object, name: str = "app") -> Object:
    statuses = pod_["status"].get("containerStatuses") or []
    none = {"state": {}, "restartCount": 0}
    return next((dict(status) for status in statuses if status["name"] == name), none)


async def logs(cluster: Cluster, *arguments: str) -> str:
    return await anyio.to_thread.run_sync(lambda: cluster.kubectl("logs", *arguments))


async def slices(cluster: Cluster, name: str, *, ready: bool) -> list[Object]:
    """Wait until a Service has slices, all of them (not) ready."""

    async def there() -> list[Object] | None:
        label = f"kubernetes.io/service-name={name}"
        found = (await cluster.client.list(SLICE, "default", label_selector=label)).items
        states = {e["conditions"]["ready"] for piece in found for e in piece["endpoints"]}
        return found if states == {ready} else None

    return await eventually(there, f"slices of {name}", cluster.explain)


async def no_slices(cluster: Cluster, name: str) -> bool:
    label = f"kubernetes.io/service-name={name}"
    return not (await cluster.client.list(SLICE, "default", label_selector=label)).items


async def process(cluster: Cluster, name: str) -> Object:
    return next(p for p in await cluster.supervisor.list() if p["name"] == name)


async def no_processes(cluster: Cluster) -> bool:
    return not await cluster.supervisor.list()


async def app_environment(cluster: Cluster, name: str) -> dict[str, str]:
    pid = (await process(cluster, name))["pid"]
    text = await anyio.Path(f"/proc/{pid}/environ").read_text()
    return dict(entry.partition("=")[::2] for entry in text.split("\0") if entry)


async def reads(path: Path, text: str) -> bool:
    file = anyio.Path(path)
    return await file.exists() and await file.read_text() == text
