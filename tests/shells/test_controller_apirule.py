"""The APIRule controller against our own API server, with an engine that says it has everything."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
import yaml
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
from apirule.ownership import HASH, LEGACY_OWNER, OWNER_NAME, OWNER_NAMESPACE
from apirule.translate.hashing import policy_hash


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
                await client.create(_as_sent(obj))
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


def _as_sent(obj: Object) -> Object:
    """Leave the sidecar of a Pod to the injector."""
    if obj["kind"] != "Pod":
        return obj
    labels = {**obj["metadata"]["labels"], "sidecar.istio.io/inject": "true"}
    containers = [c for c in obj["spec"]["containers"] if c["name"] != "istio-proxy"]
    return {
        **obj,
        "metadata": {**obj["metadata"], "labels": labels},
        "spec": {"containers": containers},
    }


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


PEER = (Path(__file__).parent / "peer.yaml").read_text()
OWNER_LABELS = {
    OWNER_NAME: "orders",
    OWNER_NAMESPACE: "shop",
    "kyma-project.io/module": "api-gateway",
    "app.kubernetes.io/managed-by": "api-gateway",
    "app.kubernetes.io/component": "api-gateway",
    "app.kubernetes.io/part-of": "api-gateway",
}
LEGACY_LABELS = {LEGACY_OWNER: "orders.shop"}


def left_by_the_peer(labels: dict[str, str], *, plain_namespace: bool) -> list[Object]:
    def hash_of(path: str, *not_paths: str) -> str:
        operation = security.Operation(
            hosts=("orders.example.localhost",),
            methods=("GET",),
            paths=(path,),
            not_paths=not_paths,
        )
        parts = policy_hash("shop", {"app": "orders"}, operation).split(".")
        return ".".join(["shop", *parts[1:]] if plain_namespace else parts)

    text = PEER % {
        "owner": json.dumps(labels),
        "owner_pairs": json.dumps(labels)[1:-1],
        "guarded": hash_of("/orders/{*}"),
        "open": hash_of("/health", "/orders/{*}"),
    }
    return list(yaml.safe_load_all(text))


@pytest.mark.parametrize(
    ("labels", "plain_namespace"),
    [
        (OWNER_LABELS, False),
        (LEGACY_LABELS, False),
        ({**OWNER_LABELS, **LEGACY_LABELS}, False),
        (OWNER_LABELS, True),
    ],
    ids=["current labels", "legacy label alone", "both", "hash with the plain namespace"],
)
async def test_objects_of_the_kyma_operator_are_adopted_in_place(
    it: Running, labels: dict[str, str], plain_namespace: bool
) -> None:
    await it.shop.create(*left_by_the_peer(labels, plain_namespace=plain_namespace))
    before = {name_of(obj): obj["metadata"]["uid"] for obj in await owned(it.shop)}
    present = rule()
    present["metadata"]["finalizers"] = [FINALIZER]

    await it.shop.create(present)
    await it.shop.until_state("Ready")
    after = await owned(it.shop)

    assert len(before) == 4
    assert {name_of(obj): obj["metadata"]["uid"] for obj in after} == before
    assert all(labels.items() <= obj["metadata"]["labels"].items() for obj in after if labels)
    assert all(OWNER_LABELS.items() <= obj["metadata"]["labels"].items() for obj in after)
    assert {obj["metadata"]["annotations"]["team.example.org/note"] for obj in after} == {"kept"}
    [authentication, *_] = after
    assert authentication["spec"]["jwtRules"][0]["fromHeaders"]
    hashes = [obj["metadata"]["labels"].get(HASH, "").split(".")[0] for obj in after]
    assert "shop" not in hashes


@pytest.mark.parametrize("labels", [OWNER_LABELS, LEGACY_LABELS], ids=["current", "legacy"])
async def test_adopted_objects_go_with_their_rule(it: Running, labels: dict[str, str]) -> None:
    await it.shop.create(*left_by_the_peer(labels, plain_namespace=False))
    await it.shop.create(rule())
    await it.shop.until_state("Ready")

    await it.shop.client.delete(v2.APIRule.gvk, RULE)

    async def gone() -> bool:
        return await owned(it.shop) == []

    await it.shop.eventually(gone)


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
