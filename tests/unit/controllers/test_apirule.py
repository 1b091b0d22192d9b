"""What an APIRule becomes, how its status tells it, and what brings the next pass."""

from collections.abc import Callable

import anyio
import pytest
from tests.unit.controllers.controlled import conditions, refusal, running, writes
from tests.unit.controllers.fake_cluster import FakeCluster
from tests.unit.controllers.scenario import (
    OWNED,
    RULE,
    elsewhere,
    later,
    moved,
    narrower,
    rule,
    world,
)

from apirule.apis import core, networking, security
from apirule.apis.gateway import v2
from apirule.apis.meta import Object
from apirule.controllers import apirule as module
from apirule.controllers.apirule import FINALIZER
from apirule.kube.informer import name_of
from apirule.names import ObjectName
from apirule.ownership import OWNER_NAME


async def test_a_rule_becomes_ready_once_the_engine_has_it(cluster: FakeCluster) -> None:
    async with running(cluster, world()) as it:
        await it.shop.create(rule())
        ready = await it.shop.until_state("Ready")

    assert ready["status"]["description"] == "Reconciled successfully"
    assert ready["metadata"]["finalizers"] == [FINALIZER]
    assert conditions(ready)["Enforced"] == ("True", "UpToDate")
    assert len(cluster.of("virtualservices")) == 1
    assert len(cluster.of("requestauthentications")) == 1
    assert len(cluster.of("authorizationpolicies")) == 2


async def test_it_is_processing_until_the_engine_has_it(cluster: FakeCluster) -> None:
    async with running(cluster, world()) as it:
        it.engine.verdict = ("Unknown", "Waiting", "0/1 proxies up to date")
        await it.shop.create(rule())
        waiting = await it.shop.until_state("Processing")

    assert conditions(waiting)["Enforced"] == ("False", "Waiting")
    assert conditions(waiting)["Ready"][0] == "False"


async def test_a_quick_engine_is_told_of_in_one_write(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 60.0)
    async with running(cluster, world()) as it:
        await it.shop.create(rule())
        await it.shop.until_state("Ready")

    assert [plural for _, plural, _ in cluster.writes].count("apirules/status") == 1


async def test_what_a_proxy_refuses_is_an_error(cluster: FakeCluster) -> None:
    async with running(cluster, world()) as it:
        it.engine.verdict = ("False", "Rejected", "bad regex")
        await it.shop.create(rule())
        refused = await it.shop.until_state("Error")

    assert "bad regex" in refused["status"]["description"]


async def test_without_reports_ready_means_written(cluster: FakeCluster) -> None:
    async with running(cluster, world(), engine_reports=False) as it:
        it.engine.verdict = ("False", "Rejected", "not asked")
        await it.shop.create(rule())
        ready = await it.shop.until_state("Ready")

    assert conditions(ready)["Enforced"] == ("Unknown", "NotReported")


async def test_a_settled_rule_causes_no_more_writes(cluster: FakeCluster) -> None:
    async with running(cluster, world()) as it:
        await it.shop.create(rule())
        await it.shop.until_state("Ready")
        with anyio.fail_after(15):
            while not cluster.of("events"):
                await cluster.changed()
        await anyio.wait_all_tasks_blocked()
        cluster.writes.clear()

        # A change that concerns the rule but leads to nothing new.
        def annotate(obj: Object) -> None:
            obj["metadata"]["annotations"] = {"note": "x"}

        await it.shop.edit(v2.APIRule.gvk, RULE, annotate)
        await it.shop.edit(
            core.Service.gvk, RULE, lambda o: o["metadata"].update(labels={"x": "y"})
        )
        await it.shop.create(rule() | {"metadata": {"name": "marker", "namespace": "shop"}})
        await it.shop.until_state("Error", ObjectName("shop", "marker"))
        await anyio.wait_all_tasks_blocked()

    touched = [write for write in cluster.writes if write[2].startswith("orders")]
    assert touched == [
        ("put", "apirules", "orders"),
        ("put", "services", "orders"),
    ]


