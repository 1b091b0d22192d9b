"""The controller of the Istio resource, and the rules that wait for what it writes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
import yaml
from tests.unit.controllers.fake_cluster import FakeCluster

from apirule.apis import core
from apirule.apis.meta import Object
from apirule.apis.operator import Istio
from apirule.controllers.authorizers import AuthorizerController
from apirule.kube.client import Client
from apirule.kube.informer import Informers
from apirule.names import ObjectName

CONFIG_MAP = ObjectName("istio-system", "istio")


def istio(name: str = "default", *names: str, **spec: Any) -> Object:
    authorizers = [{"name": n, "service": "gate.auth", "port": 80} for n in names]
    return {
        "apiVersion": "operator.kyma-project.io/v1alpha2",
        "kind": "Istio",
        "metadata": {
            "name": name,
            "namespace": "kyma-system",
            "creationTimestamp": f"2026-01-0{1 + (name != 'default')}T00:00:00Z",
        },
        "spec": {"config": {"authorizers": authorizers}, **spec},
    }


class Mesh:
    def __init__(self, cluster: FakeCluster, client: Client) -> None:
        self.cluster = cluster
        self.client = client

    def providers(self) -> list[str]:
        obj = self.cluster.objects.get(("configmaps", *CONFIG_MAP))
        mesh = yaml.safe_load(obj["data"]["mesh"]) if obj else {}
        return [one["name"] for one in mesh.get("extensionProviders", [])]

    def status(self, name: str = "default") -> Object:
        obj = self.cluster.objects["istios", "kyma-system", name]
        return obj.get("status") or {}

    async def until(self, *names: str, state: str = "Ready", of: str = "default") -> None:
        with anyio.fail_after(15):
            while self.providers() != list(names) or self.status(of).get("state") != state:
                await self.cluster.changed()


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    async with FakeCluster().serve() as cluster, running(cluster) as mesh:
        yield mesh


@asynccontextmanager
async def running(cluster: FakeCluster) -> AsyncIterator[Mesh]:
    async with Client(cluster.config) as client, anyio.create_task_group() as tasks:
        informers = Informers(client)
        controller = AuthorizerController(
            client, informers, now=lambda: datetime(2026, 1, 2, tzinfo=UTC)
        )
        await tasks.start(informers.run)
        await tasks.start(controller.run)
        yield Mesh(cluster, client)
        tasks.cancel_scope.cancel()


async def test_authorizers_come_change_and_go(mesh: Mesh) -> None:
    obj = await mesh.client.create(istio("default", "a", "b"))
    await mesh.until("a", "b")

    obj = await mesh.client.get(Istio.gvk, ObjectName("kyma-system", "default"))
    obj["spec"]["config"]["authorizers"].pop()
    await mesh.client.update(obj)
    await mesh.until("a")

    await mesh.client.delete(Istio.gvk, ObjectName("kyma-system", "default"))
    with anyio.fail_after(15):
        while mesh.providers():
            await mesh.cluster.changed()


async def test_the_status_says_which_generation_it_is_about(mesh: Mesh) -> None:
    await mesh.client.create(istio("default", "a"))
    await mesh.until("a")

    status = mesh.status()
    assert status["observedGeneration"] == 1
    assert [(c["type"], c["status"]) for c in status["conditions"]] == [("Ready", "True")]


async def test_an_entry_that_somebody_removed_comes_back(mesh: Mesh) -> None:
    await mesh.client.create(istio("default", "a"))
    await mesh.until("a")

    obj = await mesh.client.get(core.ConfigMap.gvk, CONFIG_MAP)
    await mesh.client.update({**obj, "data": {"mesh": "extensionProviders: []"}})

    await mesh.until("a")


async def test_a_second_resource_is_told_that_it_does_not_count(mesh: Mesh) -> None:
    await mesh.client.create(istio("default", "a"))
    await mesh.client.create(istio("second", "b"))

    await mesh.until("a", state="Warning", of="second")

    assert "kyma-system/default" in mesh.status("second")["description"]


async def test_a_field_without_effect_is_a_warning_and_the_rest_counts(mesh: Mesh) -> None:
    await mesh.client.create(istio("default", "a", components={}))

    await mesh.until("a", state="Warning")

    assert "spec.components" in mesh.status()["description"]


async def test_a_mistake_is_an_error_and_changes_nothing(mesh: Mesh) -> None:
    await mesh.client.create(istio("default", "a", "a"))

    await mesh.until(state="Error")

    assert "spec.config.authorizers[1].name" in mesh.status()["description"]
