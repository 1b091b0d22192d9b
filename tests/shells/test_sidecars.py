"""Sidecars: an Envoy, or an init container that stays; who starts first, and who ends last."""

import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from ports import free_ports
from tests.shells.pods_run import (
    POD,
    SERVE,
    SLEEP,
    Cluster,
    Object,
    app_environment,
    container,
    eventually,
    is_ready,
    no_processes,
    now,
    pod,
    process,
    reads,
    service,
    slices,
    status_of,
)

from apirule.local.ca import CertificateAuthority
from apirule.local.processes import kubelet
from apirule.local.xds.accesslog import DenialLog
from apirule.local.xds.engine import Engine
from apirule.local.xds.server import XdsServer
from apirule.names import ObjectName

WEB = ObjectName("mesh", "web")
WAIT = "while :; do sleep 0.05; done"


@asynccontextmanager
async def mesh(cluster: Cluster) -> AsyncIterator[None]:
    """Controllers, and the engine that gives proxies their configuration."""
    authority = CertificateAuthority.open(cluster.state / "pki", clock=now)
    engine = Engine(cluster.store, authority, cluster.client, clock=now)
    server = XdsServer(cluster.state / "run" / "xds.sock", engine.fleet, DenialLog(lambda _: None))
    # A mesh with nothing to call at all is none.
    await cluster.create(service("orders", 80, 80))
    async with cluster.controllers() as tasks:
        await tasks.start(server.run)
        await tasks.start(engine.run)
        yield


@pytest.mark.envoy
async def test_a_sidecar_is_an_envoy_with_ports_of_its_own(cluster: Cluster) -> None:
    async with cluster.controllers(proxy_within_s=60):
        await cluster.client.create(pod("web", container(SERVE, 80), namespace="mesh"))
        found = await eventually(lambda: running(cluster, "istio-proxy"), "it runs")

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
        # Without an engine it has no configuration: nobody may call, and nobody is called.
        found = await cluster.client.get(POD, WEB)
        assert not is_ready(found)
        assert not status_of(found, "istio-proxy")["ready"]
        assert status_of(found)["state"] == {"waiting": {"reason": "PodInitializing"}}


@pytest.mark.envoy
async def test_a_program_does_not_wait_for_ever_for_its_proxy(cluster: Cluster) -> None:
    async with cluster.controllers(proxy_within_s=0.5):
        await cluster.client.create(pod("web", container(SERVE, 80), namespace="mesh"))

        found = await eventually(lambda: running(cluster, "app", "istio-proxy"), "both run")

        event = await cluster.event("web", "ProxyNotReady", namespace="mesh")
        assert "container app starts without it" in event["message"]
        environment = await app_environment(cluster, "mesh/web/app")
        outbound = found["metadata"]["annotations"]["apirule.local/outbound"]
        assert environment["http_proxy"].endswith(outbound)
        await cluster.client.delete(POD, WEB)
        await eventually(lambda: no_processes(cluster), "all processes end", cluster.explain)


@pytest.mark.envoy
async def test_a_pod_is_ready_when_its_sidecar_has_its_configuration(cluster: Cluster) -> None:
    image = {"name": "app", "image": "kennethreitz/httpbin"}
    async with mesh(cluster):
        await cluster.client.create(pod("web", image, namespace="mesh"))

        async def ready() -> Object | None:
            found = await cluster.client.get(POD, WEB)
            return found if is_ready(found) else None

        found = await eventually(ready, "it is ready", cluster.explain)

        (place,) = json.loads(found["metadata"]["annotations"]["apirule.local/ports"])
        with socket.create_connection(("127.0.0.1", place["sidecar"])):
            pass


