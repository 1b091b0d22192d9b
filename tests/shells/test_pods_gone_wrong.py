"""Pods that nobody would accept today: they are told what is wrong, and all others go on."""

from typing import Any

import pytest
from tests.shells.pods_run import (
    POD,
    SERVE,
    SLEEP,
    Cluster,
    Object,
    container,
    is_ready,
    pod,
    service,
    status_of,
)

from apirule.names import ObjectName


def bare(**spec: Any) -> Object:
    metadata = {"name": "bad", "namespace": "default", "labels": {"app": "web"}}
    given = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
    return {**given, "spec": spec} if spec else given


def named(name: str) -> Object:
    return pod("bad", {"name": name, "image": "example/app", "command": SLEEP})


def with_ports(ports: Any) -> Object:
    return pod("bad", {"name": "app", "image": "example/app", "command": SLEEP, "ports": ports})


@pytest.mark.parametrize(
    ("bad", "reason", "message"),
    [
        (bare(), "FailedScheduling", "The Pod has no containers"),
        (bare(restartPolicy="Never"), "FailedScheduling", "The Pod has no containers"),
        (named("../../x"), "FailedScheduling", '"../../x" cannot be the name of a container'),
        (pod("bad", {"image": "example/app"}), "FailedScheduling", '"" cannot be the name'),
        (with_ports("none"), "FailedSync", "Expected `array`, got `str`"),
    ],
    ids=[
        "no spec",
        "no containers",
        "a name that leads out of the folder",
        "no name",
        "ports that are no list",
    ],
)
async def test_a_pod_of_an_old_database_holds_up_nobody_and_can_be_deleted(
    cluster: Cluster, bad: Object, reason: str, message: str
) -> None:
    cluster.put(bad)
    async with cluster.controllers():
        await cluster.create(service("web", 80, 80), pod("web", container(SERVE, 80)))

        await cluster.event("bad", reason, message)

        await cluster.ready_pod("web")
        assert not is_ready(await cluster.pod("bad"))
        assert [p["name"] for p in await cluster.supervisor.list()] == ["default/web/app"]
        assert [folder.name for folder in cluster.pods_folder.iterdir()] == ["default_web"]
        await cluster.client.delete(POD, ObjectName("default", "bad"))
        await cluster.gone("bad")


async def test_a_port_that_a_probe_names_and_no_container_has_is_a_failed_probe(
    cluster: Cluster,
) -> None:
    probe = {"tcpSocket": {"port": "http"}, "periodSeconds": 1}
    async with cluster.controllers():
        await cluster.create(pod("bad", container(SLEEP, readinessProbe=probe)))
        text = 'Readiness probe failed: no port of container app is named "http"'
        await cluster.event("bad", "Unhealthy", text)
        await cluster.create(pod("web", container(SERVE, 80)))

        await cluster.ready_pod("web")

        bad = await cluster.pod("bad")
        assert "running" in status_of(bad)["state"]
        assert not is_ready(bad)