async def test_a_broken_update_leaves_what_is_served_as_it_was(cluster: FakeCluster) -> None:
    async with running(cluster, world()) as it:
        await it.shop.create(rule())
        await it.shop.until_state("Ready")
        before = [name_of(obj) for kind in OWNED for obj in await it.shop.all(kind)]
        cluster.writes.clear()

        def break_it(obj: Object) -> None:
            obj["spec"]["service"]["name"] = "missing"

        await it.shop.edit(v2.APIRule.gvk, RULE, break_it)
        broken = await it.shop.until_state("Error")
        after = [name_of(obj) for kind in OWNED for obj in await it.shop.all(kind)]

    assert after == before
    assert writes(cluster, "post", "put", "delete", "patch") == []
    assert broken["status"]["description"].startswith("Validation errors: ")
    assert conditions(broken)["Accepted"][0] == "False"
    assert conditions(broken)["Serving"] == ("True", "EarlierGeneration")
    events = {event["reason"]: event for event in cluster.of("events")}
    assert events["NotAccepted"]["type"] == "Warning"
    assert events["Reconciled"]["type"] == "Normal"


@pytest.mark.parametrize("kind", ["Gateway", "Service"])
async def test_a_rule_is_looked_at_again_when_what_it_lacks_comes(
    cluster: FakeCluster, kind: str
) -> None:
    [missing] = [obj for obj in world() if obj["kind"] == kind]
    async with running(cluster, world(kind)) as it:
        await it.shop.create(rule())
        await it.shop.until_state("Error")

        await it.shop.create(missing)
        ready = await it.shop.until_state("Ready")

    assert ready["status"]["state"] == "Ready"


async def test_a_pod_that_gets_its_sidecar_makes_the_rule_ready(cluster: FakeCluster) -> None:
    objects = world()
    [pod] = [obj for obj in objects if obj["kind"] == "Pod"]
    bare = pod | {"spec": {"containers": [{"name": "orders"}]}}
    others = [obj for obj in objects if obj["kind"] != "Pod"]
    async with running(cluster, [*others, bare]) as it:
        await it.shop.create(rule())
        without = await it.shop.until_state("Error")

        await it.shop.client.delete(core.Pod.gvk, ObjectName("shop", "orders-1"))
        await it.shop.create(pod)
        await it.shop.until_state("Ready")

    assert "istio sidecar" in without["status"]["description"]


async def test_a_host_is_free_again_when_its_rule_goes(cluster: FakeCluster) -> None:
    second = rule() | {"metadata": {"name": "second", "namespace": "shop"}}
    async with running(cluster, world()) as it:
        await it.shop.create(rule())
        await it.shop.until_state("Ready")
        await it.shop.create(second)
        taken = await it.shop.until_state("Error", ObjectName("shop", "second"))

        await it.shop.client.delete(v2.APIRule.gvk, RULE)
        await it.shop.until_state("Ready", ObjectName("shop", "second"))

    assert "occupied" in taken["status"]["description"]


async def test_of_rules_made_at_once_one_gets_the_host(cluster: FakeCluster) -> None:
    names = [f"r{index}" for index in range(6)]
    rules = [rule() | {"metadata": {"name": name, "namespace": "shop"}} for name in names]
    async with running(cluster, [*world(), *rules]) as it:
        states = []
        for name in names:
            obj = await it.shop.until(
                lambda o: (o.get("status") or {}).get("state") in ("Ready", "Error"),
                ObjectName("shop", name),
            )
            states.append(obj["status"]["state"])

    assert sorted(states) == ["Error"] * 5 + ["Ready"]
    assert len(cluster.of("virtualservices")) == 1