@pytest.mark.envoy
async def test_the_first_call_of_a_program_finds_its_proxy_and_its_end_ends_the_pod(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubelet, "REMOVED_GRACE_S", 20.0)  # killed, it would not be Completed
    curl = {"name": "app", "image": "curlimages/curl", "args": ["-sS", "http://nobody.example/"]}
    first = {**curl, "name": "first"}
    once = pod("web", curl, namespace="mesh", restartPolicy="Never", initContainers=[first])
    async with mesh(cluster):
        await cluster.client.create(once)

        async def succeeded() -> Object | None:
            found = await cluster.client.get(POD, WEB)
            done = found["status"].get("phase") == "Succeeded"
            return found if done and "terminated" in proxy_state(found) else None

        found = await eventually(succeeded, "it has succeeded", cluster.explain)

        assert proxy_state(found)["terminated"]["reason"] == "Completed"
        assert status_of(found)["state"]["terminated"]["exitCode"] == 0
        assert found["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 0
        await eventually(lambda: no_processes(cluster), "nothing is left", cluster.explain)


@pytest.mark.envoy
async def test_the_last_call_of_a_program_finds_its_proxy(cluster: Cluster) -> None:
    last = "curl -s -o /dev/null -w %{http_code} http://nobody.example/ > "
    trap = f"trap '{last}{cluster.state}/last; exit 0' TERM; echo > {cluster.state}/set"
    script = f"{trap}; {WAIT}"
    async with mesh(cluster):
        await cluster.client.create(pod("web", container(["sh", "-c", script]), namespace="mesh"))
        await eventually(lambda: running(cluster, "app", "istio-proxy"), "both run")
        await eventually(lambda: reads(cluster.state / "set", "\n"), "it has set its trap")

        await cluster.client.delete(POD, WEB)

        await eventually(lambda: no_processes(cluster), "all processes end", cluster.explain)
        assert (cluster.state / "last").read_text() == "404"


async def test_an_init_container_can_be_a_sidecar(cluster: Cluster) -> None:
    def note(word: str) -> list[str]:
        trap = f"trap 'echo {word} ends >> {cluster.state}/order; exit 0' TERM"
        return ["sh", "-c", f"{trap}; echo {word} >> {cluster.state}/order; {WAIT}"]

    begun = {"exec": {"command": ["grep", "logs", f"{cluster.state}/order"]}, "periodSeconds": 1}
    logs = container(note("logs"), name="logs", restartPolicy="Always", startupProbe=begun)
    step = container(["sh", "-c", f"echo step >> {cluster.state}/order"], name="step")
    given = pod("web", container(note("app")), initContainers=[logs, step])
    async with cluster.controllers():
        await cluster.create(given)
        found = await cluster.ready_pod("web")
        order = cluster.state / "order"
        await eventually(lambda: reads(order, "logs\nstep\napp\n"), "the order of the start")
        first, second = found["status"]["initContainerStatuses"]
        assert (first["started"], first["ready"]) == (True, True)
        assert "running" in first["state"]
        assert second["state"]["terminated"]["exitCode"] == 0
        os.kill((await process(cluster, "default/web/logs"))["pid"], signal.SIGKILL)

        async def back() -> bool:
            again = await cluster.pod("web")
            return (
                is_ready(again) and again["status"]["initContainerStatuses"][0]["restartCount"] == 1
            )

        await eventually(back, "it is restarted like any other", cluster.explain)
        await eventually(lambda: reads(order, "logs\nstep\napp\nlogs\n"), "it is well again")
        await cluster.client.delete(POD, ObjectName("default", "web"))
        await cluster.gone("web")

        assert order.read_text() == "logs\nstep\napp\nlogs\napp ends\nlogs ends\n"


async def test_a_sidecar_does_not_keep_a_pod_from_its_end(cluster: Cluster) -> None:
    logs = container(SLEEP, name="logs", restartPolicy="Always")
    once = pod("web", container(["true"]), restartPolicy="Never", initContainers=[logs])
    async with cluster.controllers():
        await cluster.create(once)

        await cluster.phase("web", "Succeeded")

        await eventually(lambda: no_processes(cluster), "nothing is left", cluster.explain)


async def running(cluster: Cluster, *names: str) -> Object | None:
    """Return the Pod mesh/web if these of its containers run, and no others."""
    found = await cluster.client.get(POD, WEB)
    statuses = found["status"].get("containerStatuses") or []
    return found if [s["name"] for s in statuses if "running" in s["state"]] == [*names] else None


def proxy_state(found: Object) -> Object:
    return dict(status_of(found, "istio-proxy")["state"])


@pytest.mark.envoy
async def test_the_gateway_is_a_pod_too(cluster: Cluster) -> None:
    number = free_ports(1)[0]
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
