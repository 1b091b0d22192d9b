from collections.abc import AsyncIterator

import anyio
import pytest
from anyio.abc import TaskGroup
from prometheus_client import CollectorRegistry
from tests.unit.kube.fake_api import FakeApi

from apirule.apis.meta import GroupVersionKind
from apirule.kube import informer as informer_module
from apirule.kube.client import Client
from apirule.kube.controller import DONE, Controller, ControllerMetrics, Result, Source
from apirule.kube.errors import AlreadyExists, ApiError
from apirule.kube.informer import Delta, Informers
from apirule.names import ObjectName

CONFIG_MAP = GroupVersionKind("", "v1", "ConfigMap")
WIDGET = GroupVersionKind("test.io", "v1", "Widget")


class Recorder:
    """A reconcile that does what it is told and lets the test wait for passes."""

    def __init__(self, *outcomes: Exception | Result) -> None:
        self.names: list[ObjectName] = []
        self._outcomes = list(outcomes)
        self._changed = anyio.Event()

    async def __call__(self, name: ObjectName) -> Result:
        self.names.append(name)
        self._changed.set()
        self._changed = anyio.Event()
        outcome = self._outcomes.pop(0) if self._outcomes else DONE
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def passes(self, count: int) -> None:
        with anyio.fail_after(10):
            while len(self.names) < count:
                await self._changed.wait()


@pytest.fixture
async def tasks(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TaskGroup]:
    monkeypatch.setattr(informer_module, "FIRST_DELAY_S", 0.002)
    async with anyio.create_task_group() as tasks:
        yield tasks
        tasks.cancel_scope.cancel()


async def test_every_object_and_every_change_is_reconciled(
    api: FakeApi, client: Client, tasks: TaskGroup
) -> None:
    api.put("configmaps", "shop", "a")
    informers, reconcile = Informers(client), Recorder()
    controller = Controller("test", reconcile, [Source(informers.of(CONFIG_MAP))])
    await tasks.start(informers.run)
    await tasks.start(controller.run)

    await reconcile.passes(1)
    api.put("configmaps", "shop", "b")
    await reconcile.passes(2)
    api.remove("configmaps", "shop", "a")
    await reconcile.passes(3)

    assert [name.name for name in reconcile.names] == ["a", "b", "a"]


async def test_a_change_elsewhere_reconciles_the_names_it_concerns(
    api: FakeApi, client: Client, tasks: TaskGroup
) -> None:
    def owners(delta: Delta) -> list[ObjectName]:
        return [ObjectName("shop", name) for name in delta.current["data"]["for"].split(",")]

    informers, reconcile = Informers(client), Recorder()
    sources = [Source(informers.of(WIDGET)), Source(informers.of(CONFIG_MAP), owners)]
    await tasks.start(informers.run)
    await tasks.start(Controller("test", reconcile, sources).run)

    api.put("configmaps", "shop", "c", data={"for": "x,y"})
    await reconcile.passes(2)

    assert sorted(reconcile.names) == [ObjectName("shop", "x"), ObjectName("shop", "y")]


async def test_a_failed_pass_is_repeated_and_a_crash_does_not_stop_the_work(
    api: FakeApi, client: Client, tasks: TaskGroup
) -> None:
    api.put("configmaps", "shop", "a")
    informers = Informers(client)
    reconcile = Recorder(ApiError(500, "no"), ValueError("crash"), AlreadyExists(409, "again"))
    registry = CollectorRegistry()
    controller = Controller(
        "test",
        reconcile,
        [Source(informers.of(CONFIG_MAP))],
        base_delay_s=0.001,
        metrics=ControllerMetrics(registry),
    )
    await tasks.start(informers.run)
    await tasks.start(controller.run)

    await reconcile.passes(4)
    await anyio.wait_all_tasks_blocked()

    def passes(outcome: str) -> float | None:
        labels = {"controller": "test", "outcome": outcome}
        return registry.get_sample_value("apirule_reconcile_total", labels)

    assert (passes("error"), passes("conflict"), passes("ok")) == (2, 1, 1)
    assert controller.queue.failures(ObjectName("shop", "a")) == 0


async def test_a_pass_may_ask_for_another_one(
    api: FakeApi, client: Client, tasks: TaskGroup
) -> None:
    api.put("configmaps", "shop", "a")
    informers, reconcile = Informers(client), Recorder(Result(requeue_after_s=0.001))
    await tasks.start(informers.run)
    await tasks.start(Controller("test", reconcile, [Source(informers.of(CONFIG_MAP))]).run)

    await reconcile.passes(2)

    assert reconcile.names == [ObjectName("shop", "a")] * 2


async def test_endless_conflicts_fall_back_to_the_growing_delay(
    api: FakeApi, client: Client, tasks: TaskGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apirule.kube.controller.CONFLICT_DELAY_S", 0.0005)
    api.put("configmaps", "shop", "a")
    informers = Informers(client)
    reconcile = Recorder(*[AlreadyExists(409, "again")] * 8)
    controller = Controller(
        "test", reconcile, [Source(informers.of(CONFIG_MAP))], base_delay_s=1000.0
    )
    await tasks.start(informers.run)
    await tasks.start(controller.run)

    await reconcile.passes(6)
    await anyio.wait_all_tasks_blocked()

    assert controller.queue.failures(ObjectName("shop", "a")) == 1
    assert len(reconcile.names) == 6


async def test_a_controller_starts_although_a_kind_is_missing(
    api: FakeApi, client: Client, tasks: TaskGroup
) -> None:
    api.widgets_served = False
    api.put("configmaps", "shop", "a")
    informers, reconcile = Informers(client), Recorder()
    sources = [Source(informers.of(CONFIG_MAP)), Source(informers.of(WIDGET))]
    await tasks.start(informers.run)

    await tasks.start(Controller("test", reconcile, sources).run)
    await reconcile.passes(1)

    assert reconcile.names == [ObjectName("shop", "a")]
