"""Probes of real programs: who gets requests, who is restarted, and when."""

import json
import sys

import anyio
import pytest
from ports import free_ports
from tests.shells.pods_run import (
    SERVE,
    SLEEP,
    Cluster,
    Object,
    container,
    ended,
    eventually,
    pod,
    service,
    slices,
    status_of,
)

from apirule.local.processes import prober


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


@pytest.mark.parametrize("kind", ["liveness", "startup"])
async def test_a_failed_probe_restarts_later_and_later(cluster: Cluster, kind: str) -> None:
    probe = {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1}
    async with cluster.controllers():
        await cluster.create(pod("web", container(SLEEP, **{f"{kind}Probe": probe})))

        async def loops() -> bool:
            status = status_of(await cluster.pod("web"))
            waiting = status["state"].get("waiting") or {}
            return waiting.get("reason") == "CrashLoopBackOff" and status["restartCount"] >= 2

        await eventually(loops, "it crash-loops", cluster.explain)
        event = await cluster.event("web", "Killing")
        assert event["message"] == f"Container app failed {kind} probe, will be restarted"
        await cluster.event("web", "BackOff")


async def test_a_failed_probe_ends_a_pod_that_is_never_restarted(cluster: Cluster) -> None:
    probe = {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1}
    async with cluster.controllers():
        await cluster.create(
            pod("web", container(SLEEP, livenessProbe=probe), restartPolicy="Never")
        )

        await cluster.phase("web", "Failed")


async def test_a_command_that_takes_too_long_is_ended_with_all_it_has_started(
    cluster: Cluster,
) -> None:
    script = f"setsid sleep 1000 & echo $! >> {cluster.state}/pids; sleep 1000"
    probe = {"exec": {"command": ["sh", "-c", script]}, "periodSeconds": 1}
    async with cluster.controllers():
        await cluster.create(pod("web", container(SLEEP, readinessProbe=probe)))

        await cluster.event("web", "Unhealthy", "no answer within 1s")

        pids = anyio.Path(cluster.state / "pids")
        await eventually(pids.exists, "it has started something")
        first = int((await pids.read_text()).split()[0])
        await eventually(lambda: ended(first), "what it started ends", cluster.explain)


async def test_a_command_runs_where_and_as_its_program_does(cluster: Cluster) -> None:
    check = "test $GREETING = hello && test $(pwd) = /usr && test -n $PORT"
    given = container(
        SERVE,
        80,
        env=[{"name": "GREETING", "value": "hello"}],
        workingDir="/usr",
        readinessProbe={"exec": {"command": ["sh", "-c", check]}, "periodSeconds": 1},
    )
    async with cluster.controllers():
        await cluster.create(pod("web", given))

        await cluster.ready_pod("web")


async def test_a_program_that_listens_elsewhere_is_told_where_it_is_expected(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prober, "EXPECTED_WITHIN_S", 1.0)
    number = free_ports(1)[0]
    async with cluster.controllers():
        # How long it takes to listen at all is a matter of the machine.
        probe = {"tcpSocket": {"port": number}, "periodSeconds": 1, "failureThreshold": 60}
        serve = [*SERVE[:-1], str(number)]
        await cluster.create(pod("web", container(serve, 80, startupProbe=probe)))

        event = await cluster.event("web", "NotListening", f"listens on 127.0.0.1:{number};")

        (place,) = json.loads(
            (await cluster.pod("web"))["metadata"]["annotations"]["apirule.local/ports"]
        )
        assert f"its port 80 is expected on {place['app']}" in event["message"]


@pytest.mark.parametrize("probe", [{}, {"readinessProbe": {"tcpSocket": {"port": 80}}}])
async def test_a_program_that_other_machines_can_reach_is_warned_of(
    cluster: Cluster, probe: Object
) -> None:
    serve = [sys.executable, "-m", "http.server", "$(PORT)"]
    async with cluster.controllers():
        await cluster.create(pod("web", container(serve, 80, **probe)))

        event = await cluster.event("web", "OpenToOtherMachines")

        assert "around its sidecar and all policies" in event["message"]
        assert "Let it listen on 127.0.0.1" in event["message"]
