"""The RateLimit and APIGateway controllers against our own API server."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import yaml
from tests.shells.conftest import RunningApiServer

from apirule.apis import core, networking
from apirule.apis.envoy_filter import EnvoyFilter
from apirule.apis.gateway import v2
from apirule.apis.gateway.v1alpha1 import RateLimit
from apirule.apis.meta import GroupVersionKind, Object
from apirule.apis.operator import APIGateway
from apirule.controllers.apigateway import FINALIZER, GATEWAY_FINALIZER, APIGatewayController
from apirule.controllers.ratelimit import CRD, RateLimitController
from apirule.kube.client import Client
from apirule.kube.config import KubeConfig
from apirule.kube.errors import NotFound
from apirule.kube.informer import Delta, Informers
from apirule.local import system
from apirule.names import ObjectName
from apirule.schema import bundled_crds
from apirule.settings import Settings

LIMIT = ObjectName("default", "shop")
GATEWAY = ObjectName("", "default")
OBJECTS = [system.default_gateway(Settings()), system.health(Settings())]
KINDS = (RateLimit, APIGateway, EnvoyFilter, networking.Gateway, networking.VirtualService)


class Cluster:
    """Reads and writes as a user would, and waits for what the controllers make of it."""

    def __init__(self, client: Client, informers: Informers) -> None:
        self.client = client
        self._changed = anyio.Event()
        for kind in KINDS:
            informers.of(kind.gvk).add_handler(self._wake)

    def _wake(self, _: Delta) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, condition: Callable[[], Awaitable[Any]]) -> Any:
        with anyio.fail_after(15):
            while True:
                changed = self._changed
                if found := await condition():
                    return found
                await changed.wait()

    async def status(self, gvk: GroupVersionKind, name: ObjectName, state: str) -> Object:
        """Wait for a state; return the status."""

        async def reached() -> Object | None:
            status: Object = (await self.client.get(gvk, name)).get("status") or {}
            return status if status.get("state") == state else None

        found: Object = await self.until(reached)
        return found

    async def gone(self, gvk: GroupVersionKind, name: ObjectName) -> None:
        async def missing() -> bool:
            try:
                await self.client.get(gvk, name)
            except NotFound:
                return True
            return False

        await self.until(missing)

    async def patch(self, kind: Any, name: ObjectName, **spec: Any) -> None:
        await self.client.patch(kind.gvk, name, {"spec": spec})

    async def report(self, status: str, reason: str, message: str) -> None:
        """Say of the EnvoyFilter what the engine would."""
        obj = await self.client.get(EnvoyFilter.gvk, LIMIT)
        generation = obj["metadata"]["generation"]
        condition = {
            "type": "Reconciled",
            "status": status,
            "reason": reason,
            "message": message,
            "observedGeneration": generation,
        }
        body = {"observedGeneration": generation, "conditions": [condition]}
        await self.client.patch_status(EnvoyFilter.gvk, LIMIT, body)


@asynccontextmanager
async def running(server: RunningApiServer) -> AsyncIterator[Cluster]:
    config = KubeConfig.load(server.kubeconfig)
    async with Client(config) as client, anyio.create_task_group() as tasks:
        informers = Informers(client)

        def now() -> datetime:
            return datetime(2026, 1, 2, tzinfo=UTC)

        parts = (
            RateLimitController(client, informers, now=now),
            APIGatewayController(client, informers, objects=OBJECTS, now=now),
        )
        cluster = Cluster(client, informers)
        await tasks.start(informers.run)
        for part in parts:
            await tasks.start(part.run)
        yield cluster
        tasks.cancel_scope.cancel()
    # Closed TLS connections leave the event loop in its next turns.
    for _ in range(10):
        await anyio.lowlevel.checkpoint()


@pytest.fixture
async def cluster(api_server: RunningApiServer) -> AsyncIterator[Cluster]:
    async with running(api_server) as found:
        yield found


def pod(name: str = "shop-1", **labels: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"app": "shop", "sidecar.istio.io/inject": "true", **labels},
        },
        "spec": {"containers": [{"name": "a", "image": "a"}]},
    }


def limit(name: str = "shop") -> Object:
    obj: Object = yaml.safe_load(f"""
apiVersion: gateway.kyma-project.io/v1alpha1
kind: RateLimit
metadata: {{name: {name}, namespace: default}}
spec:
  selectorLabels: {{app: shop}}
  local: {{defaultBucket: {{maxTokens: 1, tokensPerFill: 1, fillInterval: 1s}}}}
