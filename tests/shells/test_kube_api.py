"""The client runtime against our own API server, over TLS with a client certificate."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import anyio
import pytest
from tests.shells.conftest import RunningApiServer
from tests.unit.controllers.scenario import rule
from tests.unit.kube.seen import Seen

from apirule.apis import core
from apirule.apis.gateway import v2
from apirule.apis.meta import GroupVersionKind, Object
from apirule.kube import informer as informer_module
from apirule.kube.client import Client
from apirule.kube.config import KubeConfig
from apirule.kube.errors import AlreadyExists, Conflict, Invalid, NoKindMatch, NotFound
from apirule.kube.events import EVENT, EventRecorder
from apirule.kube.informer import Informer
from apirule.kube.lease import LEASE, LeaderElection
from apirule.names import ObjectName

CONFIG_MAP = core.ConfigMap.gvk
NAME = ObjectName("default", "settings")


@pytest.fixture
async def client(api_server: RunningApiServer) -> AsyncIterator[Client]:
    async with Client(KubeConfig.load(api_server.kubeconfig)) as client:
        yield client


def config_map(name: str = "settings", **data: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": "default", "name": name},
        "data": data,
    }


async def test_every_verb_works(client: Client) -> None:
    made = await client.create(config_map(a="1"))
    patched = await client.patch(CONFIG_MAP, NAME, {"data": {"b": "2"}})
    replaced = await client.update({**patched, "data": {"c": "3"}})
    applied = await client.apply(config_map(d="4"), field_manager="other")
    read = await client.get(CONFIG_MAP, NAME)
    await client.delete(CONFIG_MAP, NAME, uid=made["metadata"]["uid"])

    assert patched["data"] == {"a": "1", "b": "2"}
    assert replaced["data"] == {"c": "3"}
    assert applied["data"] == {"c": "3", "d": "4"}
    assert read["metadata"]["uid"] == made["metadata"]["uid"]
    with pytest.raises(NotFound):
        await client.get(CONFIG_MAP, NAME)


async def test_refusals_have_their_kind(client: Client) -> None:
    made = await client.create(config_map())
    await client.patch(CONFIG_MAP, NAME, {"data": {"a": "1"}})

    with pytest.raises(AlreadyExists):
        await client.create(config_map())
    with pytest.raises(Conflict):
        await client.update(made)
    with pytest.raises(Conflict):
        await client.delete(CONFIG_MAP, NAME, uid="another")
    with pytest.raises(NoKindMatch):
        await client.list(GroupVersionKind("example.org", "v1", "Thing"))
    with pytest.raises(Invalid) as caught:
        await client.create(rule(hosts=[]) | {"metadata": {"name": "x", "namespace": "default"}})
    assert any(cause["field"].startswith("spec.hosts") for cause in caught.value.causes)


async def test_a_long_list_comes_in_pages_of_one_moment(
    api_server: RunningApiServer, client: Client
) -> None:
    api_server.create(*(config_map(f"c{index:03}") for index in range(25)))

    listing = await client.list(CONFIG_MAP, "default", page_size=10)

    names = [obj["metadata"]["name"] for obj in listing.items]
    assert names == [f"c{index:03}" for index in range(25)]
    assert listing.items[0]["kind"] == "ConfigMap"


async def test_an_informer_follows_the_server(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(informer_module, "FIRST_DELAY_S", 0.01)
    await client.create(config_map("first"))
    informer, seen = Informer(client, CONFIG_MAP, namespace="default"), Seen()
    informer.add_handler(seen)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(informer.run)
        await seen.until(lambda: seen.deltas == [("new", "first")])

        await client.create(config_map("second"))
        await client.patch(CONFIG_MAP, ObjectName("default", "first"), {"data": {"a": "1"}})
        await client.delete(CONFIG_MAP, ObjectName("default", "second"))
        await seen.until(lambda: len(seen.deltas) == 4)
        tasks.cancel_scope.cancel()

    assert seen.deltas[1:] == [("new", "second"), ("changed", "first"), ("gone", "second")]


async def test_status_is_written_apart_from_the_spec(client: Client) -> None:
    obj = rule()
    obj["metadata"]["namespace"] = "default"
    made = await client.create(obj)
    name = ObjectName("default", "orders")

    told = await client.patch_status(v2.APIRule.gvk, name, {"state": "Ready"})

    assert told["status"]["state"] == "Ready"
    assert told["metadata"]["generation"] == made["metadata"]["generation"]


async def test_a_lease_and_events_are_kept_by_the_server(client: Client) -> None:
    def now() -> datetime:
        return datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    lease = ObjectName("kyma-system", "apirule")
    held: list[str] = []

    async def work() -> None:
        held.append((await client.get(LEASE, lease))["spec"]["holderIdentity"])
        obj = await client.create(config_map())
        events = EventRecorder(client, "test", now=now)
        await events.normal(obj, "Made", "It is there")
        await events.normal(obj, "Made", "It is there")

    election = LeaderElection(
        client,
        lease,
        "one",
        now=now,
        lease_duration_s=30.0,
        renew_deadline_s=20.0,
        retry_period_s=0.1,
    )
    with anyio.fail_after(20):
        await election.run(work)

    [event] = (await client.list(EVENT, "default")).items
    assert held == ["one"]
    assert (event["reason"], event["count"]) == ("Made", 2)
    assert event["involvedObject"]["name"] == "settings"
