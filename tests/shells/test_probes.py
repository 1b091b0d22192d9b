"""Probes of real programs: who gets requests, who is restarted, and when."""

from tests.shells.pods_run import (
    SERVE,
    SLEEP,
    Cluster,
    container,
    eventually,
    pod,
    service,
    slices,
    status_of,
)


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
