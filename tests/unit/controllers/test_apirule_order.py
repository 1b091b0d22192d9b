"""In which order guards and routes come and go: nothing is ever open in between."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from tests.unit.controllers.controlled import conditions, refusal, routes_of, running, writes
from tests.unit.controllers.fake_cluster import FakeCluster
from tests.unit.controllers.scenario import RULE, later, moved, rule, world

from apirule.apis import networking, security
from apirule.apis.gateway import v2
from apirule.apis.meta import Object
from apirule.kube.errors import ApiError
from apirule.kube.informer import name_of
from apirule.names import ObjectName
from apirule.ownership import OWNER_NAME

GUARDS_FIRST = [
    "requestauthentications",
    "authorizationpolicies",
    "authorizationpolicies",
    "virtualservices",
]


async def test_guards_are_written_before_the_route(cluster: FakeCluster) -> None:
    async with running(cluster, world()) as it:
        await it.shop.create(rule())
        await it.shop.until_state("Ready")

    assert writes(cluster, "post") == GUARDS_FIRST


async def test_guards_that_only_the_cache_still_knows_are_written_before_the_route(
    cluster: FakeCluster,
) -> None:
    async with running(cluster, world()) as it:
        await it.shop.create(rule())
        await it.shop.until_state("Ready")
        [route] = cluster.of("virtualservices")
        cluster.writes.clear()
        # As when a rule goes and comes back: of its guards the deletion has not been told yet.
        cluster.lose("authorizationpolicies")
        cluster.lose("requestauthentications")

        await it.shop.client.delete(networking.VirtualService.gvk, name_of(route))

        async def back() -> bool:
            return bool(cluster.of("virtualservices"))

        await it.shop.eventually(back)

    assert writes(cluster, "post") == GUARDS_FIRST


async def test_a_deleted_rule_takes_the_route_first_and_leaves_nothing(
    cluster: FakeCluster,
) -> None:
    async with running(cluster, world()) as it:
        await it.shop.create(rule())
        await it.shop.until_state("Ready")
        cluster.writes.clear()

        await it.shop.client.delete(v2.APIRule.gvk, RULE)

        async def gone() -> bool:
            return not cluster.of("apirules")

        await it.shop.eventually(gone)

    assert writes(cluster, "delete") == [
        "virtualservices",
        "authorizationpolicies",
        "authorizationpolicies",
        "requestauthentications",
    ]
    assert cluster.of("virtualservices") == []
    assert cluster.of("authorizationpolicies") == []
    assert cluster.of("requestauthentications") == []


async def test_an_object_made_anew_meanwhile_is_not_deleted_for_its_name(
    cluster: FakeCluster,
) -> None:
    async with running(cluster, world()) as it:
        await it.shop.create(rule())
        await it.shop.until_state("Ready")
        [route] = routes_of(cluster, "orders")
        key = ("virtualservices", "shop", route["metadata"]["name"])
        newer = {**route, "metadata": {**route["metadata"], "uid": "another"}}
        outcomes: list[int] = []
        delete = it.shop.client.delete

        async def swapping(*args: Any, **kwargs: Any) -> None:
            # Between the look and the deletion somebody puts another one in its place.
            if not outcomes:
                cluster.objects[key] = newer
            try:
                await delete(*args, **kwargs)
            except ApiError as error:
                outcomes.append(error.status)
                raise

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(it.shop.client, "delete", swapping)
            await delete(v2.APIRule.gvk, RULE)
            with anyio.fail_after(15):
                while cluster.of("apirules"):
                    await cluster.changed()

    assert outcomes == [409]


async def test_a_refused_guard_keeps_the_route_from_being_written(cluster: FakeCluster) -> None:
    cluster.refusals["post", "authorizationpolicies"] = refusal(403, "Forbidden", "no rights")
    async with running(cluster, world()) as it:
        await it.shop.create(rule())
        failed = await it.shop.until_state("Error")
        routes_while_refused = cluster.of("virtualservices")

        cluster.refusals.clear()
        await it.shop.until_state("Ready")

    assert failed["status"]["description"] == "ApiRuleErrors: no rights"
    assert conditions(failed)["Enforced"] == ("False", "WriteFailed")
    assert routes_while_refused == []


WIDE = ObjectName("shop", "wide")


def wide() -> Object:
    obj = rule(hosts=["*.example.localhost"])
    obj["metadata"]["name"] = WIDE.name
    return obj


def not_hosts(cluster: FakeCluster) -> list[list[str]]:
    return [
        list(one["spec"]["rules"][0]["to"][0]["operation"].get("notHosts", ()))
        for one in cluster.of("authorizationpolicies")
        if one["metadata"]["labels"][OWNER_NAME] == WIDE.name
    ]


async def test_a_host_within_a_wildcard_is_routed_once_the_wildcard_leaves_it_alone(
    cluster: FakeCluster,
) -> None:
    async with running(cluster, world()) as it:
        await it.shop.create(wide())
        await it.shop.until_state("Ready", WIDE)
        before = not_hosts(cluster)
        cluster.refusals["put", "authorizationpolicies"] = refusal(403, "Forbidden", "no")

        await it.shop.create(rule())
        waiting = await it.shop.until_state("Processing")
        await it.shop.until_state("Error", WIDE)
        unrouted = routes_of(cluster, "orders")
        cluster.refusals.clear()
        await it.shop.until_state("Ready")
        after = not_hosts(cluster)

    assert before == [[], []]
    assert "still opens orders.example.localhost" in waiting["status"]["description"]
    assert unrouted == []
    assert after == [["orders.example.localhost"]] * 2
    assert len(routes_of(cluster, "orders")) == 1


async def test_a_host_within_a_wildcard_is_not_routed_before_the_proxies_know(
    cluster: FakeCluster,
) -> None:
    async with running(cluster, world()) as it:
        await it.shop.create(wide())
        await it.shop.until_state("Ready", WIDE)
        it.engine.holds_back = lambda obj: "notHosts" in str(obj)

        await it.shop.create(rule())
        waiting = await it.shop.until_state("Processing")
        unrouted = routes_of(cluster, "orders")
        it.engine.let_go()
        await it.shop.until_state("Ready")

    assert "not in force yet without" in waiting["status"]["description"]
    assert unrouted == []


async def test_a_rule_that_waits_for_a_wildcard_holds_its_host(cluster: FakeCluster) -> None:
    second = rule()
    second["metadata"]["name"] = "second"
    async with running(cluster, world()) as it:
        await it.shop.create(wide())
        await it.shop.until_state("Ready", WIDE)
        it.engine.holds_back = lambda obj: "notHosts" in str(obj)
        await it.shop.create(rule())
        await it.shop.until_state("Processing")

        await it.shop.create(second)
        taken = await it.shop.until_state("Error", ObjectName("shop", "second"))
        it.engine.let_go()
        await it.shop.until_state("Ready")

    assert "occupied" in taken["status"]["description"]
    owners = {one["metadata"]["labels"][OWNER_NAME] for one in cluster.of("authorizationpolicies")}
    assert owners == {"orders", "wide"}


async def test_a_wildcard_opens_no_host_whose_routes_are_gone_for_a_moment(
    cluster: FakeCluster,
) -> None:
    async with running(cluster, world()) as it:
        await it.shop.create(wide(), rule())
        await it.shop.until_state("Ready", WIDE)
        await it.shop.until_state("Ready")
        cluster.refusals["post", "virtualservices"] = refusal(403, "Forbidden", "no")
        [route] = routes_of(cluster, "orders")

        await it.shop.client.delete(networking.VirtualService.gvk, name_of(route))
        await it.shop.until_state("Error")
        kept = not_hosts(cluster)
        cluster.refusals.clear()
        await it.shop.until_state("Ready")

    assert kept == [["orders.example.localhost"]] * 2


async def test_a_revoked_grant_is_enforced_before_the_rule_is_ready(cluster: FakeCluster) -> None:
    def grants(*audiences: str) -> Callable[[Object], None]:
        def change(obj: Object) -> None:
            entries = [{"audiences": [audience]} for audience in audiences]
            obj["spec"]["rules"][0]["jwt"]["authorizations"] = entries

        return change

    async with running(cluster, world()) as it:
        obj = rule()
        grants("a", "b")(obj)
        await it.shop.create(obj)
        await it.shop.until_state("Ready")
        it.engine.holds_back = lambda obj: "rules" not in obj["spec"] and "hosts" not in obj["spec"]

        await it.shop.edit(v2.APIRule.gvk, RULE, grants("a"))
        waiting = await it.shop.until_state("Processing")
        emptied = [one for one in cluster.of("authorizationpolicies") if "rules" not in one["spec"]]
        it.engine.let_go()
        await it.shop.until_state("Ready")

    assert conditions(waiting)["Enforced"] == ("False", "Waiting")
    assert len(emptied) == 1
    assert len(cluster.of("authorizationpolicies")) == 2


async def test_guards_of_the_old_way_stay_until_the_new_one_is_in_force(
    cluster: FakeCluster,
) -> None:
    async with running(cluster, world()) as it:
        await it.shop.create(rule())
        await it.shop.until_state("Ready")
        before = {name_of(one) for one in cluster.of("authorizationpolicies")}
        it.engine.holds_back = lambda obj: obj["kind"] == "VirtualService"

        await it.shop.edit(v2.APIRule.gvk, RULE, moved)
        await it.shop.until_state("Processing")
        meanwhile = cluster.of("authorizationpolicies")
        it.engine.let_go()
        await it.shop.until_state("Ready")

    assert before < {name_of(one) for one in meanwhile}
    assert all(one["spec"].get("rules") for one in meanwhile)
    assert len(cluster.of("authorizationpolicies")) == 2


async def test_without_reports_old_guards_leave_after_a_while(cluster: FakeCluster) -> None:
    async with running(cluster, world(), engine_reports=False, settling_s=0.2) as it:
        await it.shop.create(rule())
        await it.shop.until_state("Ready")

        cluster.writes.clear()
        await it.shop.edit(v2.APIRule.gvk, RULE, moved)
        await it.shop.until_state("Ready")

        async def gone() -> bool:
            return len(cluster.of("authorizationpolicies")) == 2

        await it.shop.eventually(gone)

    made = [(verb, plural) for verb, plural, _ in cluster.writes]
    ready = made.index(("patch", "apirules/status"))
    assert made.index(("delete", "authorizationpolicies")) > ready


async def test_what_a_rule_in_error_had_cannot_be_opened_by_hand(cluster: FakeCluster) -> None:
    async with running(cluster, world()) as it:
        await it.shop.create(rule())
        await it.shop.until_state("Ready")
        before = {name_of(one): one["spec"] for one in cluster.of("authorizationpolicies")}
        await it.shop.edit(
            v2.APIRule.gvk, RULE, lambda obj: obj["spec"].update(gateway="kyma-system/missing")
        )
        await it.shop.until_state("Error")
        first, second = before

        await it.shop.client.delete(security.AuthorizationPolicy.gvk, first)
        await it.shop.edit(
            security.AuthorizationPolicy.gvk, second, lambda obj: obj["spec"].update(rules=[{}])
        )

        async def repaired() -> bool:
            found = {name_of(one): one["spec"] for one in cluster.of("authorizationpolicies")}
            return found == before

        await it.shop.eventually(repaired)


async def test_of_a_rule_in_error_that_nothing_routes_to_nothing_is_left(
    cluster: FakeCluster,
) -> None:
    async with running(cluster, world()) as it:
        await it.shop.create(rule())
        await it.shop.until_state("Ready")
        await it.shop.edit(
            v2.APIRule.gvk, RULE, lambda obj: obj["spec"].update(gateway="kyma-system/missing")
        )
        await it.shop.until_state("Error")
        [route] = routes_of(cluster, "orders")

        await it.shop.client.delete(networking.VirtualService.gvk, name_of(route))

        async def gone() -> bool:
            return not cluster.of("authorizationpolicies")

        await it.shop.eventually(gone)

    assert cluster.of("virtualservices") == []


async def test_a_route_that_no_gateway_has_serves_nothing(cluster: FakeCluster) -> None:
    async with running(cluster, world()) as it:
        await it.shop.create(rule())
        await it.shop.until_state("Ready")
        it.engine.verdict = ("Unknown", "NoProxy", "no running gateway serves it")

        await it.shop.edit(v2.APIRule.gvk, RULE, later)
        unserved = await it.shop.until_state("Processing")
        it.engine.verdict = ("True", "UpToDate", "1/1 proxies up to date")
        await it.shop.edit(v2.APIRule.gvk, RULE, lambda obj: obj["spec"].update(timeout=31))
        served = await it.shop.until_state("Ready")

    assert conditions(unserved)["Serving"] == ("False", "NotServed")
    assert conditions(served)["Serving"] == ("True", "CurrentGeneration")


async def test_a_replaced_policy_exists_before_the_old_one_goes(cluster: FakeCluster) -> None:
    async with running(cluster, world()) as it:
        await it.shop.create(rule())
        await it.shop.until_state("Ready")
        cluster.writes.clear()

        def move(obj: Object) -> None:
            obj["spec"]["rules"][1]["path"] = "/healthz"

        await it.shop.edit(v2.APIRule.gvk, RULE, move)
        await it.shop.until_state("Ready")

    verbs = [
        (verb, plural)
        for verb, plural, _ in cluster.writes
        if plural in ("authorizationpolicies", "virtualservices")
    ]
    assert verbs == [
        ("post", "authorizationpolicies"),
        ("put", "virtualservices"),
        ("put", "authorizationpolicies"),
        ("delete", "authorizationpolicies"),
    ]
