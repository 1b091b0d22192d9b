"""Housekeeping in its own process and time: what it removes, and what it leaves alone."""

from collections.abc import AsyncIterator, Callable
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml
from tests.disks import full_disk
from tests.shells.kubectl_commands import GADGETS
from tests.unit.local.apiserver.asgi import Request, ask

from apirule.local.apiserver import errors, housekeeping
from apirule.local.apiserver.app import ApiServer
from apirule.local.apiserver.calls import Call
from apirule.local.apiserver.housekeeping import EVENT_LIFETIME
from apirule.local.apiserver.refusals import refuse_websocket
from apirule.local.store import EventType, Store
from apirule.names import ObjectName


class Time:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def app(tmp_path: Path, time: Time) -> AsyncIterator[ApiServer]:
    store = Store.open(tmp_path / "api.db")
    app = ApiServer(store, clock=time)
    create(app, {"kind": "Namespace", "metadata": {"name": "n"}})
    yield app
    store.close()


def create(app: ApiServer, obj: dict[str, Any]) -> None:
    kind = app.kinds.of_object("v1", obj["kind"])
    assert kind is not None
    namespace = obj["metadata"].get("namespace", "")
    app.objects.create(kind, namespace, {"apiVersion": "v1", **obj}, Call(Time()()))


def event(name: str) -> dict[str, Any]:
    return {
        "kind": "Event",
        "metadata": {"name": name, "namespace": "n"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "n"},
    }


async def until(app: ApiServer, resource: str, holds: Callable[[], bool]) -> None:
    with anyio.fail_after(10), app.store.watch(resource, app.store.revision) as watch:
        while not holds():
            await watch.wait()
            watch.pending()


async def test_events_are_deleted_when_they_are_too_old(app: ApiServer, time: Time) -> None:
    create(app, event("old"))

    async with anyio.create_task_group() as tasks:
        await tasks.start(app.run)
        time.now += EVENT_LIFETIME + timedelta(minutes=2)
        create(app, {**event("new"), "metadata": {"name": "new", "namespace": "n"}})
        old = ObjectName("n", "old")
        await until(app, "events", lambda: app.store.get("events", old) is None)
        tasks.cancel_scope.cancel()


async def test_what_was_left_undone_is_done_at_the_start(app: ApiServer) -> None:
    owner = {"apiVersion": "v1", "kind": "Secret", "name": "gone", "uid": "1"}
    foreign = {"apiVersion": "other.io/v1", "kind": "Thing", "name": "x", "uid": "2"}
    for name, reference in (("child", owner), ("kept", foreign)):
        metadata = {"name": name, "namespace": "n", "ownerReferences": [reference]}
        create(app, {"kind": "ConfigMap", "metadata": metadata})

    async with anyio.create_task_group() as tasks:
        await tasks.start(app.run)
        tasks.cancel_scope.cancel()

    # An owner that is gone takes its child along; one of a kind we do not know may well live.
    assert [r.name.name for r in app.store.list("configmaps")] == ["kept"]


async def test_housekeeping_outlasts_a_full_disk(
    app: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "RETRY_AFTER_S", 0.01)
    gone = {"apiVersion": "v1", "kind": "Secret", "name": "gone", "uid": "1"}
    metadata = {"name": "child", "namespace": "n", "ownerReferences": [gone]}
    create(app, {"kind": "ConfigMap", "metadata": metadata})

    async with anyio.create_task_group() as tasks:
        with full_disk(app.store):
            # It starts all the same, and leaves the orphan for later.
            await tasks.start(app.run)
            assert app.store.list("configmaps")
        await until(app, "configmaps", lambda: not app.store.list("configmaps"))
        tasks.cancel_scope.cancel()


async def test_housekeeping_ends_with_the_store(app: ApiServer) -> None:
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.run)
            app.store.close()


async def test_the_feed_tells_a_deletion_as_one(app: ApiServer) -> None:
    batches = app.store.follow(frozenset(("events",)))
    await anext(batches)
    create(app, event("e"))
    app.store.delete("events", ObjectName("n", "e"))

    types = [change.type for change in await anext(batches)]

    assert types == [EventType.ADDED, EventType.DELETED]


async def test_a_websocket_gets_a_status_and_never_hangs() -> None:
    sent = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await refuse_websocket(errors.not_offered("not here"), receive, send)

    assert sent[0]["status"] == 501
    assert b"not here" in sent[1]["body"]


