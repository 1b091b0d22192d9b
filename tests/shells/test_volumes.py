"""Volumes of real Pods: files where a program is told, or a word about where they are."""

from typing import Any

import pytest
from tests.shells.pods_run import (
    CONFIG_MAP,
    POD,
    SLEEP,
    Cluster,
    Object,
    container,
    eventually,
    logs,
    pod,
    process,
    reads,
    status_of,
)

from apirule.names import ObjectName

CONFIG = {"name": "config", "configMap": {"name": "settings"}}
MOUNT = {"name": "config", "mountPath": "/etc/app"}


def settings(word: str) -> Object:
    metadata = {"name": "settings", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"word": word}}


def reader(*command: str, **more: Any) -> Object:
    return pod("web", container([*command], volumeMounts=[MOUNT], **more), volumes=[CONFIG])


async def test_a_program_reads_the_files_of_its_volumes_where_it_is_told(cluster: Cluster) -> None:
    script = "cat /etc/app/word; cat $FILE; cat word; cat $VOLUME_CONFIG/word; exec sleep 1000"
    variable = {"name": "FILE", "value": "/etc/app/word"}
    async with cluster.controllers():
        await cluster.create(settings("hello "))
        await cluster.create(reader("sh", "-c", script, env=[variable], workingDir="/etc/app"))
        await cluster.ready_pod("web")

        async def printed() -> bool:
            return await logs(cluster, "web") == "hello " * 4

        await eventually(printed, "all four are read", cluster.explain)
        name = ObjectName("default", "settings")
        await cluster.client.patch(CONFIG_MAP, name, {"data": {"word": "bye"}})

        file = cluster.pods_folder / "default_web" / "volumes" / "config" / "word"
        await eventually(lambda: reads(file, "bye"), "the file follows", cluster.explain)
        assert status_of(await cluster.pod("web"))["restartCount"] == 0


async def test_a_pod_waits_for_what_is_mounted(cluster: Cluster) -> None:
    async with cluster.controllers():
        await cluster.create(reader("sh", "-c", "cat /etc/app/word; exec sleep 1000"))
        event = await cluster.event("web", "FailedMount")
        assert event["message"] == 'MountVolume.SetUp failed: configmap "settings" not found'
        assert await cluster.supervisor.list() == []

        await cluster.create(settings("hello"))

        await cluster.ready_pod("web")

        async def printed() -> bool:
            return await logs(cluster, "web") == "hello"

        await eventually(printed, "it is read", cluster.explain)


async def test_a_program_goes_on_with_the_files_it_has(cluster: Cluster) -> None:
    async with cluster.controllers():
        await cluster.create(settings("hello"))
        await cluster.create(reader("sh", "-c", "ls /etc/app; exec sleep 1000"))
        await cluster.ready_pod("web")
        first = await process(cluster, "default/web/app")
        await cluster.client.delete(CONFIG_MAP, ObjectName("default", "settings"))
        # Whatever else happens to it is looked at after that.
        await cluster.client.patch(
            POD, ObjectName("default", "web"), {"metadata": {"labels": {"a": "b"}}}
        )
        await cluster.create(pod("later", container(SLEEP)))
        await cluster.ready_pod("later")

        assert (await process(cluster, "default/web/app"))["pid"] == first["pid"]
        file = cluster.pods_folder / "default_web" / "volumes" / "config" / "word"
        assert file.read_text() == "hello"


async def test_a_program_that_is_not_told_of_its_files_is_warned_of(cluster: Cluster) -> None:
    async with cluster.controllers():
        await cluster.create(settings("hello"), reader(*SLEEP))

        event = await cluster.event("web", "MountedElsewhere")

        place = cluster.pods_folder / "default_web" / "volumes" / "config"
        assert (
            f"is not at /etc/app, which belongs to this machine, but at {place}"
            in (event["message"])
        )
        assert "$VOLUME_CONFIG" in event["message"]
        await cluster.ready_pod("web")


async def test_a_folder_is_shared_by_a_pod_and_goes_with_it(cluster: Cluster) -> None:
    mounts = [{"name": "shared", "mountPath": "/shared"}]
    first = container(["sh", "-c", "echo hello > /shared/word"], name="first", volumeMounts=mounts)
    app = container(["sh", "-c", "cat /shared/word; exec sleep 9"], volumeMounts=mounts)
    shared = [{"name": "shared", "emptyDir": {}}]
    async with cluster.controllers():
        await cluster.create(pod("web", app, initContainers=[first], volumes=shared))
        await cluster.ready_pod("web")

        async def printed() -> bool:
            return await logs(cluster, "web") == "hello\n"

        await eventually(printed, "it is read", cluster.explain)
        await cluster.client.delete(POD, ObjectName("default", "web"))
        await cluster.gone("web")

        assert not list(cluster.pods_folder.iterdir())


async def test_a_volume_that_does_not_exist_here_keeps_the_pod_pending(cluster: Cluster) -> None:
    claim = {"name": "config", "persistentVolumeClaim": {"claimName": "data"}}
    async with cluster.controllers():
        await cluster.create(pod("web", container(SLEEP, volumeMounts=[MOUNT]), volumes=[claim]))

        event = await cluster.event("web", "FailedMount")

        assert "persistentVolumeClaim do not exist here: use emptyDir" in event["message"]
        assert await cluster.supervisor.list() == []


@pytest.mark.parametrize("healthy", [True, False])
async def test_a_probe_means_the_files_that_are_mounted(cluster: Cluster, healthy: bool) -> None:
    command = ["cat", "/etc/app/word" if healthy else "/etc/app/none"]
    probe = {"exec": {"command": command}, "periodSeconds": 1}
    async with cluster.controllers():
        await cluster.create(settings("hello"), reader(*SLEEP, readinessProbe=probe))

        if healthy:
            await cluster.ready_pod("web")
        else:
            place = cluster.pods_folder / "default_web" / "volumes" / "config"
            await cluster.event("web", "Unhealthy", f"{place}/none")
