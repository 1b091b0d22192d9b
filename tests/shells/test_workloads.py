"""Workloads from `kubectl apply` to processes: real API server, supervisor, httpbin and Envoy."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import anyio
import pytest
import uvicorn
from anyio.abc import TaskGroup

from apirule.apis.meta import GroupVersionKind
from apirule.kube.client import Client
from apirule.kube.config import KubeConfig
from apirule.kube.errors import NotFound
from apirule.kube.informer import Informers
from apirule.local.apiserver.app import ApiServer
from apirule.local.ca import CertificateAuthority
from apirule.local.processes import containers, injector
from apirule.local.processes.client import SupervisorClient
from apirule.local.processes.kubelet import Kubelet
from apirule.local.processes.launch import SupervisorConnection, launch
from apirule.local.store import Store
from apirule.local.workloads.deployment import Deployments
from apirule.local.workloads.endpoints import EndpointSlices
from apirule.local.workloads.replicaset import ReplicaSets
from apirule.local.workloads.run import objects_for
from apirule.local.xds.accesslog import DenialLog
from apirule.local.xds.engine import Engine
from apirule.local.xds.server import XdsServer
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
    async def controllers(self) -> AsyncIterator[TaskGroup]:
        async with anyio.create_task_group() as tasks:
            informers = Informers(self.client)
            kubelet = Kubelet(
                self.client,
                informers,
                self.supervisor,
                pods=self.pods_folder,
                run=self.state / "run",
                xds_socket=self.state / "run" / "xds.sock",
                now=now,
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

    async def event(self, name: str, reason: str, message: str = "") -> Object:
        async def written() -> Object | None:
            for event in (await self.client.list(EVENT, "default")).items:
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
        pods = [(p["metadata"]["name"], p.get("status")) for p in await self.pods()]
        events = (await self.client.list(EVENT, "default")).items
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


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
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


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def test_a_pod_becomes_a_process_that_listens_where_it_is_told(cluster: Cluster) -> None:
    async with cluster.controllers():
        await cluster.create(pod("web", container(SERVE, 80)))

        ready = await cluster.ready_pod("web")

        (place,) = json.loads(ready["metadata"]["annotations"]["apirule.local/ports"])
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{place['app']}/") as got,
        ):
            assert got.status == 200
        assert place["port"] == 80
        assert ready["status"]["podIP"] == "127.0.0.1"
        assert ready["spec"]["nodeName"] == "apirule"
        for reason in ("Scheduled", "Pulled", "Created", "Started"):
            await cluster.event("web", reason)


async def test_httpbin_serves_a_unix_socket_that_only_its_owner_can_open(cluster: Cluster) -> None:
    image = {"name": "app", "image": "docker.io/kennethreitz/httpbin"}
    async with cluster.controllers():
        await cluster.create(pod("httpbin", image), service("httpbin", 8000, 80))

        ready = await cluster.ready_pod("httpbin")

        (place,) = json.loads(ready["metadata"]["annotations"]["apirule.local/ports"])
        path = place["app"].removeprefix("unix:")
        assert (await anyio.Path(path).stat()).st_mode & 0o777 == 0o600
        connector = aiohttp.UnixConnector(path)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(
                "http://x/headers?show_env=1", headers={"X-Forwarded-For": "1.2.3.4"}
            ) as answer,
        ):
            assert (await answer.json())["headers"]["X-Forwarded-For"] == "1.2.3.4"
        (piece,) = await slices(cluster, "httpbin", ready=True)
        assert piece["metadata"]["annotations"]["apirule.local/app"] == place["app"]


@pytest.mark.envoy
async def test_a_sidecar_is_an_envoy_with_ports_of_its_own(cluster: Cluster) -> None:
    async with cluster.controllers():
        await cluster.client.create(pod("web", container(SERVE, 80), namespace="mesh"))
        name = ObjectName("mesh", "web")

        async def envoy_runs() -> Object | None:
            found = await cluster.client.get(POD, name)
            statuses = found["status"].get("containerStatuses") or []
            running = [s["name"] for s in statuses if "running" in s["state"]]
            return found if running == ["app", "istio-proxy"] else None

        found = await eventually(envoy_runs, "both containers run", cluster.explain)
        annotations = found["metadata"]["annotations"]
        (place,) = json.loads(annotations["apirule.local/ports"])
        assert len({place["sidecar"], int(annotations["apirule.local/outbound"])}) == 2
        assert annotations["sidecar.istio.io/status"] == '{"containers": ["istio-proxy"]}'

        async def server_info() -> Object | None:
            connector = aiohttp.UnixConnector(annotations["apirule.local/admin"][len("unix:") :])
            try:
                async with (
                    aiohttp.ClientSession(connector=connector) as session,
                    session.get("http://x/server_info") as answer,
                ):
                    return dict(await answer.json())
            except aiohttp.ClientError:
                return None

        info = await eventually(server_info, "Envoy answers", cluster.explain)
        assert info["node"]["id"] == "mesh/web"
        # Without a control plane it has no configuration, and the Pod must not get requests.
        found = await cluster.client.get(POD, name)
        assert not is_ready(found)
        assert not status_of(found, "istio-proxy")["ready"]
        environment = await app_environment(cluster, "mesh/web/app")
        assert environment["http_proxy"].endswith(annotations["apirule.local/outbound"])
        await cluster.client.delete(POD, name)
        await eventually(lambda: no_processes(cluster), "all processes end", cluster.explain)


@pytest.mark.envoy
async def test_a_pod_is_ready_when_its_sidecar_has_its_configuration(cluster: Cluster) -> None:
    authority = CertificateAuthority.open(cluster.state / "pki", clock=now)
    engine = Engine(cluster.store, authority, cluster.client, clock=now)
    server = XdsServer(cluster.state / "run" / "xds.sock", engine.fleet, DenialLog(lambda _: None))
    image = {"name": "app", "image": "kennethreitz/httpbin"}
    async with cluster.controllers() as tasks:
        await tasks.start(server.run)
        await tasks.start(engine.run)
        await cluster.client.create(pod("web", image, namespace="mesh"))
        name = ObjectName("mesh", "web")

        async def ready() -> Object | None:
            found = await cluster.client.get(POD, name)
            return found if is_ready(found) else None

        found = await eventually(ready, "it is ready", cluster.explain)

        (place,) = json.loads(found["metadata"]["annotations"]["apirule.local/ports"])
        with socket.create_connection(("127.0.0.1", place["sidecar"])):
            pass


@pytest.mark.envoy
async def test_the_gateway_is_a_pod_too(cluster: Cluster) -> None:
    number = free_port()
    port = {"name": "https", "containerPort": number, "hostPort": number}
    proxy = {"name": "istio-proxy", "image": "docker.io/istio/proxyv2", "ports": [port]}
    async with cluster.controllers():
        await cluster.create(pod("gateway", proxy), service("gateway", 443, "https"))

        async def envoy_runs() -> Object | None:
            status = status_of(await cluster.pod("gateway"), "istio-proxy")
            return status if "running" in status["state"] else None

        await eventually(envoy_runs, "Envoy runs", cluster.explain)

        assert (await process(cluster, "default/gateway/istio-proxy"))["kind"] == "gateway"
        (piece,) = await slices(cluster, "gateway", ready=False)
        assert piece["ports"] == [{"name": "", "port": number, "protocol": "TCP"}]


async def test_nothing_outlives_its_namespace(cluster: Cluster) -> None:
    async with cluster.controllers():
        await ensure(cluster.client, "shop", {})
        await cluster.client.create(pod("web", container(SLEEP), namespace="shop"))

        async def runs() -> bool:
            return not await no_processes(cluster)

        await eventually(runs, "it runs", cluster.explain)

        await cluster.client.delete(NAMESPACE, ObjectName("", "shop"))

        await eventually(lambda: no_processes(cluster), "it ends", cluster.explain)


async def test_a_killed_program_is_back_and_its_end_is_remembered(cluster: Cluster) -> None:
    async with cluster.controllers():
        await cluster.create(pod("web", container(SERVE, 80)))
        await cluster.ready_pod("web")
        os.kill((await process(cluster, "default/web/app"))["pid"], signal.SIGKILL)

        async def restarted() -> Object | None:
            found = await cluster.pod("web")
            status = status_of(found)
            return status if status["restartCount"] == 1 and is_ready(found) else None

        status = await eventually(restarted, "it is ready again", cluster.explain)

        assert status["lastState"]["terminated"]["exitCode"] == 137
        assert status["lastState"]["terminated"]["signal"] == 9


async def test_a_crash_loop_is_shown_as_one(cluster: Cluster) -> None:
    async with cluster.controllers():
        await cluster.create(pod("web", container(["sh", "-c", "echo oh no; exit 7"])))

        async def loops() -> Object | None:
            status = status_of(await cluster.pod("web"))
            waiting = status["state"].get("waiting") or {}
            loop = waiting.get("reason") == "CrashLoopBackOff" and status["restartCount"] >= 3
            return status if loop else None

        status = await eventually(loops, "it crash-loops", cluster.explain)

        assert status["lastState"]["terminated"]["exitCode"] == 7
        assert (await cluster.pod("web"))["status"]["phase"] == "Running"
        event = await cluster.event("web", "BackOff")
        assert event["message"].startswith("Back-off restarting failed container app in pod web_")
        assert "oh no" in await anyio.to_thread.run_sync(cluster.kubectl, "logs", "web")


async def test_an_image_that_stands_for_nothing_says_what_to_do(cluster: Cluster) -> None:
    async with cluster.controllers():
        await cluster.create(pod("web", {"name": "app", "image": "nginx:1.27"}))

        event = await cluster.event("web", "ImageNotMapped")

        assert '"nginx:1.27" stands for no program' in event["message"]
        assert "`command`" in event["message"]
        found = await cluster.phase("web", "Pending")
        assert status_of(found)["state"]["waiting"]["reason"] == "ImageNotMapped"


async def test_a_pod_waits_for_its_configmap(cluster: Cluster) -> None:
    reference = {"configMapKeyRef": {"name": "settings", "key": "word"}}
    given = container(
        ["sh", "-c", "echo $(WORD) > word; sleep 1000"],
        env=[{"name": "WORD", "valueFrom": reference}],
        workingDir=str(cluster.state),
    )
    async with cluster.controllers():
        await cluster.create(pod("web", given))
        event = await cluster.event("web", "Failed")
        assert event["message"] == 'Error: configmap "settings" not found'

        metadata = {"name": "settings", "namespace": "default"}
        await cluster.create(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": metadata,
                "data": {"word": "hello"},
            }
        )

        await cluster.ready_pod("web")
        await eventually(lambda: reads(cluster.state / "word", "hello\n"), "it got the word")


async def test_a_host_port_belongs_to_one_pod_at_a_time(cluster: Cluster) -> None:
    number = free_port()
    serve = container([*SERVE[:-1], str(number)])
    serve["ports"] = [{"containerPort": 80, "hostPort": number}]
    async with cluster.controllers():
        await cluster.create(pod("first", serve))
        await cluster.ready_pod("first")
        await cluster.create(pod("second", serve))

        event = await cluster.event("second", "FailedScheduling")
        assert f"Port {number} belongs to Pod default/first" in event["message"]
        await cluster.client.delete(POD, ObjectName("default", "first"))

        await cluster.ready_pod("second")


async def test_a_port_that_a_stranger_has_is_named(cluster: Cluster) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        number = stranger.getsockname()[1]
        serve = container([*SERVE[:-1], str(number)])
        serve["ports"] = [{"containerPort": 80, "hostPort": number}]
        async with cluster.controllers():
            await cluster.create(pod("web", serve))

            event = await cluster.event("web", "FailedScheduling")
            assert f"listens on port {number}" in event["message"]
            assert "containerStatuses" not in (await cluster.phase("web", "Pending"))["status"]
            stranger.close()

            await cluster.ready_pod("web")


async def test_a_new_control_plane_adopts_what_runs(cluster: Cluster) -> None:
    async with cluster.controllers():
        await cluster.create(pod("web", container(SERVE, 80)))
        before = await cluster.ready_pod("web")
        pid = (await process(cluster, "default/web/app"))["pid"]
    async with cluster.controllers():
        await cluster.create(pod("other", container(SERVE, 80)))
        await cluster.ready_pod("other")

        after = await cluster.ready_pod("web")

        assert (await process(cluster, "default/web/app"))["pid"] == pid
        assert after["metadata"]["annotations"] == before["metadata"]["annotations"]
        assert status_of(after)["restartCount"] == 0


async def test_pods_deleted_while_nobody_looked_are_ended(cluster: Cluster) -> None:
    async with cluster.controllers():
        await cluster.create(pod("web", container(SERVE, 80)))
        await cluster.ready_pod("web")
    await cluster.client.delete(POD, ObjectName("default", "web"), grace_period_s=0)

    async with cluster.controllers():
        await eventually(lambda: no_processes(cluster), "its program ends", cluster.explain)


async def test_what_ran_before_the_machine_stopped_runs_again(cluster: Cluster) -> None:
    async with cluster.controllers():
        await cluster.create(pod("web", container(SERVE, 80)))
        await cluster.ready_pod("web")
        await cluster.supervisor.shutdown()
        # What the end of all programs looks like must not be taken for crashes.
        assert is_ready(await cluster.pod("web"))
    launch(cluster.state)

    async with cluster.controllers():

        async def again() -> Object | None:
            found = await cluster.pod("web")
            return found if is_ready(found) and status_of(found)["restartCount"] == 1 else None

        await eventually(again, "it runs again", cluster.explain)


async def test_a_deleted_pod_ends_gently_and_leaves_nothing(cluster: Cluster) -> None:
    script = f"trap 'echo bye > {cluster.state}/bye; exit 0' TERM; while :; do sleep 0.05; done"
    async with cluster.controllers():
        await cluster.create(pod("web", container(["sh", "-c", script])))
        await cluster.ready_pod("web")

        await cluster.client.delete(POD, ObjectName("default", "web"))
        await cluster.gone("web")

        assert (cluster.state / "bye").read_text() == "bye\n"
        assert await no_processes(cluster)
        assert not list(cluster.pods_folder.iterdir())
        await cluster.event("web", "Killing")


async def test_a_pod_made_again_at_once_is_a_new_one(cluster: Cluster) -> None:
    async with cluster.controllers():
        await cluster.create(pod("web", container(SERVE, 80)))
        first = await cluster.ready_pod("web")
        name = ObjectName("default", "web")
        await cluster.client.delete(POD, name, grace_period_s=0)
        await cluster.create(pod("web", container(SERVE, 80)))

        second = await cluster.ready_pod("web")

        assert second["metadata"]["uid"] != first["metadata"]["uid"]
        running = await process(cluster, "default/web/app")
        assert running["meta"]["uid"] == second["metadata"]["uid"]


async def test_init_containers_run_one_after_the_other_and_first(cluster: Cluster) -> None:
    def step(name: str) -> Object:
        return container(
            ["sh", "-c", f"sleep 0.1; echo {name} >> {cluster.state}/order"], name=name
        )

    app = container(["sh", "-c", f"echo app >> {cluster.state}/order; exec sleep 1000"])
    async with cluster.controllers():
        await cluster.create(pod("web", app, initContainers=[step("one"), step("two")]))

        await cluster.ready_pod("web")

        await eventually(lambda: reads(cluster.state / "order", "one\ntwo\napp\n"), "the order")


@pytest.mark.parametrize(
    ("policy", "code", "phase"),
    [("Never", 0, "Succeeded"), ("OnFailure", 0, "Succeeded"), ("Never", 3, "Failed")],
)
async def test_a_pod_that_is_not_restarted_comes_to_an_end(
    cluster: Cluster, policy: str, code: int, phase: str
) -> None:
    async with cluster.controllers():
        await cluster.create(
            pod("job", container(["sh", "-c", f"exit {code}"]), restartPolicy=policy)
        )

        found = await cluster.phase("job", phase)

        assert status_of(found)["state"]["terminated"]["exitCode"] == code
        await eventually(lambda: no_processes(cluster), "nothing is left", cluster.explain)


async def test_a_readiness_probe_decides_who_gets_requests(cluster: Cluster) -> None:
    probe = {"httpGet": {"path": "/ready", "port": 80}, "periodSeconds": 1}
    folder = cluster.state / "site"
    folder.mkdir()
    serve = container(SERVE, 80, readinessProbe=probe, workingDir=str(folder))
    async with cluster.controllers():
        await cluster.create(pod("web", serve), service("web", 80, 80))
        text = "Readiness probe failed: HTTP probe failed with statuscode: 404"
        await cluster.event("web", "Unhealthy", text)
        await slices(cluster, "web", ready=False)

        (folder / "ready").touch()

        await cluster.ready_pod("web")
        await slices(cluster, "web", ready=True)


async def test_a_liveness_probe_restarts(cluster: Cluster) -> None:
    probe = {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1}
    async with cluster.controllers():
        await cluster.create(pod("web", container(SLEEP, livenessProbe=probe)))

        async def restarted() -> bool:
            return bool(status_of(await cluster.pod("web"))["restartCount"])

        await eventually(restarted, "it is restarted", cluster.explain)
        event = await cluster.event("web", "Killing")
        assert event["message"] == "Container app failed liveness probe, will be restarted"


async def test_what_a_process_cannot_have_is_said(cluster: Cluster) -> None:
    mount = {"name": "data", "mountPath": "/data"}
    given = pod("web", container(SLEEP, volumeMounts=[mount]))
    given["spec"]["volumes"] = [{"name": "data", "emptyDir": {}}]
    async with cluster.controllers():
        await cluster.create(given)
        await cluster.ready_pod("web")

        await cluster.event("web", "FieldIgnored")


async def test_a_service_finds_pods_by_the_name_of_their_port(cluster: Cluster) -> None:
    serve = container(SERVE)
    serve["ports"] = [{"name": "web", "containerPort": 8000}]
    async with cluster.controllers():
        await cluster.create(service("web", 80, "web"), pod("web", serve))
        found = await cluster.ready_pod("web")

        (piece,) = await slices(cluster, "web", ready=True)

        (place,) = json.loads(found["metadata"]["annotations"]["apirule.local/ports"])
        assert piece["ports"] == [
            {"name": "", "port": int(place["app"].rpartition(":")[2]), "protocol": "TCP"}
        ]
        assert piece["endpoints"][0]["targetRef"]["name"] == "web"
        await cluster.client.delete(SERVICE, ObjectName("default", "web"))
        await eventually(lambda: no_slices(cluster, "web"), "its slice goes", cluster.explain)


async def test_a_rollout_replaces_all_pods_and_can_be_undone(cluster: Cluster) -> None:
    def kubectl(*arguments: str) -> Awaitable[str]:
        return anyio.to_thread.run_sync(lambda: cluster.kubectl(*arguments))

    async with cluster.controllers():
        template = {"containers": [container(SERVE, 80)]}
        await cluster.create(deployment("web", template, replicas=2), service("web", 80, 80))
        await kubectl("rollout", "status", "deployment/web", "--timeout=20s")
        old = {p["metadata"]["uid"] for p in await cluster.pods("app=web")}
        assert len(old) == 2

        await kubectl("set", "env", "deployment/web", "COLOR=blue")
        await kubectl("rollout", "status", "deployment/web", "--timeout=20s")
        await cluster.rolled_out("web")
        new = {p["metadata"]["uid"] for p in await cluster.pods("app=web") if is_ready(p)}
        assert len(new) == 2
        assert not new & old

        await kubectl("rollout", "undo", "deployment/web")
        await kubectl("rollout", "status", "deployment/web", "--timeout=20s")
        found = await cluster.rolled_out("web")
        assert found["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3"
        assert {c["type"]: c["status"] for c in found["status"]["conditions"]} == {
            "Available": "True",
            "Progressing": "True",
        }

        await kubectl("scale", "deployment/web", "--replicas=1")
        await cluster.rolled_out("web")
        await kubectl("delete", "deployment", "web")
        await eventually(lambda: no_processes(cluster), "all is gone", cluster.explain)


async def test_recreate_ends_the_old_pod_first(cluster: Cluster) -> None:
    number = free_port()
    web = objects_for(
        "web",
        "default",
        port=number,
        service_port=80,
        argv=[*SERVE[:-1], str(number)],
        cwd=str(cluster.state),
        env={"PRICE": "$(5)"},
        sidecar=False,
    )
    async with cluster.controllers():
        await cluster.create(*web)
        await cluster.rolled_out("web")
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{number}/") as answer,
        ):
            assert "api.db" in await answer.text()
        (piece,) = await slices(cluster, "web", ready=True)
        assert piece["ports"][0]["port"] == number
        (first,) = await cluster.pods("app=web")
        environment = await app_environment(cluster, f"default/{first['metadata']['name']}/web")
        assert environment["PRICE"] == "$(5)"

        await cluster.client.patch(
            DEPLOYMENT,
            ObjectName("default", "web"),
            {"spec": {"template": {"metadata": {"annotations": {"again": "1"}}}}},
        )

        await cluster.rolled_out("web")
        (second,) = await cluster.pods("app=web")
        assert second["metadata"]["uid"] != first["metadata"]["uid"]


async def test_a_replica_set_replaces_a_deleted_pod(cluster: Cluster) -> None:
    async with cluster.controllers():
        await cluster.create(deployment("web", {"containers": [container(SLEEP)]}, replicas=3))
        await cluster.rolled_out("web")
        before = await cluster.pods("app=web")
        assert len(before) == 3

        await cluster.client.delete(
            POD, ObjectName("default", before[0]["metadata"]["name"]), grace_period_s=0
        )

        async def replaced() -> bool:
            pods = [p for p in await cluster.pods("app=web") if is_ready(p)]
            return len(pods) == 3 and before[0]["metadata"]["uid"] not in {
                p["metadata"]["uid"] for p in pods
            }

        await eventually(replaced, "there are three again", cluster.explain)


async def test_kubectl_shows_logs_of_this_run_and_the_one_before(cluster: Cluster) -> None:
    async with cluster.controllers():
        await cluster.create(pod("web", container(["sh", "-c", "echo $$$$; exec sleep 1000"])))
        await cluster.ready_pod("web")
        first = await process(cluster, "default/web/app")
        os.kill(first["pid"], signal.SIGKILL)

        async def second() -> Object | None:
            found = await process(cluster, "default/web/app")
            return found if found["pid"] not in (0, first["pid"]) else None

        again = await eventually(second, "it runs again", cluster.explain)
        await eventually(
            lambda: reads(cluster.pods_folder / "default_web" / "app.log", f"{again['pid']}\n"),
            "it wrote its pid",
        )

        assert await logs(cluster, "web") == f"{again['pid']}\n"
        assert await logs(cluster, "web", "--previous") == f"{first['pid']}\n"


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
