from collections.abc import AsyncIterator

import anyio
import pytest
from anyio.abc import TaskGroup
from tests.unit.kube.fake_api import FakeApi
from tests.unit.kube.seen import Seen

from apirule.apis.meta import GroupVersionKind, Object
from apirule.kube import informer as module
from apirule.kube.client import Client
from apirule.kube.informer import (
    Delta,
    Informer,
    Informers,
    controller_of,
    label_index,
    owner_index,
)
from apirule.names import ObjectName

CONFIG_MAP = GroupVersionKind("", "v1", "ConfigMap")
WIDGET = GroupVersionKind("test.io", "v1", "Widget")


@pytest.fixture
async def tasks(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TaskGroup]:
    monkeypatch.setattr(module, "FIRST_DELAY_S", 0.002)
    async with anyio.create_task_group() as tasks:
        yield tasks
        tasks.cancel_scope.cancel()


async def follow(tasks: TaskGroup, informer: Informer) -> Seen:
    seen = Seen()
    informer.add_handler(seen)
    tasks.start_soon(informer.run)
    with anyio.fail_after(10):
        await informer.synced.wait()
    return seen


def names(informer: Informer) -> list[str]:
    return sorted(obj["metadata"]["name"] for obj in informer)


async def test_what_exists_and_what_comes_is_reported(
    api: FakeApi, client: Client, tasks: TaskGroup
) -> None:
    api.put("configmaps", "shop", "a")
    informer = Informer(client, CONFIG_MAP)
    seen = await follow(tasks, informer)

    api.put("configmaps", "shop", "b")
    api.put("configmaps", "shop", "a", data={"k": "v"})
    api.remove("configmaps", "shop", "b")
    await seen.until(lambda: len(seen.deltas) == 4)

    assert seen.deltas == [("new", "a"), ("new", "b"), ("changed", "a"), ("gone", "b")]
    assert informer.get(ObjectName("shop", "a")) is not None
    assert names(informer) == ["a"]


async def test_managed_fields_are_not_kept(api: FakeApi, client: Client, tasks: TaskGroup) -> None:
    api.put("configmaps", "shop", "a")
    informer = Informer(client, CONFIG_MAP)

    await follow(tasks, informer)

    assert [obj["metadata"].get("managedFields") for obj in informer] == [None]


@pytest.mark.parametrize("as_status", [False, True], ids=["in the stream", "as an HTTP status"])
async def test_after_a_410_there_are_no_ghosts_and_nothing_is_stale(
    api: FakeApi, client: Client, tasks: TaskGroup, as_status: bool
) -> None:
    api.gone_as_http_status = as_status
    for name in ("kept", "changed", "deleted", "replaced"):
        api.put("configmaps", "shop", name)
    informer = Informer(client, CONFIG_MAP)
    seen = await follow(tasks, informer)

    api.log.clear()
    api.put("configmaps", "shop", "changed", data={"k": "v"})
    api.remove("configmaps", "shop", "deleted")
    api.remove("configmaps", "shop", "replaced")
    api.put("configmaps", "shop", "replaced")
    api.put("configmaps", "shop", "added")
    api.log.clear()
    api.compact()
    seen.deltas.clear()
    api.end_watches()
    await seen.until(lambda: ("gone", "deleted") in seen.deltas)

    assert sorted(seen.deltas) == [
        ("changed", "changed"),
        ("gone", "deleted"),
        ("gone", "replaced"),
        ("new", "added"),
        ("new", "replaced"),
    ]
    assert names(informer) == ["added", "changed", "kept", "replaced"]


async def test_a_stream_that_ends_goes_on_where_it_was(
    api: FakeApi, client: Client, tasks: TaskGroup
) -> None:
    informer = Informer(client, CONFIG_MAP)
    seen = await follow(tasks, informer)

    for index in range(3):
        api.put("configmaps", "shop", f"c{index}")
        api.end_watches()
    await seen.until(lambda: len(seen.deltas) == 3)

    lists = [path for _, path in api.requests if "/configmaps" in path and "watch" not in path]
    assert seen.deltas == [("new", "c0"), ("new", "c1"), ("new", "c2")]
    assert len(lists) == 1


async def test_a_bookmark_spares_a_list_after_the_log_was_cut(
    api: FakeApi, client: Client, tasks: TaskGroup
) -> None:
    informer = Informer(client, CONFIG_MAP)
    seen = await follow(tasks, informer)
    api.put("configmaps", "shop", "a")
    await seen.until(lambda: len(seen.deltas) == 1)

    # Revisions of other kinds go by; the bookmark tells the informer that it missed nothing.
    api.revision += 100
    api.bookmark()
    api.put("configmaps", "shop", "b")
    await seen.until(lambda: len(seen.deltas) == 2)
    api.floor = api.revision - 1
    api.end_watches()
    api.put("configmaps", "shop", "c")
    await seen.until(lambda: len(seen.deltas) == 3)

    lists = [path for _, path in api.requests if "/configmaps" in path and "watch" not in path]
    assert len(lists) == 1