OLD_POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "old", "namespace": "n", "uid": "1"},
    "spec": {"nodeName": "apirule", "containers": [{"name": "c", "image": "i"}]},
}


async def tidied(app: ApiServer) -> None:
    async with anyio.create_task_group() as tasks:
        await tasks.start(app.run)
        tasks.cancel_scope.cancel()


async def test_a_pod_of_an_older_version_can_be_labelled(app: ApiServer) -> None:
    app.store.create("pods", deepcopy(OLD_POD))
    pod = Request("GET", "/api/v1/namespaces/n/pods/old")
    label = {"metadata": {"labels": {"a": "b"}}}

    await tidied(app)
    shown = await ask(app, pod)
    patch = replace(pod, method="PATCH", body=label, content_type="application/merge-patch+json")
    labelled = await ask(app, patch)

    assert shown.json["spec"]["terminationGracePeriodSeconds"] == 30
    assert labelled.status == 200, labelled.body
    assert labelled.json["metadata"]["labels"] == {"a": "b"}
    # The defaults are nobody's.
    (entry,) = labelled.json["metadata"]["managedFields"]
    assert "f:spec" not in entry["fieldsV1"]


async def test_what_is_complete_is_not_written_again(app: ApiServer) -> None:
    app.store.create("pods", deepcopy(OLD_POD))
    await tidied(app)
    before = app.store.revision

    await tidied(app)

    assert app.store.revision == before


async def test_a_default_that_a_crd_learns_is_in_what_is_stored(app: ApiServer) -> None:
    crd = yaml.safe_load(GADGETS)
    (version,) = crd["spec"]["versions"]
    size = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["size"]
    default = size.pop("default")
    crds = Request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
    gadget = "/apis/example.com/v1/namespaces/n/gadgets"
    one = {"apiVersion": "example.com/v1", "kind": "Gadget", "metadata": {"name": "one"}}
    created = await ask(app, crds)
    await ask(app, Request("POST", gadget, {**one, "spec": {}}))
    size["default"] = default
    crd["metadata"] = created.json["metadata"]

    await ask(app, replace(crds, method="PUT", path=f"{crds.path}/gadgets.example.com", body=crd))
    await tidied(app)
    shown = await ask(app, Request("GET", f"{gadget}/one"))

    assert shown.json["spec"] == {"size": 3}
    assert shown.json["metadata"]["generation"] == 1


async def test_what_was_stored_in_another_version_is_read_in_the_one_asked_for(
    app: ApiServer,
) -> None:
    crd = yaml.safe_load(GADGETS)
    (v1,) = crd["spec"]["versions"]
    crds = Request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
    created = await ask(app, crds)
    one = {"apiVersion": "example.com/v1", "kind": "Gadget", "metadata": {"name": "one"}}
    await ask(app, Request("POST", "/apis/example.com/v1/namespaces/n/gadgets", one))
    crd["metadata"] = created.json["metadata"]
    crd["spec"]["versions"] = [{**v1, "storage": False}, {**v1, "name": "v2"}]

    await ask(app, replace(crds, method="PUT", path=f"{crds.path}/gadgets.example.com", body=crd))

    for version in ("v1", "v2"):
        gadgets = f"/apis/example.com/{version}/namespaces/n/gadgets"
        single = await ask(app, Request("GET", f"{gadgets}/one"))
        listed = await ask(app, Request("GET", gadgets))
        assert single.json["apiVersion"] == f"example.com/{version}"
        assert [item["apiVersion"] for item in listed.json["items"]] == [f"example.com/{version}"]


async def test_a_full_disk_does_not_keep_an_old_pod_from_being_read(
    app: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "RETRY_AFTER_S", 0)
    app.store.create("pods", deepcopy(OLD_POD))

    async with anyio.create_task_group() as tasks:
        with full_disk(app.store):
            await tasks.start(app.run)
        await until(app, "pods", lambda: "dnsPolicy" in pod_spec(app))
        tasks.cancel_scope.cancel()


def pod_spec(app: ApiServer) -> dict[str, Any]:
    record = app.store.get("pods", ObjectName("n", "old"))
    assert record is not None
    spec: dict[str, Any] = record.decode()["spec"]
    return spec
