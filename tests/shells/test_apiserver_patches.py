"""Patches and applies: what they may say, what they may not, and what is told of it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.shells.conftest import RunningApiServer
from tests.shells.http_client import Answer, Client
from tests.shells.test_apiserver_http import MAPS, RULES, config_map, rule

JSON_PATCH = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
SPACES = "/api/v1/namespaces"


@pytest.fixture
def client(api_server: RunningApiServer) -> Iterator[Client]:
    client = Client(api_server.url, api_server.ssl_context())
    yield client
    client.close()


def patch(client: Client, path: str, body: Any, content_type: str) -> Answer:
    return client.send("PATCH", path, json.dumps(body), content_type=content_type)


@pytest.mark.parametrize(
    ("content_type", "body", "says"),
    [
        (MERGE, {"apiVersion": "v2"}, "does not match the expected API version (v1)"),
        (STRATEGIC, {"apiVersion": "apps/v1"}, "does not match the expected API version (v1)"),
        (MERGE, {"apiVersion": None}, "Object 'apiVersion' is missing"),
        (MERGE, {"kind": None}, "Object 'Kind' is missing"),
        (JSON_PATCH, [{"op": "remove", "path": "/kind"}], "Object 'Kind' is missing"),
        (JSON_PATCH, [{"op": "remove", "path": "/metadata"}], "keep metadata an object"),
        (MERGE, {"metadata": {"name": "other"}}, "does not match the name on the URL (m)"),
        (MERGE, {"metadata": {"name": ["m"]}}, "metadata.name is not a string"),
        (MERGE, {"metadata": {"namespace": "other"}}, "the namespace of the provided object"),
    ],
)
def test_a_patch_cannot_make_another_object_of_it(
    client: Client, content_type: str, body: Any, says: str
) -> None:
    created = client.post(MAPS, config_map("m")).json

    answer = patch(client, f"{MAPS}/m", body, content_type)

    assert (answer.status, answer.json["reason"]) == (400, "BadRequest")
    assert says in answer.json["message"]
    assert client.get(f"{MAPS}/m").json == created


def test_a_patch_cannot_move_a_custom_resource_to_another_version(client: Client) -> None:
    client.post(RULES, rule("r"))

    for version in ("gateway.kyma-project.io/v2alpha1", "gateway.kyma-project.io/v9"):
        assert client.merge(f"{RULES}/r", {"apiVersion": version}).status == 400


def test_a_patch_that_makes_another_kind_of_it_is_invalid(client: Client) -> None:
    client.post(MAPS, config_map("m"))

    answer = client.merge(f"{MAPS}/m", {"kind": "Secret"})

    assert answer.status == 422
    assert 'kind: Invalid value: "Secret": must be ConfigMap' in answer.json["message"]


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        (JSON_PATCH, [{"op": [], "path": "/a"}], 422),
        (JSON_PATCH, [{"op": {}, "path": "/a"}], 422),
        (JSON_PATCH, [{"op": "move", "from": "/metadata", "path": "/metadata/x"}], 422),
        (JSON_PATCH, [{"op": "replace", "path": "", "value": 5}], 400),
        (STRATEGIC, {"$retainKeys": 5}, 400),
        (STRATEGIC, {"$retainKeys": [{}], "data": {"a": "b"}}, 400),
        (STRATEGIC, {"$setElementOrder/x": 5}, 400),
        (STRATEGIC, {"metadata": {"$deleteFromPrimitiveList/finalizers": 5}}, 400),
        (STRATEGIC, {"$patch": "replace"}, 400),
        (MERGE, {"metadata": {"labels": ["a"]}}, 400),
        (MERGE, {"metadata": {"managedFields": [{"fieldsV1": {"k:no": {}}}]}}, 200),
    ],
)
def test_a_patch_without_sense_is_the_mistake_of_the_client(
    client: Client, content_type: str, body: Any, status: int
) -> None:
    client.post(MAPS, config_map("m"))

    answer = patch(client, f"{MAPS}/m", body, content_type)

    assert answer.status == status, answer.json


def test_copies_of_copies_do_not_fill_the_memory(client: Client) -> None:
    client.post(MAPS, config_map("m"))
    copies = [{"op": "copy", "from": "/data", "path": f"/data/{n}"} for n in range(60)]

    assert patch(client, f"{MAPS}/m", copies, JSON_PATCH).status == 422


@pytest.mark.parametrize(
    ("path", "body", "unknown"),
    [
        (f"{RULES}/r", rule("r", bogus=1), "spec.bogus"),
        (f"{MAPS}/m", {**config_map("m"), "bogus": 1}, "bogus"),
    ],
)
def test_an_apply_is_told_of_the_fields_that_it_loses(
    client: Client, path: str, body: Any, unknown: str
) -> None:
    answers = {
        mode: client.apply(f"{path}?fieldManager=a&fieldValidation={mode}", body)
        for mode in ("Strict", "", "Warn", "Ignore")
    }

    assert answers["Strict"].status == 400
    assert f'strict decoding error: unknown field "{unknown}"' in answers["Strict"].json["message"]
    for mode in ("", "Warn"):
        assert answers[mode].warnings == [f'299 - "unknown field \\"{unknown}\\""']
    assert [answers[mode].status for mode in ("", "Warn", "Ignore")] == [201, 200, 200]
    assert answers["Ignore"].warnings == []


def test_an_apply_is_told_once_of_a_field_that_it_says_twice(client: Client) -> None:
    text = json.dumps(config_map("m")).replace('"a": "1"', '"a": "1", "a": "2"')

    for status in (201, 200):
        answer = client.apply(f"{MAPS}/m?fieldManager=a", text)
        assert answer.status == status
        assert answer.warnings == ['299 - "duplicate field \\"data.a\\""']


@pytest.mark.parametrize(
    ("metadata", "status", "says"),
    [
        ({"name": "other"}, 400, "(other) does not match the name on the URL (m)"),
        ({"name": "m", "namespace": "other"}, 400, "does not match the namespace"),
        ({"name": "m", "uid": "no"}, 409, "Precondition failed: UID in precondition: no"),
        ({"name": "m", "resourceVersion": "1"}, 409, "the object has been modified"),
        ({"name": "m", "managedFields": [{}]}, 400, "metadata.managedFields must be nil"),
        ({}, 200, ""),
    ],
)
def test_an_apply_must_be_about_the_object_of_its_url(
    client: Client, metadata: Any, status: int, says: str
) -> None:
    client.post(MAPS, config_map("m"))
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}

    answer = client.apply(f"{MAPS}/m?fieldManager=a", body)

    assert answer.status == status
    assert says in answer.json.get("message", "")


def test_an_apply_creates_under_the_name_of_its_url_only(client: Client) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}}

    nameless = client.apply(f"{MAPS}/m?fieldManager=a", body)
    other = client.apply(f"{MAPS}/m?fieldManager=a", {**body, "metadata": {"name": "n"}})

    assert (nameless.status, other.status) == (400, 400)
    assert "(m based on URL)" in nameless.json["message"]
    assert client.get(MAPS).json["items"] == []


def test_nobody_acts_in_the_name_of_another(client: Client) -> None:
    for header in ({"Impersonate_User": "nobody"}, {"Impersonate_Extra_scopes": "x"}):
        for path in (MAPS, "/version", "/nowhere"):
            answer = client.get(path, **header)
            assert (answer.status, answer.json["reason"]) == (501, "NotImplemented")
            assert "leave out --as" in answer.json["message"]
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13"}
    key = {"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    path = "/api/v1/namespaces/default/pods/p/exec?command=ls"

    assert client.get(path, **upgrade, **key, Impersonate_User="nobody").status == 501


def test_nothing_is_created_in_a_namespace_that_is_not_there(client: Client) -> None:
    maps = f"{SPACES}/nowhere/configmaps"

    created = client.post(maps, config_map("m"))
    applied = client.apply(f"{maps}/m?fieldManager=a", config_map("m"))
    listed = client.get(maps)

    for answer in (created, applied):
        assert (answer.status, answer.json["reason"]) == (404, "NotFound")
        assert answer.json["message"] == 'namespaces "nowhere" not found'
    assert listed.json["items"] == []
