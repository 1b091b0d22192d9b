"""The engine with proxies that answer as the test wants: what is told to whom, and when."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    Resource,
)
from tests.shells.xds_run import Feed, Statuses, eventually, gateway_objects, guard, route
from tests.shells.xds_run import workload_objects as workload

from apirule.apis import core, networking, security
from apirule.apis.meta import Object, ObjectRef
from apirule.local.ca import CertificateAuthority
from apirule.local.xds import engine
from apirule.local.xds.engine import Engine
from apirule.local.xds.fleet import Connection, Fleet
from apirule.mesh.config import ProxyConfig, TypeUrl
from apirule.mesh.memo import Memo
from apirule.mesh.proxy import Proxy, Role
from apirule.mesh.snapshot import Snapshot

REFUSED = "istio-system/ingress-1 refuses x: old is refused"
TAKEN = "cannot bind '127.0.0.1:1': Address already in use"
GATEWAY, SIDECAR = "istio-system/ingress-1", "default/app"
RDS, ECDS, SDS = TypeUrl.ROUTE, TypeUrl.EXTENSION, TypeUrl.SECRET


def build(snapshot: Snapshot, proxy: Proxy, _: Memo) -> ProxyConfig:
    """Tell a gateway the names of the routes and a sidecar the names of the guards.

    A gateway is also told when there is nobody to send anything to.
    An object called ``crash`` is our mistake, and so is a Namespace ``crash`` for every sidecar.
    """
    if proxy.role is Role.SIDECAR and snapshot.of_kind(core.Namespace):
        raise RuntimeError("the mesh has another bug")
    kind: type[networking.VirtualService | security.AuthorizationPolicy]
    if proxy.role is Role.GATEWAY:
        url, kind = RDS, networking.VirtualService
    else:
        url, kind = ECDS, security.AuthorizationPolicy
    found = snapshot.of_kind(kind)
    names = sorted(
        f"closed:{r.metadata.name}" if r.ref in snapshot.rejected else r.metadata.name
        for r in found
    )
    if "crash" in names:
        raise RuntimeError("the mesh has a bug")
    if proxy.role is Role.GATEWAY and not snapshot.of_kind(core.EndpointSlice):
        names.append("nobody")
    text = ",".join(names)
    resources = {
        TypeUrl.LISTENER: {"l": Listener(name="l")},
        RDS: {"x": RouteConfiguration(name=text)},
        ECDS: {"x": TypedExtensionConfig(name=text)},
    }
    return ProxyConfig(
        {u: g for u, g in resources.items() if u in (TypeUrl.LISTENER, url)},
        {(url, "x"): frozenset(r.ref for r in found)},
    )


def destination_rule(host: str, tls: dict[str, Any]) -> Object:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"namespace": "default", "name": "rule"},
        "spec": {"host": host, "trafficPolicy": {"tls": tls}},
    }


class FakeEnvoy:
    """Takes what ``accepts`` says yes to. ``texts`` is what it holds and all it ever held."""

    def __init__(self, fleet: Fleet, node: str) -> None:
        self.texts: list[str] = []
        self.secrets: list[bytes] = []
        self.accepts: Callable[[str], bool] = lambda _: True
        self.why = "is refused"
        self.refusals = 0
        self.answers = True
        self._fleet = fleet
        self._node = node
        self._scope = anyio.CancelScope()

    async def run(self) -> None:
        with self._scope, self._fleet.connection(self._node) as connection:
            for url, names in (
                (TypeUrl.CLUSTER, []),
                (TypeUrl.LISTENER, []),
                (RDS, ["x"]),
                (ECDS, ["x"]),
                (SDS, ["default"]),
            ):
                self._fleet.receive(
                    connection,
                    DeltaDiscoveryRequest(type_url=url, resource_names_subscribe=names),
                )
            async for response in connection.outbox:
                if self.answers:
                    self._answer(connection, response)

    def leave(self) -> None:
        self._scope.cancel()

    @property
    def text(self) -> str:
        return self.texts[-1] if self.texts else ""

    def _answer(self, connection: Connection, response: DeltaDiscoveryResponse) -> None:
        answer = DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        for resource in response.resources:
            if response.type_url == SDS:
                self.secrets.append(resource.resource.value)
            elif response.type_url in (RDS, ECDS):
                text = _text(resource)
                if self.accepts(text):
                    self.texts.append(text)
                else:
                    self._refuse(answer, text)
            elif response.type_url == TypeUrl.LISTENER and not self.accepts("listener"):
                self._refuse(answer, "listener")
        self._fleet.receive(connection, answer)

    def _refuse(self, answer: DeltaDiscoveryRequest, text: str) -> None:
        self.refusals += 1
        answer.error_detail.message = f"{text} {self.why}"


def _text(resource: Resource) -> str:
    url = TypeUrl(resource.resource.type_url)
    message = RouteConfiguration() if url is RDS else TypedExtensionConfig()
    resource.resource.Unpack(message)
    return str(message.name)


class Running:
    def __init__(self, folder: Path) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.feed = Feed()
        self.statuses = Statuses(self.feed)
        self.authority = CertificateAuthority.open(folder, clock=lambda: self.now)
        self.engine = Engine(
            self.feed, self.authority, self.statuses, clock=lambda: self.now, build=build
        )
        self.gateway = FakeEnvoy(self.engine.fleet, GATEWAY)
        self.sidecar = FakeEnvoy(self.engine.fleet, SIDECAR)

    def condition(self, ref: ObjectRef, kind: str = "Reconciled") -> str:
        """Return the message of a condition; empty where there is none."""
        conditions = (self.feed.objects[ref].get("status") or {}).get("conditions", ())
        return next((str(c["message"]) for c in conditions if c["type"] == kind), "")

    async def says(self, obj: Object, text: str) -> None:
        """Wait until the condition of an object has this message."""
        ref = ObjectRef.of(obj)
        await eventually(lambda: self.condition(ref) == text, lambda: self.condition(ref))


@asynccontextmanager
async def starting(folder: Path) -> AsyncIterator[tuple[Running, TaskGroup]]:
    """Give an engine with one route and one guard, of which nothing runs yet, and what runs it."""
    run = Running(folder / "pki")
    run.feed.put(*gateway_objects(18080), *workload("app", app=1, sidecar=2))
    run.feed.put(guard("old", "app", "/"), route("old", "h", "app"))
    async with anyio.create_task_group() as tasks:
        yield run, tasks
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Running]:
    """Start the engine with a gateway, a sidecar, one route and one guard, all in sync."""
    async with starting(folder) as (run, tasks):
        tasks.start_soon(run.gateway.run)
        tasks.start_soon(run.sidecar.run)
        await tasks.start(run.engine.run)
        await eventually(lambda: (run.gateway.text, run.sidecar.text) == ("old", "old"))
        yield run


async def test_removed_guard_stays_while_the_gateway_refuses_its_new_routes(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as run:
        run.gateway.accepts = lambda text: text == "old"

        run.feed.delete(guard("old", "app", "/"), route("old", "h", "app"))
        run.feed.put(guard("new", "app", "/"))
        await eventually(lambda: run.sidecar.text == "new,old")
        await eventually(lambda: bool(run.engine.fleet.standing(GATEWAY).refusals))
        during = run.sidecar.text
        run.gateway.accepts = lambda _: True
        run.feed.put(route("new", "h", "app"))
        await eventually(lambda: run.gateway.text == "new")

        await eventually(lambda: run.sidecar.text == "new")
        assert during == "new,old"


async def test_removed_guard_stays_for_a_gateway_that_is_silent_until_it_is_gone(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as run:
        run.gateway.answers = False

        run.feed.delete(guard("old", "app", "/"), route("old", "h", "app"))
        run.feed.put(guard("new", "app", "/"))
        await eventually(lambda: run.sidecar.text == "new,old")
        policy = ObjectRef.of(guard("new", "app", "/"))
        await eventually(lambda: run.condition(policy) == "1/1 proxies up to date")
        during = run.sidecar.text
        run.gateway.leave()

        await eventually(lambda: run.sidecar.text == "new")
        assert during == "new,old"


async def test_guard_that_selects_others_now_stays_where_it_was_until_routes_have_moved(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as run:
        run.gateway.answers = False

        run.feed.put(guard("old", "other", "/"), route("new", "h", "other"))
        await eventually(lambda: run.sidecar.text == "old,old~1")
        run.gateway.leave()

        await eventually(lambda: run.sidecar.text == "old")


async def test_rejected_guard_lingers_closed(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        run.sidecar.accepts = lambda text: "bad" not in text.replace("closed:bad", "")
        bad = guard("bad", "app", "/")
        run.feed.put(bad)
        # While the culprit is looked for, the guard is closed once already.
        await eventually(
            lambda: bool(run.engine.rejected()) and run.sidecar.text == "closed:bad,old"
        )
        held = len(run.sidecar.texts)

        run.feed.delete(bad)
        await eventually(lambda: run.sidecar.text == "old")

        assert run.sidecar.texts[held:] == ["old"]
        assert run.engine.fleet.standing(SIDECAR).synced


async def test_guard_with_an_unknown_field_lingers_closed(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        run.gateway.answers = False
        bad = guard("bad", "app", "/")
        bad["spec"]["colour"] = "red"
        run.feed.put(bad)
        await eventually(lambda: run.sidecar.text == "closed:bad,old")

        run.feed.delete(bad)
        run.feed.put(guard("new", "app", "/"), route("new", "h", "app"))
        await eventually(lambda: "new" in run.sidecar.text)

        assert run.sidecar.text == "closed:bad,new,old"


async def test_guard_that_comes_back_does_not_linger(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        run.feed.delete(guard("old", "app", "/"))
        run.feed.put(guard("old", "app", "/other"))
        run.feed.put(route("new", "h", "app"))
        await eventually(lambda: run.gateway.text == "new,old")

        assert run.sidecar.text == "old"


async def test_refused_guard_is_closed_before_any_route_goes_out(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        run.sidecar.accepts = lambda text: "bad" not in text.replace("closed:bad", "")

        run.feed.put(route("new", "h", "app"), guard("bad", "app", "/"))
        await eventually(lambda: run.gateway.text == "new,old")

        assert run.sidecar.text == "closed:bad,old"
        assert list(run.engine.rejected().values()) == ["A proxy refuses it: bad,old is refused"]


async def test_rejected_object_gets_another_chance_when_it_changes(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        run.sidecar.accepts = lambda text: "bad" not in text.replace("closed:bad", "")
        run.feed.put(guard("bad", "app", "/"))
        await eventually(lambda: run.sidecar.text == "closed:bad,old")
        await eventually(lambda: bool(run.engine.rejected()))

        run.sidecar.accepts = lambda _: True
        run.feed.put(guard("other", "app", "/"))
        await eventually(lambda: run.sidecar.text == "closed:bad,old,other")
        run.feed.put(guard("bad", "app", "/mended"))

        await eventually(lambda: run.sidecar.text == "bad,old,other")
        assert run.engine.rejected() == {}


async def test_an_object_we_fail_on_goes_and_all_others_are_in_force(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        crash, good = route("crash", "h", "app"), route("new", "h", "app")
        closed = guard("crash", "app", "/")
        run.feed.put(good, crash, closed, guard("new", "app", "/"))

        await eventually(lambda: run.gateway.text == "new,old")
        await eventually(lambda: run.sidecar.text == "closed:crash,new,old")
        await eventually(lambda: run.condition(ObjectRef.of(good)) == "1/1 proxies up to date")
        assert run.condition(ObjectRef.of(crash)) == (
            "The engine cannot work with it: RuntimeError: the mesh has a bug"
        )


async def test_failure_of_ours_without_an_object_is_told_on_every_guard(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        run.feed.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "crash"}})
        deny = guard("deny", "app", "/", action="DENY")
        elsewhere = guard("elsewhere", "other", "/")
        run.feed.put(deny, elsewhere, route("new", "h", "app"))
        await eventually(lambda: run.gateway.text == "new,old,nobody")

        text = "0/1 proxies up to date: default/app could not be configured (see the log)"
        await run.says(deny, text)
        await run.says(guard("old", "app", "/"), text)
        assert run.condition(ObjectRef.of(elsewhere)) == "0/0 proxies up to date"
        assert run.sidecar.text == "old"


async def test_guard_of_a_pod_that_cannot_be_read_is_not_called_in_force(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        pod = workload("app", app=1, sidecar=2)[0]
        pod["metadata"]["annotations"] = {"apirule.local/ports": "spoiled"}
        deny = guard("deny", "app", "/", action="DENY")
        run.feed.put(pod, deny)

        await eventually(lambda: "default/app cannot be told" in run.condition(ObjectRef.of(deny)))


async def test_what_is_wrong_or_unwise_is_told_without_any_proxy(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        bad = guard("bad", "nobody", "/a", action="PERMIT")
        unwise = destination_rule("nowhere", {"mode": "SIMPLE", "insecureSkipVerify": True})
        run.feed.put(bad, unwise)

        await eventually(lambda: "'PERMIT' is not one of" in run.condition(ObjectRef.of(bad)))
        await eventually(lambda: "Nobody checks" in run.condition(ObjectRef.of(unwise), "Advice"))
        assert "There is no Service" in run.condition(ObjectRef.of(unwise), "Advice")

        run.feed.put(destination_rule("app", {"mode": "DISABLE"}))
        await eventually(lambda: not run.condition(ObjectRef.of(unwise), "Advice"))


async def test_status_writes_do_not_cause_another_round(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        rule = route("new", "h", "app")
        run.feed.put(rule)
        await eventually(lambda: run.condition(ObjectRef.of(rule)) == "1/1 proxies up to date")
        configs, writes = run.engine.configs(), len(run.statuses.writes)

        run.feed.write_status(ObjectRef.of(rule), run.feed.objects[ObjectRef.of(rule)]["status"])
        await anyio.wait_all_tasks_blocked()

        assert run.engine.configs() == configs
        assert len(run.statuses.writes) == writes


async def test_workload_certificate_is_replaced_when_it_is_due(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        await eventually(lambda: len(run.sidecar.secrets) == 1)
        run.now += timedelta(hours=17)

        run.feed.put(guard("new", "app", "/"))

        await eventually(lambda: len(run.sidecar.secrets) == 2)
        assert run.sidecar.secrets[0] != run.sidecar.secrets[1]


async def test_workload_certificate_is_replaced_though_nothing_else_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_LONGEST_SLEEP_S", 0.02)
    async with running(tmp_path) as run:
        await eventually(lambda: len(run.sidecar.secrets) == 1)

        run.now += timedelta(hours=17)

        await eventually(lambda: len(run.sidecar.secrets) == 2)


async def test_gateway_gets_no_routes_before_the_sidecars_of_an_earlier_life_are_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "STEP_S", 60.0)
    async with starting(tmp_path) as (run, tasks):
        tasks.start_soon(run.gateway.run)
        await tasks.start(run.engine.run)
        await anyio.wait_all_tasks_blocked()
        before = run.gateway.texts.copy()

        tasks.start_soon(run.sidecar.run)

        await eventually(lambda: run.gateway.text == "old")
        assert before == []


async def test_what_the_machine_refuses_is_tried_again_and_nobody_is_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "RETRY_S", 0.02)
    async with running(tmp_path) as run:
        run.gateway.accepts = lambda _: False
        run.gateway.why = TAKEN
        run.feed.put(route("new", "h", "app"))
        await eventually(lambda: bool(run.engine.fleet.standing(GATEWAY).refusals))
        await anyio.wait_all_tasks_blocked()
        rejected = run.engine.rejected()

        run.gateway.accepts = lambda _: True

        await eventually(lambda: run.gateway.text == "new,old")
        assert rejected == {}


async def test_after_a_refusal_that_nothing_explains_a_proxy_is_told_everything_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "RETRY_S", 0.02)
    async with starting(tmp_path) as (run, tasks):
        # Not even without the route does it take anything.
        run.gateway.accepts = lambda _: False
        tasks.start_soon(run.gateway.run)
        tasks.start_soon(run.sidecar.run)
        await tasks.start(run.engine.run)
        await run.says(route("old", "h", "app"), f"0/1 proxies up to date: {REFUSED}")

        run.gateway.accepts = lambda _: True

        await eventually(lambda: bool(run.gateway.texts))
        assert set(run.gateway.texts) == {"old"}


async def test_workload_that_cannot_be_configured_gets_no_traffic(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        crash = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "crash"}}

        run.feed.put(crash)
        await eventually(lambda: run.gateway.text == "old,nobody")
        run.feed.delete(crash)

        await eventually(lambda: run.gateway.text == "old")


async def test_workload_stays_withheld_while_its_sidecar_is_put_to_the_test_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "RETRY_S", 0.02)
    async with starting(tmp_path) as (run, tasks):
        run.sidecar.accepts = lambda text: text != "listener"
        run.sidecar.why = TAKEN
        tasks.start_soon(run.gateway.run)
        tasks.start_soon(run.sidecar.run)
        await tasks.start(run.engine.run)
        await eventually(lambda: run.sidecar.refusals >= 5)
        meanwhile = set(run.gateway.texts)

        run.sidecar.accepts = lambda _: True

        await eventually(lambda: run.gateway.text == "old")
        assert meanwhile == {"old,nobody"}


async def test_a_pod_that_is_gone_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_LONGEST_SLEEP_S", 0.02)
    async with running(tmp_path) as run:
        known = [str(one.proxy) for one in run.engine.report()]

        run.feed.delete(workload("app", app=1, sidecar=2)[0])
        await eventually(lambda: len(run.engine.report()) == 1)
        run.now += timedelta(hours=17)

        # Its certificate is not waited for.
        await eventually(lambda: (run.authority.renews_at() or run.now) > run.now)
        assert known == [SIDECAR, GATEWAY]
        assert [str(one.proxy) for one in run.engine.report()] == [GATEWAY]