async def test_errors_of_the_server_are_outlived(
    api: FakeApi, client: Client, tasks: TaskGroup
) -> None:
    await client.resource(CONFIG_MAP)
    api.put("configmaps", "shop", "a")
    api.refuse(500, "InternalError")
    api.refuse(429, "TooManyRequests")
    informer = Informer(client, CONFIG_MAP)

    await follow(tasks, informer)

    assert names(informer) == ["a"]
    assert informer.error is None


async def test_a_missing_kind_settles_and_is_followed_when_its_crd_comes(
    api: FakeApi, client: Client, tasks: TaskGroup
) -> None:
    api.widgets_served = False
    api.put("widgets", "shop", "w")
    informer = Informer(client, WIDGET)
    states: list[bool] = []
    informer.on_state_change(lambda: states.append(informer.missing))
    seen = Seen()
    informer.add_handler(seen)
    tasks.start_soon(informer.run)

    with anyio.fail_after(10):
        await informer.settled.wait()
    missing_at_first, synced_at_first = informer.missing, informer.synced.is_set()
    api.widgets_served = True
    await seen.until(lambda: seen.deltas == [("new", "w")])
    with anyio.fail_after(10):
        await informer.synced.wait()

    assert (missing_at_first, synced_at_first) == (True, False)
    assert states == [True, False]


async def test_indexes_follow_changes(api: FakeApi, client: Client, tasks: TaskGroup) -> None:
    informer = Informer(client, CONFIG_MAP, indexes={"app": label_index("app")})
    api.put("configmaps", "shop", "b", metadata={"labels": {"app": "x"}})
    api.put("configmaps", "shop", "a", metadata={"labels": {"app": "x"}})
    api.put("configmaps", "shop", "c")
    seen = await follow(tasks, informer)
    before = [obj["metadata"]["name"] for obj in informer.by_index("app", "x")]

    api.put("configmaps", "shop", "a", metadata={"labels": {"app": "y"}})
    api.remove("configmaps", "shop", "b")
    await seen.until(lambda: len(seen.deltas) == 5)

    assert before == ["a", "b"]
    assert informer.by_index("app", "x") == []
    assert [obj["metadata"]["name"] for obj in informer.by_index("app", "y")] == ["a"]


async def test_an_index_and_a_handler_added_late_see_everything(
    api: FakeApi, client: Client, tasks: TaskGroup
) -> None:
    api.put("configmaps", "shop", "a", metadata={"labels": {"app": "x"}})
    informer = Informer(client, CONFIG_MAP)
    await follow(tasks, informer)
    late = Seen()

    informer.add_index("app", label_index("app"))
    informer.add_handler(late)

    assert [obj["metadata"]["name"] for obj in informer.by_index("app", "x")] == ["a"]
    assert late.deltas == [("new", "a")]


async def test_a_handler_that_fails_does_not_stop_the_others(
    api: FakeApi, client: Client, tasks: TaskGroup
) -> None:
    informer = Informer(client, CONFIG_MAP)

    def broken(_: Delta) -> None:
        raise ValueError("no")

    informer.add_handler(broken)
    seen = await follow(tasks, informer)
    api.put("configmaps", "shop", "a")
    await seen.until(lambda: seen.deltas == [("new", "a")])

    assert names(informer) == ["a"]


async def test_each_kind_is_watched_once_and_late_ones_run_too(
    api: FakeApi, client: Client, tasks: TaskGroup
) -> None:
    informers = Informers(client)
    first = informers.of(CONFIG_MAP)
    await tasks.start(informers.run)

    late = informers.of(WIDGET)
    with anyio.fail_after(10):
        await late.synced.wait()

    assert first.synced.is_set()
    assert informers.of(CONFIG_MAP) is first


def test_owners_are_found() -> None:
    owner = {"apiVersion": "test.io/v1", "kind": "Widget", "name": "w", "uid": "u"}
    obj: Object = {
        "metadata": {"namespace": "shop", "ownerReferences": [owner | {"controller": True}]}
    }
    uncontrolled: Object = {"metadata": {"namespace": "shop", "ownerReferences": [owner]}}

    assert list(owner_index(obj)) == ["u"]
    assert controller_of(obj, WIDGET) == ObjectName("shop", "w")
    assert controller_of(obj, CONFIG_MAP) is None
    assert controller_of(uncontrolled, WIDGET) is None
