"""The API server over TLS: who gets in, what is written, read, refused, and what goes with what."""

import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.disks import full_disk
from tests.shells.conftest import RunningApiServer
from tests.shells.http_client import Answer, Client

from apirule.local.apiserver import objects
from apirule.local.apiserver.admission import AdmissionRequest, AdmissionResult
from apirule.problem import SPEC, Problem, Reason, Severity

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
MAPS = "/api/v1/namespaces/default/configmaps"
RULES = "/apis/gateway.kyma-project.io/v2/namespaces/default/apirules"


@pytest.fixture
def client(api_server: RunningApiServer) -> Iterator[Client]:
    client = Client(api_server.url, api_server.ssl_context())
    yield client
    client.close()


def config_map(name: str, **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, **metadata},
        "data": {"a": "1"},
    }


def rule(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "gateway.kyma-project.io/v2",
        "kind": "APIRule",
        "metadata": {"name": name},
        "spec": {
            "hosts": ["a.example.com"],
            "gateway": "n/g",
            "service": {"name": "s", "port": 80},
            "rules": [{"path": "/*", "methods": ["GET"], "noAuth": True}],
            **spec,
        },
    }


def test_the_user_is_the_subject_of_the_certificate(client: Client) -> None:
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}

    answer = client.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", review)

    assert answer.status == 201
    user = answer.json["status"]["userInfo"]
    assert user["username"] == "tester"
    assert "testers" in user["groups"]


def test_objects_survive_a_restart_with_their_versions(
    start_api_server: Callable[..., RunningApiServer], tmp_path: Path
) -> None:
    first = start_api_server(folder=tmp_path)
    client = Client(first.url, first.ssl_context())
    created = client.post(MAPS, config_map("kept")).json
    client.close()
    first.stop()

    second = start_api_server(folder=tmp_path)

    client = Client(second.url, second.ssl_context())
    assert client.get(f"{MAPS}/kept").json == created
    client.close()


def test_a_full_disk_is_told_and_nothing_is_lost(
    api_server: RunningApiServer, client: Client
) -> None:
    kept = client.post(MAPS, config_map("kept")).json

    with full_disk(api_server.app.store):
        answers = [
            client.post(MAPS, config_map("new")),
            client.merge(f"{MAPS}/kept", {"data": {"a": "2"}}),
            client.delete(f"{MAPS}/kept"),
            client.post("/api/v1/namespaces", {**config_map("space"), "kind": "Namespace"}),
        ]
        read = client.get(f"{MAPS}/kept").json

    for answer in answers:
        assert (answer.status, answer.json["reason"]) == (507, "InsufficientStorage")
        assert "see to its disk" in answer.json["message"]
    assert read == kept
    assert client.post(MAPS, config_map("new")).status == 201


def test_a_list_in_pages_shows_one_moment(client: Client) -> None:
    for index in range(5):
        client.post(MAPS, config_map(f"m{index}"))

    first = client.get(f"{MAPS}?limit=2").json
    client.delete(f"{MAPS}/m3")
    client.post(MAPS, config_map("m9"))
    token = first["metadata"]["continue"]
    second = client.get(f"{MAPS}?limit=2&continue={token}").json
    third = client.get(f"{MAPS}?limit=2&continue={second['metadata']['continue']}").json

    pages = [first, second, third]
    names = [item["metadata"]["name"] for page in pages for item in page["items"]]
    assert names == ["m0", "m1", "m2", "m3", "m4"]
    assert first["metadata"]["remainingItemCount"] == 3
    assert {page["metadata"]["resourceVersion"] for page in pages} == {
        first["metadata"]["resourceVersion"]
    }
    assert "continue" not in third["metadata"]


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("labelSelector=color%3Dred", ["a"]),
        ("labelSelector=color+in+(red,blue)", ["a", "b"]),
        ("labelSelector=color+notin+(red)", ["b", "c"]),
        ("labelSelector=!color", ["c"]),
        ("labelSelector=color,color!%3Dred", ["b"]),
        ("fieldSelector=metadata.name%3Db", ["b"]),
        ("fieldSelector=metadata.name!%3Db", ["a", "c"]),
    ],
)
def test_a_selector_chooses(client: Client, selector: str, names: list[str]) -> None:
    client.post(MAPS, config_map("a", labels={"color": "red"}))
    client.post(MAPS, config_map("b", labels={"color": "blue"}))
    client.post(MAPS, config_map("c"))

    listed = client.get(f"{MAPS}?{selector}").json

    assert [item["metadata"]["name"] for item in listed["items"]] == names