async def test_drift_is_repaired_at_once(cluster: FakeCluster) -> None:
    async with running(cluster, world()) as it:
        await it.shop.create(rule())
        await it.shop.until_state("Ready")
        [route] = await it.shop.all(networking.VirtualService)
        [authentication] = await it.shop.all(security.RequestAuthentication)

        def spoil(obj: Object) -> None:
            obj["spec"]["hosts"] = ["evil.example.localhost"]

        await it.shop.edit(networking.VirtualService.gvk, name_of(route), spoil)
        await it.shop.client.delete(security.RequestAuthentication.gvk, name_of(authentication))

        async def repaired() -> bool:
            routes = await it.shop.all(networking.VirtualService)
            guards = await it.shop.all(security.RequestAuthentication)
            return [one["spec"] for one in routes] == [route["spec"]] and [
                one["spec"] for one in guards
            ] == [authentication["spec"]]

        await it.shop.eventually(repaired)
        await it.shop.until_state("Ready")


async def test_what_others_write_into_a_status_is_written_over(cluster: FakeCluster) -> None:
    async with running(cluster, world("Gateway")) as it:
        await it.shop.create(rule())
        told = (await it.shop.until_state("Error"))["status"]["conditions"]

        forged = {"state": "Ready", "description": "Reconciled successfully", "conditions": []}
        await it.shop.client.patch_status(v2.APIRule.gvk, RULE, forged)

        again = await it.shop.until(lambda obj: bool(obj["status"]["conditions"]))
        said = [(one["type"], one["status"], one["reason"]) for one in told]

        assert again["status"]["state"] == "Error"
        assert [
            (one["type"], one["status"], one["reason"]) for one in again["status"]["conditions"]
        ] == said


async def test_labels_taken_off_are_put_back(cluster: FakeCluster) -> None:
    async with running(cluster, world()) as it:
        await it.shop.create(rule())
        await it.shop.until_state("Ready")
        [route] = await it.shop.all(networking.VirtualService)

        def strip(obj: Object) -> None:
            obj["metadata"]["labels"] = {}

        await it.shop.edit(networking.VirtualService.gvk, name_of(route), strip)

        async def labelled() -> bool:
            [one] = await it.shop.all(networking.VirtualService)
            return bool(one["metadata"]["labels"].get(OWNER_NAME) == "orders")

        await it.shop.eventually(labelled)


async def test_objects_of_the_peer_are_adopted(cluster: FakeCluster) -> None:
    async with running(cluster, world()) as it:
        await it.shop.create(rule())
        await it.shop.until_state("Ready")
        [mine] = await it.shop.all(networking.VirtualService)
    await_names = {"namespace": "shop", "name": "orders-x7k2p"}
    theirs = mine | {"metadata": await_names | {"labels": mine["metadata"]["labels"]}}
    theirs["spec"] = mine["spec"] | {"hosts": ["old.example.localhost"]}

    async with FakeCluster().serve() as fresh:
        async with running(fresh, [*world(), theirs]) as it:
            await it.shop.create(rule())
            await it.shop.until_state("Ready")

        [adopted] = fresh.of("virtualservices")
    assert adopted["metadata"]["name"] == "orders-x7k2p"
    assert adopted["spec"] == mine["spec"]


