"""What happens behind the API: namespaces, owners, CRDs, service accounts; and the logs of Pods."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.shells.conftest import RunningApiServer
from tests.shells.http_client import Answer, Client
from tests.shells.kubectl_commands import GADGET, GADGETS
from tests.shells.test_apiserver_http import MAPS, config_map

SPACES = "/api/v1/namespaces"
PODS = f"{SPACES}/default/pods"


@pytest.fixture
def client(api_server: RunningApiServer) -> Iterator[Client]:
    client = Client(api_server.url, api_server.ssl_context())
    yield client
    client.close()


@pytest.fixture
def watcher(api_server: RunningApiServer) -> Iterator[Client]:
    client = Client(api_server.url, api_server.ssl_context())
    yield client
    client.close()


def wait_until_gone(watcher: Client, path: str, name: str, version: str) -> None:
    query = f"watch=true&fieldSelector=metadata.name%3D{name}&resourceVersion={version}"
    with watcher.watch(f"{path}?{query}&timeoutSeconds=10") as events:
        assert "DELETED" in (event["type"] for event in events), f"{name} is still there"


def owned_by(owner: Answer, **more: Any) -> list[dict[str, Any]]:
    metadata = owner.json["metadata"]
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": metadata["name"],
            "uid": metadata["uid"],
            **more,
        }
    ]


def version_of(answer: Answer) -> str:
    return str(answer.json["metadata"]["resourceVersion"])


def test_every_namespace_gets_a_default_service_account(client: Client, watcher: Client) -> None:
    accounts = f"{SPACES}/fresh/serviceaccounts"
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "fresh"}}

    with watcher.watch(f"{accounts}?watch=true&timeoutSeconds=10") as events:
        client.post(SPACES, space)
        first = next(events)

    assert first["object"]["metadata"]["name"] == "default"


def test_a_namespace_goes_with_all_that_is_in_it(client: Client, watcher: Client) -> None:
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "gone"}}
    client.post(SPACES, space)
    client.post(f"{SPACES}/gone/configmaps", config_map("m"))

    deleted = client.delete(f"{SPACES}/gone")
    wait_until_gone(watcher, SPACES, "gone", version_of(deleted))

    assert deleted.json["status"]["phase"] == "Terminating"
    assert client.get(f"{SPACES}/gone").status == 404
    assert client.get(f"{SPACES}/gone/configmaps").json["items"] == []


def test_the_namespaces_that_everything_needs_cannot_be_deleted(client: Client) -> None:
    answer = client.delete(f"{SPACES}/default")

    assert (answer.status, answer.json["reason"]) == (403, "Forbidden")
    assert client.get(f"{SPACES}/default").json["status"]["phase"] == "Active"


def test_nothing_is_created_in_a_namespace_that_is_going(client: Client, watcher: Client) -> None:
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "going"}}
    client.post(SPACES, space)
    held = client.post(f"{SPACES}/going/configmaps", config_map("m", finalizers=["test.io/hold"]))
    deleted = client.delete(f"{SPACES}/going")

    refused = client.post(
        f"{SPACES}/going/secrets",
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "s"},
        },
    )

    assert held.status == 201
    assert (refused.status, refused.json["reason"]) == (403, "Forbidden")
    assert refused.json["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    query = "watch=true&fieldSelector=metadata.name%3Dgoing&timeoutSeconds=10"
    with watcher.watch(f"{SPACES}?{query}&resourceVersion={version_of(deleted)}") as events:
        waiting = next(
            e["object"]["status"] for e in events if "conditions" in e["object"]["status"]
        )
    assert [(c["status"], c["message"]) for c in waiting["conditions"]] == [
        ("True", "Some resources are remaining: configmaps. has 1 resource instances"),
        (
            "True",
            (
                "Some content in the namespace has finalizers remaining: test.io/hold in 1 resource"
                " instances"
            ),
        ),
    ]
    client.merge(f"{SPACES}/going/configmaps/m", {"metadata": {"finalizers": None}})
    wait_until_gone(watcher, SPACES, "going", version_of(deleted))


def test_children_go_after_their_last_owner(client: Client, watcher: Client) -> None:
    one, two = client.post(MAPS, config_map("one")), client.post(MAPS, config_map("two"))
    owners = owned_by(one) + owned_by(two)
    child = client.post(MAPS, config_map("child", ownerReferences=owners))

    client.delete(f"{MAPS}/one")
    # Housekeeping works in the order of changes: when this orphan is gone, it has seen the rest.
    canary = client.post(MAPS, config_map("canary", ownerReferences=owned_by(one)))
    wait_until_gone(watcher, MAPS, "canary", version_of(canary))
    assert client.get(f"{MAPS}/child").status == 200

    client.delete(f"{MAPS}/two")
    wait_until_gone(watcher, MAPS, "child", version_of(child))


def test_in_the_foreground_the_owner_waits_for_its_children(
    client: Client, watcher: Client
) -> None:
    owner = client.post(MAPS, config_map("owner"))
    references = owned_by(owner, blockOwnerDeletion=True)
    client.post(MAPS, config_map("child", ownerReferences=references, finalizers=["test.io/hold"]))

    deleted = client.delete(f"{MAPS}/owner", {"propagationPolicy": "Foreground"})
    with watcher.watch(
        f"{MAPS}?watch=true&fieldSelector=metadata.name%3Dchild&timeoutSeconds=10"
        f"&resourceVersion={version_of(deleted)}"
    ) as events:
        marked = next(events)

    assert deleted.json["metadata"]["finalizers"] == ["foregroundDeletion"]
    assert marked["object"]["metadata"]["deletionTimestamp"]
    assert client.get(f"{MAPS}/owner").status == 200
    client.merge(f"{MAPS}/child", {"metadata": {"finalizers": None}})
    wait_until_gone(watcher, MAPS, "owner", version_of(deleted))


def test_an_owner_does_not_wait_for_a_child_that_does_not_block_it(
    client: Client, watcher: Client
) -> None:
    owner = client.post(MAPS, config_map("owner"))
    references = owned_by(owner, blockOwnerDeletion=False)
    client.post(MAPS, config_map("child", ownerReferences=references, finalizers=["test.io/hold"]))

    deleted = client.delete(f"{MAPS}/owner", {"propagationPolicy": "Foreground"})
    wait_until_gone(watcher, MAPS, "owner", version_of(deleted))

    assert "deletionTimestamp" in client.get(f"{MAPS}/child").json["metadata"]


def test_a_child_keeps_the_owners_that_live(client: Client, watcher: Client) -> None:
    lives, goes = client.post(MAPS, config_map("lives")), client.post(MAPS, config_map("goes"))
    never = {"apiVersion": "v1", "kind": "ConfigMap", "name": "never", "uid": "1234"}
    owners = [*owned_by(lives), *owned_by(goes), never]
    child = client.post(MAPS, config_map("child", ownerReferences=owners))
    client.delete(f"{MAPS}/goes")

    query = "watch=true&fieldSelector=metadata.name%3Dchild&timeoutSeconds=10"
    with watcher.watch(f"{MAPS}?{query}&resourceVersion={version_of(child)}") as events:
        names = next(
            names
            for event in events
            if len(names := [o["name"] for o in event["object"]["metadata"]["ownerReferences"]])
            == 1
        )

    assert names == ["lives"]


@pytest.mark.parametrize("wrong", [{"name": "other"}, {"kind": "Secret"}, {"uid": "1234"}])
def test_a_reference_that_leads_nowhere_is_no_owner(
    client: Client, watcher: Client, wrong: dict[str, str]
) -> None:
    owner = client.post(MAPS, config_map("owner"))

    child = client.post(MAPS, config_map("child", ownerReferences=owned_by(owner, **wrong)))

    wait_until_gone(watcher, MAPS, "child", version_of(child))


def test_an_owner_in_another_namespace_is_none(client: Client, watcher: Client) -> None:
    owner = client.post(MAPS, config_map("owner"))
    maps = f"{SPACES}/kube-system/configmaps"

    child = client.post(maps, config_map("child", ownerReferences=owned_by(owner)))

    wait_until_gone(watcher, maps, "child", version_of(child))


def test_orphans_lose_their_owner_and_stay(client: Client, watcher: Client) -> None:
    owner = client.post(MAPS, config_map("owner"))
    client.post(MAPS, config_map("child", ownerReferences=owned_by(owner)))

    deleted = client.delete(f"{MAPS}/owner", {"propagationPolicy": "Orphan"})
    wait_until_gone(watcher, MAPS, "owner", version_of(deleted))

    assert "ownerReferences" not in client.get(f"{MAPS}/child").json["metadata"]


def test_a_crd_can_be_used_at_once_and_takes_its_objects_with_it(
    client: Client, watcher: Client
) -> None:
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    gadgets = "/apis/example.com/v1/namespaces/default/gadgets"

    created = client.send("POST", crds, GADGETS, content_type="application/yaml")
    gadget = client.send("POST", gadgets, GADGET, content_type="application/yaml")
    listed = client.get("/apis/example.com/v1").json["resources"]
    deleted = client.delete(f"{crds}/gadgets.example.com")
    wait_until_gone(watcher, crds, "gadgets.example.com", version_of(created))

    assert {c["type"]: c["status"] for c in created.json["status"]["conditions"]} == {
        "NamesAccepted": "True",
        "Established": "True",
    }
    assert gadget.json["spec"] == {"size": 3}
    assert listed[0]["name"] == "gadgets"
    assert deleted.status == 200
    assert client.get(gadgets).status == 404
    client.send("POST", crds, GADGETS, content_type="application/yaml")
    assert client.get(gadgets).json["items"] == []


def test_a_crd_with_an_unusable_schema_is_refused(client: Client) -> None:
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    broken = GADGETS.replace("type: integer", "type: whole")

    answer = client.send("POST", crds, broken, content_type="application/yaml")

    assert answer.status == 422
    assert "supported values" in answer.json["message"]


def test_a_pod_that_runs_is_given_time_to_end(client: Client) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"nodeName": "here", "containers": [{"name": "c", "image": "i"}]},
    }
    client.post(PODS, pod)

    first = client.delete(f"{PODS}/p").json
    still = client.get(f"{PODS}/p")
    client.delete(f"{PODS}/p", {"gracePeriodSeconds": 0})

    assert first["metadata"]["deletionGracePeriodSeconds"] == 30
    assert still.status == 200
    assert client.get(f"{PODS}/p").status == 404


@pytest.fixture
def talking_pod(api_server: RunningApiServer, client: Client) -> Any:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "labels": {"sidecar.istio.io/inject": "true"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    client.post(PODS, pod)
    file = api_server.logs.folder / "default_p" / "c.log"
    file.parent.mkdir(parents=True)
    file.write_text("one\ntwo\nthree\n")
    return file


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("", "one\ntwo\nthree\n"),
        ("?tailLines=2", "two\nthree\n"),
        ("?tailLines=0", ""),
        ("?tailLines=9", "one\ntwo\nthree\n"),
        ("?limitBytes=5", "one\nt"),
        ("?container=c", "one\ntwo\nthree\n"),
    ],
)
@pytest.mark.usefixtures("talking_pod")
def test_logs_are_the_file_or_its_end(client: Client, query: str, text: str) -> None:
    assert client.get(f"{PODS}/p/log{query}").body.decode() == text


def test_a_followed_log_goes_on_until_the_pod_goes(
    client: Client, watcher: Client, talking_pod: Any
) -> None:
    lines = watcher.follow(f"{PODS}/p/log?follow=true&tailLines=1")
    first = next(lines)
    with talking_pod.open("a") as file:
        file.write("four\n")
    second = next(lines)
    client.delete(f"{PODS}/p")

    assert [first, second, *lines] == ["three\n", "four\n"]


@pytest.mark.usefixtures("talking_pod")
def test_logs_that_are_not_there_are_a_clear_400(client: Client) -> None:
    unknown = client.get(f"{PODS}/p/log?container=x")
    silent = client.get(f"{PODS}/p/log?container=istio-proxy")
    previous = client.get(f"{PODS}/p/log?previous=true")

    assert "container x is not valid for pod p" in unknown.json["message"]
    assert "waiting to start" in silent.json["message"]
    assert "previous terminated container" in previous.json["message"]
    assert {unknown.status, silent.status, previous.status} == {400}