def test_generated_names_have_five_letters_after_the_prefix(client: Client) -> None:
    body = config_map("")
    body["metadata"] = {"generateName": "gen-"}

    name = client.post(MAPS, body).json["metadata"]["name"]

    assert name.startswith("gen-")
    assert len(name) == len("gen-") + 5


def test_a_generated_name_that_is_taken_is_generated_anew(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = iter("bbbbb" + "bbbbb" + "ccccc" + "b" * 5 * 8)
    monkeypatch.setattr(objects, "choice", lambda _: next(letters))
    body = config_map("")
    body["metadata"] = {"generateName": "gen-"}

    first, second, third = (client.post(MAPS, body) for _ in range(3))

    names = [answer.json["metadata"]["name"] for answer in (first, second)]
    assert names == ["gen-bbbbb", "gen-ccccc"]
    # After eight attempts it gives up, and says of which name.
    assert (third.status, third.json["reason"]) == (409, "AlreadyExists")
    assert '"gen-bbbbb" already exists' in third.json["message"]


def test_a_dry_run_answers_as_if_and_stores_nothing(client: Client) -> None:
    created = client.post(f"{MAPS}?dryRun=All", config_map("ghost"))

    assert created.status == 201
    assert created.json["metadata"]["uid"]
    assert client.get(f"{MAPS}/ghost").status == 404


def test_unknown_fields_are_refused_told_or_dropped_as_the_client_says(client: Client) -> None:
    body = rule("r", surprise=1)

    strict = client.post(f"{RULES}?fieldValidation=Strict", body)
    warned = client.post(f"{RULES}?fieldValidation=Warn&dryRun=All", body)
    ignored = client.post(f"{RULES}?fieldValidation=Ignore", body)

    assert strict.status == 400
    assert 'unknown field "spec.surprise"' in strict.json["message"]
    assert warned.warnings == ['299 - "unknown field \\"spec.surprise\\""']
    assert ignored.warnings == []
    assert "surprise" not in ignored.json["spec"]


def test_all_problems_come_in_one_answer(client: Client) -> None:
    body = rule("r", timeout=0)
    body["spec"]["rules"][0]["methods"] = ["GETT"]
    body["metadata"]["labels"] = {"bad label": "x"}

    answer = client.post(RULES, body)

    assert answer.status == 422
    fields = [cause["field"] for cause in answer.json["details"]["causes"]]
    assert {"metadata.labels", "spec.rules[0].methods[0]", "spec.timeout"} <= set(fields)


def test_the_generation_counts_changes_of_the_spec_only(client: Client) -> None:
    client.post(RULES, rule("r"))

    labelled = client.merge(f"{RULES}/r", {"metadata": {"labels": {"a": "b"}}}).json
    status = client.merge(f"{RULES}/r/status", {"status": {"state": "Ready"}}).json
    changed = client.merge(f"{RULES}/r", {"spec": {"timeout": 5}}).json

    assert [obj["metadata"]["generation"] for obj in (labelled, status, changed)] == [1, 1, 2]
    assert changed["status"]["state"] == "Ready"


def test_of_writers_at_the_same_time_each_sees_what_the_others_did(
    api_server: RunningApiServer, client: Client
) -> None:
    client.post(MAPS, {**config_map("sum"), "data": {"a": "0"}})

    def add(times: int) -> None:
        own = Client(api_server.url, api_server.ssl_context())
        while times:
            found = own.get(f"{MAPS}/sum").json
            found["data"]["a"] = str(int(found["data"]["a"]) + 1)
            answer = own.put(f"{MAPS}/sum", found)
            assert answer.status in (200, 409), answer.body
            times -= answer.status == 200
        own.close()

    with ThreadPoolExecutor() as threads:
        list(threads.map(add, [10] * 4))

    assert client.get(f"{MAPS}/sum").json["data"] == {"a": "40"}


def test_two_appliers_at_the_same_time_keep_what_is_theirs(
    api_server: RunningApiServer, client: Client
) -> None:
    def apply(manager: str) -> set[int]:
        own = Client(api_server.url, api_server.ssl_context())
        said = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "both"}}
        path = f"{MAPS}/both?fieldManager={manager}"
        values = [str(number) for number in range(20)]
        answers = {own.apply(path, {**said, "data": {manager: v}}).status for v in values}
        own.close()
        return answers

    with ThreadPoolExecutor() as threads:
        answers = set().union(*threads.map(apply, ("one", "two")))

    found = client.get(f"{MAPS}/both").json
    assert answers <= {200, 201}
    assert found["data"] == {"one": "19", "two": "19"}
    assert {
        entry["manager"]: entry["fieldsV1"] for entry in found["metadata"]["managedFields"]
    } == {"one": {"f:data": {"f:one": {}}}, "two": {"f:data": {"f:two": {}}}}


