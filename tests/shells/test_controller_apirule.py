"""The APIRule controller against our own API server, with an engine that says it has everything."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio
import pytest
from tests.shells.conftest import RunningApiServer
from tests.unit.controllers.scenario import OWNED, RULE, Engine, Shop, rule, world

from apirule.apis import core, security
from apirule.apis.gateway import v2
from apirule.apis.meta import Object
from apirule.controllers.apirule import FINALIZER, APIRuleController
from apirule.kube.client import Client
from apirule.kube.config import KubeConfig
from apirule.kube.informer import Informers, name_of
from apirule.names import ObjectName


@dataclass
class Running:
    server: RunningApiServer
    shop: Shop


@pytest.fixture
async def it(api_server: RunningApiServer) -> AsyncIterator[Running]:
    config = KubeConfig.load(api_server.kubeconfig)
    async with Client(config) as client, anyio.create_task_group() as tasks:
        for obj in world():
            if obj["metadata"]["name"] != "kyma-system":
                await client.create(obj)
        informers = Informers(client)
        controller = APIRuleController(
            client,
            informers,
            now=lambda: datetime(2026, 1, 2, tzinfo=UTC),
            base_delay_s=0.05,
        )
        shop, engine = Shop(client, informers), Engine(client, informers)
        await tasks.start(informers.run)
        await tasks.start(controller.run)
        tasks.start_soon(engine.run)
        yield Running(api_server, shop)
        tasks.cancel_scope.cancel()


async def owned(shop: Shop) -> list[Object]:
    return [obj for kind in OWNED for obj in await shop.all(kind)]


async def test_a_rule_becomes_ready_changes_and_goes(it: Running) -> None:
    await it.shop.create(rule())
    ready = await it.shop.until_state("Ready")
    made = await owned(it.shop)

    def move(obj: Object) -> None:
        obj["spec"]["rules"][1]["path"] = "/healthz"

    await it.shop.edit(v2.APIRule.gvk, RULE, move)
    moved = await it.shop.until_state("Ready")
    changed = await owned(it.shop)
    await it.shop.client.delete(v2.APIRule.gvk, RULE)

    async def gone() -> bool:
        return (await it.shop.client.list(v2.APIRule.gvk)).items == []

    await it.shop.eventually(gone)

    assert ready["metadata"]["finalizers"] == [FINALIZER]
    assert ready["status"]["observedGeneration"] == 1
    assert moved["status"]["observedGeneration"] == 2
    assert [obj["kind"] for obj in made] == [obj["kind"] for obj in changed]
    assert {name_of(obj) for obj in made} != {name_of(obj) for obj in changed}
    assert await owned(it.shop) == []


async def test_a_status_that_stands_is_not_written_again(it: Running) -> None:
    await it.shop.create(rule())
    ready = await it.shop.until_state("Ready")

    # A second rule comes and goes through the same queue, so the first one had its turns.
    other = rule(hosts=["second.example.localhost"])
    other["metadata"]["name"] = "second"
    await it.shop.create(other)
    await it.shop.until_state("Ready", ObjectName("shop", "second"))

    assert (await it.shop.read())["metadata"]["resourceVersion"] == (
        ready["metadata"]["resourceVersion"]
    )


async def test_a_broken_update_is_told_and_leaves_the_old_form_in_place(it: Running) -> None:
    await it.shop.create(rule())
    await it.shop.until_state("Ready")
    before = [obj["metadata"]["resourceVersion"] for obj in await owned(it.shop)]

    def break_it(obj: Object) -> None:
        obj["spec"]["gateway"] = "kyma-system/missing"

    await it.shop.edit(v2.APIRule.gvk, RULE, break_it)
    broken = await it.shop.until_state("Error")
    after = [obj["metadata"]["resourceVersion"] for obj in await owned(it.shop)]

    assert broken["status"]["description"] == (
        "Validation errors: Attribute 'spec.gateway': Could not get specified Gateway"
    )
    assert after == before


async def test_what_a_hand_changes_is_repaired(it: Running) -> None:
    await it.shop.create(rule())
    await it.shop.until_state("Ready")
    [policy, *_] = await it.shop.all(security.AuthorizationPolicy)

    def open_it(obj: Object) -> None:
        obj["spec"]["rules"] = [{}]

    await it.shop.edit(security.AuthorizationPolicy.gvk, name_of(policy), open_it)

    async def repaired() -> bool:
        one = await it.shop.client.get(security.AuthorizationPolicy.gvk, name_of(policy))
        return bool(one["spec"] == policy["spec"])

    await it.shop.eventually(repaired)


async def test_a_service_that_comes_later_makes_the_rule_ready(it: Running) -> None:
    await it.shop.client.delete(core.Service.gvk, RULE)
    await it.shop.create(rule())
    lacking = await it.shop.until_state("Error")
    [service] = [obj for obj in world() if obj["kind"] == "Service"]

    await it.shop.create(service)
    await it.shop.until_state("Ready")

    assert 'Service "orders" not found' in lacking["status"]["description"]


@pytest.mark.kubectl
async def test_kubectl_shows_the_state_and_the_events(it: Running) -> None:
    await it.shop.create(rule())
    await it.shop.until_state("Ready")
    base = ["kubectl", "--kubeconfig", str(it.server.kubeconfig), "-n", "shop"]

    done = await anyio.run_process([*base, "get", "apirule", "orders", "-o", "json"])
    waited = await anyio.run_process(
        [*base, "wait", "--for=condition=Ready", "--timeout=10s", "apirule/orders"]
    )
    events = await anyio.run_process([*base, "get", "events", "-o", "jsonpath={.items[*].reason}"])

    assert json.loads(done.stdout)["status"]["state"] == "Ready"
    assert b"condition met" in waited.stdout
    assert events.stdout.split() == [b"Reconciled"]
