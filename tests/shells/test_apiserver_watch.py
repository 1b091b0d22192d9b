"""Watches: what a client is told, and when it is told to start anew."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.shells.conftest import RunningApiServer
from tests.shells.http_client import Client
from tests.shells.test_apiserver_http import MAPS, config_map


@pytest.fixture
def new_client(api_server: RunningApiServer) -> Iterator[Callable[[], Client]]:
    clients = []

    def new() -> Client:
        clients.append(Client(api_server.url, api_server.ssl_context()))
        return clients[-1]

    yield new
    for client in clients:
        client.close()


def told(event: Any) -> tuple[str, str]:
    return event["type"], event["object"]["metadata"].get("name", "")


def test_a_watch_begins_with_what_is_there(new_client: Callable[[], Client]) -> None:
    writer = new_client()
    writer.post(MAPS, config_map("old"))

    with new_client().watch(f"{MAPS}?watch=true") as events:
        first = next(events)
        writer.post(MAPS, config_map("new"))
        second = next(events)
        writer.delete(f"{MAPS}/old")
        third = next(events)

    assert [told(event) for event in (first, second, third)] == [
        ("ADDED", "old"),
        ("ADDED", "new"),
        ("DELETED", "old"),
    ]
    versions = [int(e["object"]["metadata"]["resourceVersion"]) for e in (first, second, third)]
    assert versions == sorted(set(versions))


def test_a_watch_goes_on_from_a_version(new_client: Callable[[], Client]) -> None:
    writer = new_client()
    version = writer.post(MAPS, config_map("a")).json["metadata"]["resourceVersion"]
    writer.merge(f"{MAPS}/a", {"data": {"a": "2"}})

    with new_client().watch(f"{MAPS}?watch=1&resourceVersion={version}") as events:
        event = next(events)

    assert told(event) == ("MODIFIED", "a")
    assert event["object"]["data"] == {"a": "2"}


def test_entering_a_selection_is_added_and_leaving_it_deleted(
    new_client: Callable[[], Client],
) -> None:
    writer = new_client()
    writer.post(MAPS, config_map("m"))

    with new_client().watch(f"{MAPS}?watch=true&labelSelector=on%3Dyes") as events:
        writer.merge(f"{MAPS}/m", {"metadata": {"labels": {"on": "yes"}}})
        entered = next(events)
        writer.merge(f"{MAPS}/m", {"data": {"a": "2"}})
        changed = next(events)
        now = writer.merge(f"{MAPS}/m", {"metadata": {"labels": {"on": "no"}}}).json
        left = next(events)

    assert [event["type"] for event in (entered, changed, left)] == ["ADDED", "MODIFIED", "DELETED"]
    # It is shown as it was in the selection, at the version at which it left.
    assert left["object"]["metadata"]["labels"] == {"on": "yes"}
    assert left["object"]["metadata"]["resourceVersion"] == now["metadata"]["resourceVersion"]


def test_initial_events_end_with_a_marked_bookmark(new_client: Callable[[], Client]) -> None:
    new_client().post(MAPS, config_map("m"))
    query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"

    with new_client().watch(f"{MAPS}?{query}&allowWatchBookmarks=true") as events:
        first, second = next(events), next(events)

    assert told(first) == ("ADDED", "m")
    assert second["type"] == "BOOKMARK"
    assert second["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


def test_a_watch_that_sees_nothing_of_a_busy_resource_gets_bookmarks(
    start_api_server: Callable[..., RunningApiServer],
) -> None:
    server = start_api_server(bookmark_every_s=0.2)
    writer, watcher = (Client(server.url, server.ssl_context()) for _ in range(2))
    version = int(writer.post(MAPS, config_map("m")).json["metadata"]["resourceVersion"])
    done = threading.Event()

    def write() -> None:
        count = 0
        while not done.wait(0.02):
            count += 1
            writer.merge(f"{MAPS}/m", {"data": {"a": str(count)}})

    thread = threading.Thread(target=write)
    thread.start()
    try:
        query = "watch=true&labelSelector=on%3Dyes&allowWatchBookmarks=true"
        with watcher.watch(f"{MAPS}?{query}&resourceVersion={version}") as events:
            told_all = [next(events) for _ in range(3)]
    finally:
        done.set()
        thread.join()
        writer.close()

    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in told_all]
    assert {event["type"] for event in told_all} == {"BOOKMARK"}
    assert versions == sorted(versions)
    assert versions[-1] > version


def test_a_watch_that_asks_for_no_bookmarks_gets_none(
    start_api_server: Callable[..., RunningApiServer],
) -> None:
    server = start_api_server(bookmark_every_s=0.05)
    client = Client(server.url, server.ssl_context())

    with client.watch(f"{MAPS}?watch=true&resourceVersion=0&timeoutSeconds=1") as events:
        assert list(events) == []


def test_metadata_only_is_listed_and_watched(new_client: Callable[[], Client]) -> None:
    writer = new_client()
    writer.post(MAPS, config_map("old", labels={"a": "b"}))
    accept = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"

    listed = writer.get(MAPS, Accept=accept.format("List")).json
    with new_client().watch(f"{MAPS}?watch=true", Accept=accept.format("")) as events:
        first = next(events)
        writer.delete(f"{MAPS}/old")
        second = next(events)

    assert (listed["kind"], listed["apiVersion"]) == ("PartialObjectMetadataList", "meta.k8s.io/v1")
    for item in (listed["items"][0], first["object"], second["object"]):
        assert (item["kind"], item["apiVersion"]) == ("PartialObjectMetadata", "meta.k8s.io/v1")
        assert item.keys() == {"kind", "apiVersion", "metadata"}
        assert item["metadata"]["labels"] == {"a": "b"}
    assert [event["type"] for event in (first, second)] == ["ADDED", "DELETED"]


def test_a_version_that_is_no_longer_known_gives_one_410(
    api_server: RunningApiServer, new_client: Callable[[], Client]
) -> None:
    writer = new_client()
    version = writer.post(MAPS, config_map("m")).json["metadata"]["resourceVersion"]
    for number in range(4):
        writer.merge(f"{MAPS}/m", {"data": {"a": str(number)}})
    api_server.portal.call(api_server.app.store.compact, 2)

    with new_client().watch(f"{MAPS}?watch=true&resourceVersion={version}") as events:
        told_all = list(events)

    assert [event["type"] for event in told_all] == ["ERROR"]
    assert (told_all[0]["object"]["code"], told_all[0]["object"]["reason"]) == (410, "Expired")


def test_a_quiet_watch_outlives_compaction(
    api_server: RunningApiServer, new_client: Callable[[], Client]
) -> None:
    writer = new_client()
    secrets = MAPS.replace("configmaps", "secrets")
    version = writer.get(secrets).json["metadata"]["resourceVersion"]

    with new_client().watch(f"{secrets}?watch=true&resourceVersion={version}") as events:
        for number in range(5):
            writer.post(MAPS, config_map(f"m{number}"))
        api_server.portal.call(api_server.app.store.compact, 1)
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}
        writer.post(secrets, secret)
        event = next(events)

    assert told(event) == ("ADDED", "s")


def test_a_watch_ends_when_its_time_is_up(new_client: Callable[[], Client]) -> None:
    with new_client().watch(f"{MAPS}?watch=true&timeoutSeconds=1") as events:
        assert list(events) == []


def test_a_table_watch_sends_the_columns_once(new_client: Callable[[], Client]) -> None:
    writer = new_client()
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io"

    with new_client().watch(f"{MAPS}?watch=true", Accept=accept) as events:
        writer.post(MAPS, config_map("a"))
        first = next(events)
        writer.post(MAPS, config_map("b"))
        second = next(events)

    assert first["object"]["columnDefinitions"][0]["name"] == "Name"
    assert second["object"]["columnDefinitions"] is None
    assert second["object"]["rows"][0]["cells"][0] == "b"


def test_open_watches_do_not_hold_up_the_end_of_the_server(
    start_api_server: Callable[..., RunningApiServer],
) -> None:
    server = start_api_server()
    client = Client(server.url, server.ssl_context())

    with client.watch(f"{MAPS}?watch=true") as events:
        server.portal.call(server.app.end_watches)

        assert list(events) == []


def test_reads_of_the_past_that_is_gone_are_410_and_of_the_future_504(
    api_server: RunningApiServer, new_client: Callable[[], Client]
) -> None:
    client = new_client()
    for number in range(4):
        client.post(MAPS, config_map(f"m{number}"))
    api_server.portal.call(api_server.app.store.compact, 1)

    past = client.get(f"{MAPS}?resourceVersion=2&resourceVersionMatch=Exact")
    future = client.get(f"{MAPS}?resourceVersion=99999")

    assert (past.status, past.json["reason"]) == (410, "Expired")
    assert (future.status, future.json["reason"]) == (504, "Timeout")