def test_an_update_that_changes_nothing_keeps_the_version(client: Client) -> None:
    created = client.post(MAPS, config_map("m")).json

    again = client.put(f"{MAPS}/m", created).json

    assert again["metadata"]["resourceVersion"] == created["metadata"]["resourceVersion"]


def test_a_write_based_on_an_old_version_is_a_conflict(client: Client) -> None:
    old = client.post(MAPS, config_map("m")).json
    client.merge(f"{MAPS}/m", {"data": {"a": "2"}})

    answer = client.put(f"{MAPS}/m", {**old, "data": {"a": "3"}})

    assert (answer.status, answer.json["reason"]) == (409, "Conflict")


def test_a_version_of_one_shape_reads_what_another_wrote(client: Client) -> None:
    client.post(RULES, rule("r"))
    other = RULES.replace("/v2/", "/v2alpha1/")

    answer = client.get(f"{other}/r").json

    assert answer["apiVersion"] == "gateway.kyma-project.io/v2alpha1"
    assert answer["spec"]["hosts"] == ["a.example.com"]
    listed = client.get(other).json
    assert listed["apiVersion"] == "gateway.kyma-project.io/v2alpha1"
    assert listed["items"][0]["apiVersion"] == "gateway.kyma-project.io/v2alpha1"


def test_metadata_only_and_tables_are_given_to_who_asks(client: Client) -> None:
    client.post(MAPS, config_map("m"))

    partial = client.get(
        MAPS, Accept="application/json;g=meta.k8s.io;v=v1;as=PartialObjectMetadataList"
    ).json
    table = client.get(
        f"{MAPS}?includeObject=Object", Accept="application/json;as=Table;v=v1;g=meta.k8s.io"
    ).json
    neither = client.get(MAPS, Accept="application/vnd.kubernetes.protobuf")

    assert partial["kind"] == "PartialObjectMetadataList"
    assert "data" not in partial["items"][0]
    row = table["rows"][0]
    assert row["cells"][:2] == ["m", 1]
    assert row["object"]["data"] == {"a": "1"}
    assert neither.status == 406


def test_protobuf_bodies_are_read_and_answered_in_json(client: Client) -> None:
    body = (
        b"k8s\0"
        + _message(1, _message(1, b"v1") + _message(2, b"ConfigMap"))
        + _message(
            2, _message(1, _message(1, b"pb")) + _message(2, _message(1, b"k") + _message(2, b"v"))
        )
    )

    answer = client.send("POST", MAPS, body, content_type="application/vnd.kubernetes.protobuf")

    assert answer.status == 201
    assert answer.json["metadata"]["name"] == "pb"
    assert answer.json["data"] == {"k": "v"}


def test_an_unknown_body_type_is_415_and_a_broken_body_400(client: Client) -> None:
    assert client.send("POST", MAPS, "x", content_type="text/csv").status == 415
    assert client.send("POST", MAPS, "{nope").status == 400
    assert client.send("POST", MAPS, "[]").status == 400
    protobuf = "application/vnd.kubernetes.protobuf"
    assert client.send("POST", MAPS, b"k8s\0\xff", content_type=protobuf).status == 400


def test_a_body_that_is_too_large_is_413(client: Client) -> None:
    body = config_map("big")
    body["data"]["a"] = "x" * (4 * 1024 * 1024)

    assert client.post(MAPS, body).status == 413


