"""The store: one order of changes, on disk and in memory, for writers, watches and followers."""

import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.disks import full_disk

from apirule.local.store import Change, EventType, Expired, Store, UnwritableError
from apirule.local.store.sqlite import AlreadyExistsError, MissingError, StaleError
from apirule.names import ObjectName
from apirule.problem import SetupError

MAPS = "configmaps"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "api.db")
    yield store
    store.close()


def obj(name: str, value: str = "", namespace: str = "n") -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"v": value}}


def names(store: Store, **how: Any) -> list[str]:
    return [record.name.name for record in store.list(MAPS, **how)]


def test_each_write_has_the_next_revision_over_all_kinds(store: Store) -> None:
    one = store.create(MAPS, obj("a"))
    two = store.create("secrets", obj("a"))
    three = store.update(MAPS, obj("a", "x"))
    four = store.delete("secrets", ObjectName("n", "a"))

    assert [r.revision for r in (one, two, three, four)] == [1, 2, 3, 4]
    assert store.revision == 4
    assert three.decode()["metadata"]["resourceVersion"] == "3"
    assert four.decode()["metadata"]["resourceVersion"] == "4"


def test_a_write_that_expects_another_revision_is_refused(store: Store) -> None:
    first = store.create(MAPS, obj("a"))
    store.update(MAPS, obj("a", "x"), expected=first.revision)

    with pytest.raises(StaleError):
        store.update(MAPS, obj("a", "y"), expected=first.revision)
    with pytest.raises(StaleError):
        store.delete(MAPS, ObjectName("n", "a"), expected=first.revision)
    with pytest.raises(AlreadyExistsError):
        store.create(MAPS, obj("a"))
    with pytest.raises(MissingError):
        store.update(MAPS, obj("b"))
    assert store.revision == 2


def test_objects_are_listed_by_name_within_their_namespace(store: Store) -> None:
    for name, namespace in (("b", "n"), ("a", "n"), ("c", "m"), ("z", "n-1")):
        store.create(MAPS, obj(name, namespace=namespace))

    assert names(store, namespace="n") == ["a", "b"]
    assert names(store) == ["c", "a", "b", "z"]


def test_the_past_can_be_listed(store: Store) -> None:
    store.create(MAPS, obj("a", "old"))
    at = store.create(MAPS, obj("b")).revision
    store.update(MAPS, obj("a", "new"))
    store.delete(MAPS, ObjectName("n", "b"))
    store.create(MAPS, obj("c"))

    past = store.list(MAPS, at=at)

    assert [record.name.name for record in past] == ["a", "b"]
    assert past[0].decode()["data"] == {"v": "old"}


def test_a_store_opens_with_its_objects_history_and_revision(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "api.db")
    store.create(MAPS, obj("a", "1"))
    store.update(MAPS, obj("a", "2"))
    store.create(MAPS, obj("b"))
    store.delete(MAPS, ObjectName("n", "b"))
    store.close()

    again = Store.open(tmp_path / "api.db")

    assert again.revision == 4
    assert names(again) == ["a"]
    with again.watch(MAPS, 1) as watch:
        events = [(event.type, event.record.name.name) for event in watch.pending()]
    assert events == [
        (EventType.MODIFIED, "a"),
        (EventType.ADDED, "b"),
        (EventType.DELETED, "b"),
    ]
    again.close()


def test_compaction_forgets_the_past_and_keeps_the_objects(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "api.db")
    for number in range(10):
        store.create(MAPS, obj(f"o{number}"))
    store.update(MAPS, obj("o1", "new"))
    store.delete(MAPS, ObjectName("n", "o0"))
    store.create(MAPS, obj("last"))

    store.compact(1)

    assert store.floor == 12
    with pytest.raises(Expired):
        store.watch(MAPS, 5)
    with pytest.raises(Expired):
        store.list(MAPS, at=5)
    store.close()
    again = Store.open(tmp_path / "api.db")
    assert (again.revision, again.floor) == (13, 12)
    assert names(again) == ["last", *(f"o{number}" for number in range(1, 10))]
    record = again.get(MAPS, ObjectName("n", "o1"))
    assert record is not None
    assert record.decode()["data"] == {"v": "new"}
    again.close()


def test_the_history_is_compacted_as_it_grows(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "api.db", history_size=10)
    store.create(MAPS, obj("a"))
    for number in range(50):
        store.update(MAPS, obj("a", str(number)))
    store.close()

    rows = sqlite3.connect(tmp_path / "api.db")
    (count,) = rows.execute("SELECT count(*) FROM log").fetchone()
    rows.close()

    assert count <= 21


def test_what_the_disk_does_not_take_has_not_happened(store: Store, tmp_path: Path) -> None:
    store.create(MAPS, obj("a", "1"))
    # SQLite itself says that the disk is full.
    store._database.execute("PRAGMA max_page_count = 1")
    large = "x" * 100_000

    writes: list[Callable[[], Any]] = [
        lambda: store.create(MAPS, obj("b", large)),
        lambda: store.update(MAPS, obj("a", large)),
        lambda: store.delete(MAPS, ObjectName("n", "a"), last=obj("a", large)),
    ]
    for write in writes:
        with pytest.raises(UnwritableError, match=f"disk of the state folder {tmp_path} is full"):
            write()

    assert (store.revision, names(store)) == (1, ["a"])
    store._database.execute("PRAGMA max_page_count = 1000000")
    assert store.create(MAPS, obj("b", large)).revision == 2


