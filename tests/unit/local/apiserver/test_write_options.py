"""What a write asks for that makes no sense, in the words and with the codes of Kubernetes."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.shells.kubectl_commands import GADGETS
from tests.unit.local.apiserver.asgi import Request, ask

from apirule.local.apiserver.app import ApiServer
from apirule.local.store import Store

MAPS = "/api/v1/namespaces/n/configmaps"
ONE = f"{MAPS}/m"
MAP: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}}
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[ApiServer]:
    store = Store.open(tmp_path / "api.db")
    app = ApiServer(store, clock=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}
    await ask(app, Request("POST", "/api/v1/namespaces", space))
    await ask(app, Request("POST", MAPS, {**MAP, "data": {"a": "0"}}))
    yield app
    store.close()


ALL = 'Unsupported value: ["Some"]: supported values: "All"'
LEVELS = 'supported values: "", "Ignore", "Strict", "Warn"'
UNPRINTABLE = 'Invalid value: "a\a": should only contain printable characters'
BOTH = "orphanDependents and deletionPropagation cannot be both set"


@pytest.mark.parametrize(
    ("request_", "field", "says"),
    [
        (Request("POST", MAPS, MAP, query="dryRun=Some"), "dryRun", ALL),
        (
            Request("PUT", ONE, MAP, query="fieldValidation=Loose"),
            "fieldValidation",
            f'Unsupported value: "Loose": {LEVELS}',
        ),
        (
            Request("POST", MAPS, MAP, query=f"fieldManager={'m' * 129}"),
            "fieldManager",
            "Too long: may not be more than 128 bytes",
        ),
        (Request("PATCH", ONE, {}, MERGE, "fieldManager=a%07"), "fieldManager", UNPRINTABLE),
        (
            Request("PATCH", ONE, {}, MERGE, "force=true"),
            "force",
            "Forbidden: may not be specified for non-apply patch",
        ),
        (
            Request("PATCH", ONE, MAP, APPLY),
            "fieldManager",
            "Required value: is required for apply patch",
        ),
        (
            Request("DELETE", ONE, {"propagationPolicy": "Up"}),
            "propagationPolicy",
            'Unsupported value: "Up": supported values: "Background", "Foreground", "Orphan"',
        ),
        (
            Request("DELETE", ONE, {"propagationPolicy": "Orphan", "orphanDependents": True}),
            "propagationPolicy",
            f'Invalid value: "Orphan": {BOTH}',
        ),
        (Request("DELETE", ONE, {"dryRun": ["Some"]}), "dryRun", ALL),
    ],
    ids=lambda value: value if isinstance(value, str) else value.method,
)
async def test_an_option_that_makes_no_sense_is_refused(
    app: ApiServer, request_: Request, field: str, says: str
) -> None:
    before = app.store.revision

    answer = await ask(app, request_)

    assert answer.status == 422
    (cause,) = answer.json["details"]["causes"]
    assert (cause["field"], cause["message"]) == (field, says)
    assert f'Options.meta.k8s.io "" is invalid: {field}: {says}' in answer.json["message"]
    assert app.store.revision == before


async def test_a_dry_run_may_be_asked_for_in_the_body_of_a_deletion(app: ApiServer) -> None:
    answer = await ask(app, Request("DELETE", ONE, {"dryRun": ["All"]}))

    assert answer.status == 200
    assert (await ask(app, Request("GET", ONE))).status == 200


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (MERGE, b'{"data": {"a": "1", "a": "2"}}'),
        (STRATEGIC, b'{"data": {"a": "1", "a": "2"}}'),
        (JSON_PATCH, b'[{"op": "add", "path": "/data", "value": {"a": "1", "a": "2"}}]'),
    ],
)
async def test_a_patch_is_told_of_what_it_says_twice(
    app: ApiServer, content_type: str, body: bytes
) -> None:
    strict = await ask(app, Request("PATCH", ONE, body, content_type, "fieldValidation=Strict"))
    warned = await ask(app, Request("PATCH", ONE, body, content_type))
    ignored = await ask(app, Request("PATCH", ONE, body, content_type, "fieldValidation=Ignore"))

    assert strict.status == 400
    assert "strict decoding error: duplicate field" in strict.json["message"]
    assert (warned.status, ignored.status) == (200, 200)
    assert len(warned.warnings) == 1
    assert "duplicate field" in warned.warnings[0]
    assert ignored.warnings == ()


@pytest.mark.parametrize(
    ("path", "instead"),
    [
        ("/api/v1/configmaps", "GET, or the path with a namespace, which has POST and DELETE, too"),
        ("/api/v1/namespaces/n/status", "GET, PUT or PATCH"),
        (ONE, "GET, PUT, PATCH or DELETE"),
    ],
)
async def test_a_method_that_a_path_has_not_is_told_which_it_has(
    app: ApiServer, path: str, instead: str
) -> None:
    answer = await ask(app, Request("POST", path, MAP))

    assert answer.status == 405
    assert answer.json["message"] == f"POST is not offered on {path}: use {instead}"


@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_a_subresource_that_there_is_not_is_a_path_that_there_is_not(
    app: ApiServer, method: str
) -> None:
    answer = await ask(app, Request(method, f"{ONE}/nothing", {}, MERGE))

    assert answer.status == 404
    assert answer.json["message"] == "the server could not find the requested resource"


async def test_an_apply_does_not_create_what_it_believes_to_be_there(app: ApiServer) -> None:
    body = {**MAP, "metadata": {"name": "new", "uid": "1"}}

    answer = await ask(app, Request("PATCH", f"{MAPS}/new", body, APPLY, "fieldManager=a"))

    assert (answer.status, answer.json["reason"]) == (409, "Conflict")
    assert "uid mismatch" in answer.json["message"]


async def test_another_kind_than_that_of_the_path_is_a_bad_request(app: ApiServer) -> None:
    answer = await ask(app, Request("POST", MAPS, {**MAP, "kind": "Secret"}))

    assert (answer.status, answer.json["reason"]) == (400, "BadRequest")
    assert answer.json["message"] == (
        'Secret in version "v1" cannot be handled as a ConfigMap: it must be ConfigMap'
    )


async def test_a_pod_stays_on_its_node(app: ApiServer) -> None:
    pods = "/api/v1/namespaces/n/pods"
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    await ask(app, Request("POST", pods, pod))

    there, elsewhere = [
        await ask(app, Request("PATCH", f"{pods}/p", {"spec": {"nodeName": node}}, MERGE))
        for node in ("here", "there")
    ]

    assert there.status == 200
    assert elsewhere.status == 422
    assert "pod updates may not change fields" in elsewhere.json["message"]


async def test_a_missing_uid_of_an_owner_is_told_once(app: ApiServer) -> None:
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "m"}
    child = {**MAP, "metadata": {"name": "child", "ownerReferences": [owner]}}

    answer = await ask(app, Request("POST", MAPS, child))

    (cause,) = answer.json["details"]["causes"]
    assert cause["field"] == "metadata.ownerReferences[0].uid"
    assert cause["message"] == "Required value: must not be empty"


@pytest.mark.parametrize(
    ("body", "query", "status"),
    [
        ({**MAP, "bogus": 1}, "fieldValidation=Strict", 400),
        ({**MAP, "data": {"a b": "1"}}, "", 422),
        (MAP, "", 409),
        (MAP, "dryRun=All", 409),
    ],
)
async def test_what_is_wrong_with_an_object_is_told_before_that_it_exists(
    app: ApiServer, body: Any, query: str, status: int
) -> None:
    before = app.store.revision

    answer = await ask(app, Request("POST", MAPS, body, query=query))

    assert answer.status == status
    assert app.store.revision == before


async def test_a_built_in_object_need_not_say_what_the_path_says(app: ApiServer) -> None:
    typeless = {"metadata": {"name": "new"}, "data": {"a": "1"}}

    created = await ask(app, Request("POST", MAPS, typeless))
    updated = await ask(app, Request("PUT", f"{MAPS}/new", {**typeless, "kind": "", "data": {}}))
    review = Request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
    reviewed = await ask(app, review)
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    await ask(app, Request("POST", crds, GADGETS.encode(), "application/yaml"))
    custom = await ask(app, Request("POST", "/apis/example.com/v1/namespaces/n/gadgets", typeless))

    assert (created.status, updated.status, custom.status) == (201, 200, 400)
    assert (created.json["apiVersion"], created.json["kind"]) == ("v1", "ConfigMap")
    assert "data" not in updated.json
    assert reviewed.json["apiVersion"] == "authentication.k8s.io/v1"
    assert "Object 'Kind' is missing" in custom.json["message"]