@pytest.mark.parametrize(
    ("method", "path", "says"),
    [
        ("POST", "/pods/p/attach", "logs -f"),
        ("POST", "/pods/p/portforward", "host of an APIRule"),
        ("POST", "/pods/p/eviction", "delete the Pod"),
        ("GET", "/pods/p/proxy/x", "apirule.local/ports"),
        ("GET", "/services/s/proxy", "host of an APIRule"),
        ("POST", "/serviceaccounts/a/token", "certificate"),
    ],
)
def test_what_one_machine_has_not_is_refused_with_what_to_do_instead(
    client: Client, method: str, path: str, says: str
) -> None:
    answer = client.send(method, f"/api/v1/namespaces/default{path}")

    assert answer.status == 501
    assert says in answer.json["message"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/apis/batch/v1/namespaces/default/jobs", "run a Deployment or a Pod"),
        ("/apis/authorization.k8s.io/v1/subjectaccessreviews", "is an administrator"),
        ("/apis/authentication.k8s.io/v1/tokenreviews", "`apirule kubeconfig`"),
        ("/apis/events.k8s.io/v1/events", "/api/v1/events"),
    ],
)
def test_a_kind_that_one_machine_has_not_is_refused_with_what_to_do_instead(
    client: Client, path: str, says: str
) -> None:
    answer = client.post(path, {})

    assert (answer.status, answer.json["reason"]) == (404, "NotFound")
    assert "not offered on one machine" in answer.json["message"]
    assert says in answer.json["message"]


def test_a_server_says_in_detail_that_it_is_well(client: Client) -> None:
    assert client.get("/readyz").body == b"ok"
    assert client.get("/livez?verbose").body == b"[+]ping ok\nlivez check passed\n"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/apis/batch/v1/namespaces/default/jobs", "Deployment"),
        ("/apis/networking.k8s.io/v1/namespaces/default/ingresses", "APIRule"),
        ("/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", "administrator"),
        ("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", "kubectl scale"),
        ("/apis/policy/v1/namespaces/default/poddisruptionbudgets", "nothing here evicts"),
        ("/apis/scheduling.k8s.io/v1/priorityclasses", "all Pods are equal"),
        ("/api/v1/namespaces/default/resourcequotas", "no resource limits"),
    ],
)
def test_a_kind_that_is_not_there_names_what_is(client: Client, path: str, says: str) -> None:
    answer = client.get(path)

    assert answer.status == 404
    assert says in answer.json["message"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/namespaces/default/pods/p/exec?command=ls", 404),
        ("/api/v1/namespaces/default/pods/p/attach", 501),
        ("/api/v1/namespaces/default/pods/p/portforward", 501),
        ("/api/v1/namespaces/default/pods?watch=true", 501),
        ("/nowhere", 404),
    ],
)
def test_a_websocket_to_anything_else_is_answered_with_a_status(
    client: Client, path: str, status: int
) -> None:
    answer = client.get(
        path,
        Connection="Upgrade",
        Upgrade="websocket",
        Sec_WebSocket_Version="13",
        Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
    )

    assert (answer.status, answer.json["kind"]) == (status, "Status")


def test_hooks_change_refuse_and_warn(start_api_server: Callable[..., RunningApiServer]) -> None:
    def inject(asked: AdmissionRequest) -> AdmissionResult:
        if asked.gvk.kind != "Pod" or asked.operation != "CREATE":
            return AdmissionResult(asked.object)
        assert asked.namespace is not None
        spec = asked.object["spec"]
        added = [*spec["containers"], {"name": "istio-proxy", "image": "proxy"}]
        return AdmissionResult({**asked.object, "spec": {**spec, "containers": added}})

    def judge(asked: AdmissionRequest) -> AdmissionResult:
        image = asked.object.get("spec", {}).get("containers", [{}])[0].get("image")
        problem = Problem(SPEC / "containers", Reason.INVALID, "Invalid value: no", "Say yes.")
        hint = msgspec.structs.replace(problem, message="mind the gap", severity=Severity.WARNING)
        found = {"bad": [problem], "odd": [hint]}.get(str(image), [])
        return AdmissionResult(asked.object, found, ["heard"] if image == "odd" else ())

    server = start_api_server(admission=(inject, judge))
    client = Client(server.url, server.ssl_context())

    def send(image: str) -> Answer:
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": image},
            "spec": {"containers": [{"name": "c", "image": image}]},
        }
        return client.post("/api/v1/namespaces/default/pods", pod)

    good, odd, bad = send("good"), send("odd"), send("bad")
    client.close()

    assert [c["name"] for c in good.json["spec"]["containers"]] == ["c", "istio-proxy"]
    # What a hook adds is completed like what a client sends.
    assert good.json["spec"]["containers"][1]["terminationMessagePolicy"] == "File"
    assert [text.partition(" - ")[2] for text in odd.warnings] == [
        '"heard"',
        '"spec.containers: mind the gap Say yes."',
    ]
    assert (bad.status, bad.json["reason"]) == (422, "Invalid")