def test_a_write_stays_written_when_compacting_after_it_fails(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "api.db", history_size=10)

    with full_disk(store, "DELETE"):
        for number in range(40):
            store.create(MAPS, obj(f"o{number:02}"))
    kept = store.floor
    for number in range(40, 60):
        store.create(MAPS, obj(f"o{number:02}"))

    assert kept == 0
    assert store.floor > 0
    store.close()
    again = Store.open(tmp_path / "api.db")
    assert len(names(again)) == 60
    again.close()


def test_a_watch_from_the_future_is_expired(store: Store) -> None:
    # The state was thrown away: the client must begin anew.
    with pytest.raises(Expired):
        store.watch(MAPS, 7)


def test_only_the_owner_may_read_the_files(store: Store, tmp_path: Path) -> None:
    store.create(MAPS, obj("a"))

    modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}

    assert modes == {0o600}


def test_a_store_that_is_in_use_damaged_or_newer_is_refused(tmp_path: Path) -> None:
    first = Store.open(tmp_path / "api.db")
    with pytest.raises(SetupError, match="cannot be opened"):
        Store.open(tmp_path / "api.db")
    first.close()

    (tmp_path / "bad.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(SetupError, match="damaged"):
        Store.open(tmp_path / "bad.db")

    newer = sqlite3.connect(tmp_path / "api.db")
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(SetupError, match="format 99"):
        Store.open(tmp_path / "api.db")
    with pytest.raises(SetupError, match="cannot be opened"):
        Store.open(tmp_path / "missing" / "api.db")


async def test_a_follower_gets_what_is_there_and_then_everything_in_order(store: Store) -> None:
    store.create(MAPS, obj("a"))
    store.create("secrets", obj("s"))
    store.create("pods", obj("other"))
    batches = store.follow(frozenset((MAPS, "secrets")))

    first = await anext(batches)
    store.update("secrets", obj("s", "x"))
    store.create("pods", obj("p"))
    store.delete(MAPS, ObjectName("n", "a"))
    second = await anext(batches)

    assert [_told(change) for change in first] == [
        (1, "ADDED", MAPS, "a"),
        (2, "ADDED", "secrets", "s"),
    ]
    assert [_told(change) for change in second] == [
        (4, "MODIFIED", "secrets", "s"),
        (6, "DELETED", MAPS, "a"),
    ]
    assert second[0].object["data"] == {"v": "x"}


async def test_a_slow_follower_loses_nothing_to_compaction(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "api.db", history_size=5)
    batches = store.follow()
    await anext(batches)

    for number in range(40):
        store.create(MAPS, obj(f"o{number}"))
    changes = await anext(batches)

    assert len(changes) == 40
    store.close()


async def test_followers_end_with_the_store(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "api.db")
    batches = store.follow()
    await anext(batches)

    store.close()

    with anyio.fail_after(30), pytest.raises(StopAsyncIteration):
        await anext(batches)


async def test_a_watch_wakes_for_its_own_resource_only(store: Store) -> None:
    with store.watch(MAPS, store.revision) as watch:
        store.create("secrets", obj("s"))
        with anyio.move_on_after(0.01) as waited:
            await watch.wait()
        store.create(MAPS, obj("a"))
        with anyio.fail_after(30):
            await watch.wait()

        assert waited.cancelled_caught
        assert [event.record.name.name for event in watch.pending()] == ["a"]


def _told(change: Change) -> tuple[int, str, str, str]:
    return change.revision, change.type.value, change.resource, change.object["metadata"]["name"]


WRITER = """
import sys
from pathlib import Path
from apirule.local.store import Store

store = Store.open(Path(sys.argv[1]), history_size=50)
for number in range(10**6):
    metadata = {"name": f"o{number % 300}", "namespace": "n"}
    write = store.create if number < 300 else store.update
    record = write("configmaps", {"metadata": metadata, "data": {"v": str(number)}})
    print(number, record.revision, flush=True)
"""


def test_a_kill_takes_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    file = tmp_path / "api.db"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        said = [next(writer.stdout) for _ in range(600)]
        writer.kill()
        said += writer.stdout.readlines()
    acknowledged = {}
    for line in said:
        # The last line may have been cut off.
        if line.endswith("\n"):
            number, revision = map(int, line.split())
            acknowledged[f"o{number % 300}"] = (str(number), revision)

    with closing(Store.open(file)) as store:
        kept = {record.name.name: record for record in store.list(MAPS)}

    for name, (value, revision) in acknowledged.items():
        # What had been written and not yet told may be there, too.
        assert kept[name].revision >= revision
        if kept[name].revision == revision:
            assert kept[name].decode()["data"] == {"v": value}