async def test_a_host_whose_route_was_refused_is_free(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HOST_AGAIN_S", 0.01)
    second = rule() | {"metadata": {"name": "second", "namespace": "shop"}}
    async with running(cluster, world()) as it:
        cluster.refusals["post", "virtualservices"] = refusal(403, "Forbidden", "no rights")
        await it.shop.create(rule())
        await it.shop.until_state("Error")

        await it.shop.create(second)
        await it.shop.until(
            lambda o: (o.get("status") or {}).get("description") == "ApiRuleErrors: no rights",
            ObjectName("shop", "second"),
        )


async def test_a_finalizer_of_somebody_else_stays(cluster: FakeCluster) -> None:
    obj = rule()
    obj["metadata"]["finalizers"] = ["example.org/other"]
    async with running(cluster, world()) as it:
        await it.shop.create(obj)
        await it.shop.until_state("Ready")

        await it.shop.client.delete(v2.APIRule.gvk, RULE)
        left = await it.shop.until(
            lambda one: one["metadata"]["finalizers"] == ["example.org/other"]
        )

    assert left["metadata"]["deletionTimestamp"]
    assert cluster.of("virtualservices") == []


@pytest.mark.parametrize(
    ("change", "verb", "plural", "prefix"),
    [
        (later, "put", "virtualservices", "VirtualServiceErrors"),
        (elsewhere, "put", "requestauthentications", "RequestAuthenticationErrors"),
        # The kind of what is created, and of a policy that is updated, is not named.
        (narrower, "put", "authorizationpolicies", "ApiRuleErrors"),
        (moved, "post", "authorizationpolicies", "ApiRuleErrors"),
        (moved, "delete", "authorizationpolicies", "AuthorizationPolicyErrors"),
    ],
)
async def test_a_refused_write_is_told_under_the_name_of_its_kind(
    cluster: FakeCluster, change: Callable[[Object], None], verb: str, plural: str, prefix: str
) -> None:
    async with running(cluster, world()) as it:
        await it.shop.create(rule())
        await it.shop.until_state("Ready")
        cluster.refusals[verb, plural] = refusal(403, "Forbidden", "no rights")

        await it.shop.edit(v2.APIRule.gvk, RULE, change)
        failed = await it.shop.until_state("Error")

    assert failed["status"]["description"] == f"{prefix}: no rights"


async def test_what_the_engine_advises_stands_in_the_status_and_in_an_event(
    cluster: FakeCluster,
) -> None:
    async with running(cluster, world()) as it:
        it.engine.advice = "There are no keys of the issuer."
        await it.shop.create(rule())
        ready = await it.shop.until_state("Ready")
        with anyio.fail_after(15):
            while not any(event["reason"] == "Advice" for event in cluster.of("events")):
                await cluster.changed()

    assert conditions(ready)["Enforced"] == ("True", "Advice")
    messages = {one["type"]: one["message"] for one in ready["status"]["conditions"]}
    assert "There are no keys of the issuer." in messages["Enforced"]


async def test_a_rule_that_cannot_be_marked_is_an_error(cluster: FakeCluster) -> None:
    async with running(cluster, world()) as it:
        cluster.refusals["patch", "apirules"] = refusal(403, "Forbidden", "no rights")
        await it.shop.create(rule())
        failed = await it.shop.until_state("Error")

    assert failed["status"]["description"] == "ApiRuleErrors: no rights"
    assert cluster.of("virtualservices") == []


async def test_a_kind_that_may_not_be_read_is_told(cluster: FakeCluster) -> None:
    cluster.refusals["get", "requestauthentications"] = refusal(403, "Forbidden", "no rights")
    async with running(cluster, world()) as it:
        await it.shop.create(rule())
        failed = await it.shop.until_state("Error")
        cluster.refusals.clear()
        await it.shop.until_state("Ready")

    assert failed["status"]["description"] == "Error happened during discovering dependencies"
    assert conditions(failed)["Accepted"] == ("Unknown", "DependencyUnreadable")


async def test_a_missing_crd_is_a_warning_until_it_comes(cluster: FakeCluster) -> None:
    cluster.missing.add("authorizationpolicies")
    async with running(cluster, world()) as it:
        await it.shop.create(rule())
        warned = await it.shop.until_state("Warning")

        cluster.missing.clear()
        await it.shop.until_state("Ready")

    assert warned["status"]["description"] == (
        "CRD authorizationpolicies.security.istio.io is not present. "
        "Make sure to install required dependencies for the component"
    )


async def test_a_rule_of_another_shape_is_an_error_and_no_crash(cluster: FakeCluster) -> None:
    async with running(cluster, world()) as it:
        await it.shop.create(rule(timeout="soon"))
        broken = await it.shop.until_state("Error")

    assert "timeout" in broken["status"]["description"]