def test_a_custom_resource_is_scaled_where_its_crd_says(client: Client) -> None:
    scaled = {
        "specReplicasPath": ".spec.size.wanted",
        "statusReplicasPath": ".status.size",
        "labelSelectorPath": ".status.selector",
    }
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    fields = {"spec": anything, "status": anything}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "subresources": {"status": {}, "scale": scaled},
        "schema": {"openAPIV3Schema": {"type": "object", "properties": fields}},
    }
    names = {"plural": "herds", "kind": "Herd"}
    crd: dict[str, Any] = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "herds.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": names,
            "versions": [version],
        },
    }
    herd = {"apiVersion": "example.com/v1", "kind": "Herd", "metadata": {"name": "h"}}
    path = "/apis/example.com/v1/namespaces/default/herds"

    wrong = {**version, "subresources": {"scale": {**scaled, "specReplicasPath": ".status[0]"}}}
    refused = client.post(CRDS, {**crd, "spec": {**crd["spec"], "versions": [wrong]}})
    client.post(CRDS, crd)
    client.post(path, {**herd, "spec": {"size": {"wanted": 3}}})
    client.merge(f"{path}/h/status", {"status": {"size": 2, "selector": "a=b"}})
    before = client.get(f"{path}/h/scale").json
    after = client.merge(f"{path}/h/scale", {"spec": {"replicas": 4}}).json
    client.merge(f"{path}/h", {"spec": None})

    assert refused.status == 422
    assert "should be a json path under .spec" in refused.json["message"]
    assert before["spec"] == {"replicas": 3}
    assert before["status"] == {"replicas": 2, "selector": "a=b"}
    assert after["spec"] == {"replicas": 4}
    assert "does not exist" in client.get(f"{path}/h/scale").json["message"]
    resources = client.get("/apis/example.com/v1").json["resources"]
    assert "herds/scale" in [resource["name"] for resource in resources]


def test_a_command_that_does_not_come_by_websocket_is_told_what_does(
    api_server: RunningApiServer, client: Client
) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    path = "/api/v1/namespaces/default/pods/p"
    api_server.create(pod)

    waiting = client.send("POST", f"{path}/exec?command=ls")
    state = {"containerStatuses": [{"name": "c", "state": {"running": {}}}]}
    client.merge(f"{path}/status", {"status": state})
    empty = client.send("POST", f"{path}/exec")
    spdy = client.send("POST", f"{path}/exec?command=ls", Connection="Upgrade", Upgrade="SPDY/3.1")
    posted = client.send(
        "POST", f"{path}/exec?command=ls", Connection="Upgrade", Upgrade="websocket"
    )

    assert (waiting.status, empty.status) == (400, 400)
    assert "is not running" in waiting.json["message"]
    assert "at least 1 command" in empty.json["message"]
    for answer in (spdy, posted):
        assert answer.status == 501
        assert "kubectl 1.30 or newer" in answer.json["message"]


def test_health_version_and_discovery_answer(client: Client) -> None:
    assert {client.get(f"/{name}").body for name in ("healthz", "livez", "readyz")} == {b"ok"}
    assert client.get("/version").json["gitVersion"].endswith("+apirule")
    groups = {group["name"] for group in client.get("/apis").json["groups"]}
    assert {"apps", "gateway.kyma-project.io", "networking.istio.io"} <= groups
    assert client.get("/apis/no.such.group").status == 404
    assert client.get("/apis/apps/v7").status == 404
    assert client.get("/nonsense").status == 404
    index = client.get("/openapi/v3").json["paths"]
    for place in ("api/v1", "apis/gateway.kyma-project.io/v2"):
        assert client.get(index[place]["serverRelativeURL"]).json["openapi"].startswith("3.")


def _message(number: int, content: bytes) -> bytes:
    return struct.pack("BB", number << 3 | 2, len(content)) + content