""")
    return obj


def gateway(name: str = "default") -> Object:
    obj = system.api_gateway()
    obj["metadata"]["name"] = name
    return obj


def rule() -> Object:
    obj: Object = yaml.safe_load("""
apiVersion: gateway.kyma-project.io/v2
kind: APIRule
metadata: {name: shop, namespace: default}
spec:
  hosts: [shop]
  gateway: kyma-system/kyma-gateway
  service: {name: shop, port: 80}
  rules: [{path: /*, methods: [GET], noAuth: true}]
""")
    return obj


async def test_a_limit_waits_for_gateway_pods_and_proxies_in_turn(cluster: Cluster) -> None:
    await cluster.client.create(limit())
    lacking = await cluster.status(RateLimit.gvk, LIMIT, "Warning")
    await cluster.client.create(gateway())
    without_pods = await cluster.status(RateLimit.gvk, LIMIT, "Error")
    await cluster.client.create(pod())
    waiting = await cluster.status(RateLimit.gvk, LIMIT, "Processing")
    await cluster.report("True", "Reconciled", "1/1 proxies up to date")
    ready = await cluster.status(RateLimit.gvk, LIMIT, "Ready")
    made = await cluster.client.get(EnvoyFilter.gvk, LIMIT)

    assert lacking["description"] == (
        "failed to reconcile RateLimit CR because of missing APIGateway CR in the cluster"
    )
    assert without_pods["description"] == (
        "failed to validate RateLimit: no pods found with the given selectors: map[app:shop]"
        " in namespace default"
    )
    assert "not reported yet" in waiting["description"]
    assert ready["description"] == "Finished reconciliation"
    [owner] = made["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("RateLimit", "shop", True)


async def test_what_the_engine_refuses_is_told(cluster: Cluster) -> None:
    for obj in (gateway(), pod(), limit()):
        await cluster.client.create(obj)
    await cluster.status(RateLimit.gvk, LIMIT, "Processing")
    await cluster.report("False", "Rejected", "A proxy refuses it")

    refused = await cluster.status(RateLimit.gvk, LIMIT, "Error")

    assert refused["description"] == "EnvoyFilter default/shop: A proxy refuses it"


async def test_two_limits_for_one_pod_are_in_each_others_way_until_one_goes(
    cluster: Cluster,
) -> None:
    for obj in (gateway(), pod(), limit()):
        await cluster.client.create(obj)
    await cluster.status(RateLimit.gvk, LIMIT, "Processing")
    other = ObjectName("default", "other")

    await cluster.client.create(limit("other"))
    second = await cluster.status(RateLimit.gvk, other, "Error")
    first = await cluster.status(RateLimit.gvk, LIMIT, "Error")
    await cluster.client.delete(RateLimit.gvk, other)
    await cluster.status(RateLimit.gvk, LIMIT, "Processing")

    assert second["description"].endswith("conflicting with the following RateLimit CRs: shop")
    assert first["description"].endswith("conflicting with the following RateLimit CRs: other")


async def test_what_a_hand_changes_is_repaired_and_what_is_anothers_is_left_alone(
    cluster: Cluster,
) -> None:
    foreign = {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": "foreign", "namespace": "default"},
        "spec": {},
    }
    for obj in (foreign, gateway(), pod(), limit()):
        await cluster.client.create(obj)
    await cluster.status(RateLimit.gvk, LIMIT, "Processing")
    made = await cluster.client.get(EnvoyFilter.gvk, LIMIT)

    await cluster.patch(EnvoyFilter, LIMIT, configPatches=[])

    async def repaired() -> bool:
        return bool((await cluster.client.get(EnvoyFilter.gvk, LIMIT))["spec"] == made["spec"])

    await cluster.until(repaired)
    await cluster.client.delete(RateLimit.gvk, LIMIT)
    await cluster.client.create(limit("foreign"))
    refused = await cluster.status(RateLimit.gvk, ObjectName("default", "foreign"), "Error")

    assert refused["description"] == (
        "EnvoyFilter default/foreign exists and does not belong to this RateLimit"
    )


async def test_without_the_kind_it_writes_a_limit_says_so(
    start_api_server: Callable[..., RunningApiServer],
) -> None:
    crds = [crd for crd in bundled_crds() if crd["metadata"]["name"] != CRD]
    async with running(start_api_server(crds=crds)) as cluster:
        await cluster.client.create(limit())

        status = await cluster.status(RateLimit.gvk, LIMIT, "Error")

    assert status["description"].startswith(f"dependency missing '{CRD}': ")


async def test_the_default_gateway_comes_stays_while_used_and_goes(cluster: Cluster) -> None:
    name = system.DEFAULT_GATEWAY
    await cluster.client.create(gateway())
    ready = await cluster.status(APIGateway.gvk, GATEWAY, "Ready")
    made = await cluster.client.get(networking.Gateway.gvk, name)
    held = (await cluster.client.get(APIGateway.gvk, GATEWAY))["metadata"]["finalizers"]
    await cluster.client.create(rule())
    await cluster.patch(APIGateway, GATEWAY, enableKymaGateway=False)
    blocked = await cluster.status(APIGateway.gvk, GATEWAY, "Warning")
    still = await cluster.client.get(networking.Gateway.gvk, name)
    await cluster.client.delete(v2.APIRule.gvk, LIMIT)
    await cluster.status(APIGateway.gvk, GATEWAY, "Ready")

    await cluster.gone(networking.Gateway.gvk, name)
    await cluster.gone(networking.VirtualService.gvk, system.HEALTH)
    assert ready["description"] == "Successfully reconciled"
    assert [(c["type"], c["status"], c["reason"]) for c in ready["conditions"]] == [
        ("Ready", "True", "ReconcileSucceeded")
    ]
    assert held == [FINALIZER, GATEWAY_FINALIZER]
    assert blocked["conditions"][0]["reason"] == "KymaGatewayDeletionBlocked"
    assert blocked["description"].endswith("is still used by APIRule default/shop")
    assert still["metadata"]["uid"] == made["metadata"]["uid"]


async def test_a_deleted_api_gateway_waits_for_rules_and_limits_and_takes_the_gateway_along(
    cluster: Cluster,
) -> None:
    for obj in (gateway(), rule(), limit()):
        await cluster.client.create(obj)
    await cluster.status(APIGateway.gvk, GATEWAY, "Ready")

    await cluster.client.delete(APIGateway.gvk, GATEWAY)
    blocked = await cluster.status(APIGateway.gvk, GATEWAY, "Warning")
    await cluster.client.delete(v2.APIRule.gvk, LIMIT)
    await cluster.client.delete(RateLimit.gvk, LIMIT)
    await cluster.gone(APIGateway.gvk, GATEWAY)

    await cluster.gone(networking.Gateway.gvk, system.DEFAULT_GATEWAY)
    assert blocked["conditions"][0]["reason"] == "DeletionBlockedExistingResources"
    assert "APIRule default/shop, RateLimit default/shop" in blocked["description"]


async def test_only_the_oldest_api_gateway_counts(cluster: Cluster) -> None:
    await cluster.client.create(gateway())
    await cluster.status(APIGateway.gvk, GATEWAY, "Ready")
    younger = ObjectName("", "younger")

    await cluster.client.create(gateway("younger"))
    status = await cluster.status(APIGateway.gvk, younger, "Warning")
    await cluster.client.delete(APIGateway.gvk, GATEWAY)
    await cluster.status(APIGateway.gvk, younger, "Ready")

    assert status["description"] == (
        "stopped APIGateway CR reconciliation: only APIGateway CR default reconciles the module"
    )
    assert status["conditions"][0]["reason"] == "OlderCRExists"


async def test_a_gateway_that_a_hand_deletes_comes_back(cluster: Cluster) -> None:
    await cluster.client.create(gateway())
    await cluster.status(APIGateway.gvk, GATEWAY, "Ready")
    old = await cluster.client.get(networking.Gateway.gvk, system.DEFAULT_GATEWAY)
    await cluster.client.delete(networking.Gateway.gvk, system.DEFAULT_GATEWAY)

    async def back() -> bool:
        try:
            new = await cluster.client.get(networking.Gateway.gvk, system.DEFAULT_GATEWAY)
        except NotFound:
            return False
        return bool(new["metadata"]["uid"] != old["metadata"]["uid"])

    await cluster.until(back)


async def test_a_pod_that_stops_being_selected_is_noticed(cluster: Cluster) -> None:
    for obj in (gateway(), pod(), limit()):
        await cluster.client.create(obj)
    await cluster.status(RateLimit.gvk, LIMIT, "Processing")

    await cluster.client.patch(
        core.Pod.gvk, ObjectName("default", "shop-1"), {"metadata": {"labels": {"app": "else"}}}
    )

    lacking = await cluster.status(RateLimit.gvk, LIMIT, "Error")
    assert "no pods found" in lacking["description"]
