"""Whatever a client sends is answered: no request is an internal error, none ends the server."""

import json
import tempfile
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import anyio
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.hostile import TEXTS
from tests.unit.local.apiserver.asgi import Answer, Request, ask

from apirule.apis.meta import Object
from apirule.local.apiserver.admission import has_defaults, with_defaults
from apirule.local.apiserver.app import ApiServer
from apirule.local.apiserver.calls import Call
from apirule.local.processes import injector
from apirule.local.store import Store
from apirule.schema import KindInfo, builtin_kinds, bundled_crds, from_crd

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KINDS = (*builtin_kinds(), *(kind for crd in bundled_crds() for kind in from_crd(crd)))
SERVED = [kind for kind in KINDS if kind.served]
BY_NAME = {kind.kind: kind for kind in SERVED}

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
FORMS = ("Table", "PartialObjectMetadata", "PartialObjectMetadataList", "Foo")
APPLY = "application/apply-patch+yaml"

# Shrinking starts a server per try; the answers of the first find say as much.
QUICK = settings(phases=(Phase.explicit, Phase.reuse, Phase.generate))

# Not offered, a revision of the future, a disk: told, and no mistakes of the server.
TOLD = frozenset((501, 504, 507))


def path_of(kind: KindInfo, name: str = "", subresource: str = "") -> str:
    base = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    place = "/namespaces/default" if kind.namespaced else ""
    return "/".join(filter(None, (f"{base}{place}/{kind.plural}", name, subresource)))


@cache
def prepared() -> bytes:
    """Return the database of a server that has a namespace and all CRDs."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "api.db"
        with closing(Store.open(file)) as store:
            app = ApiServer(store, clock=lambda: NOW)
            for obj in (namespace("default"), *bundled_crds()):
                kind = app.kinds.of_object(obj["apiVersion"], obj["kind"])
                assert kind is not None
                app.objects.create(kind, "", obj, Call(NOW))
        return file.read_bytes()


def answers(*requests: Request) -> list[Answer]:
    """Put requests to a new server, one after the other, and let it tidy up behind them."""

    async def run() -> list[Answer]:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "api.db"
            file.write_bytes(prepared())
            with closing(Store.open(file)) as store:
                app = ApiServer(store, clock=lambda: NOW, admission=(injector.admit,))
                found = [await ask(app, request) for request in requests]
                async with anyio.create_task_group() as tasks:
                    await tasks.start(app.run)
                    tasks.cancel_scope.cancel()
                return found

    return anyio.run(run)


def namespace(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def assert_answered(found: list[Answer]) -> None:
    for answer in found:
        assert answer.status < 500 or answer.status in TOLD, answer.body


WORDS = st.sampled_from(
    (
        *(
            "",
            "a",
            "A",
            "a.b",
            "../../x",
            "a/b",
            "None",
            "True",
            "é",
            "\0",
            "\U0001f600",
            "x" * 300,
        ),
        *(
            "0",
            "-1",
            "1e400",
            "5%",
            "v1",
            "default",
            "1.2.3.4",
            "::1",
            "2026-01-01T00:00:00Z",
            "1h",
        ),
        *("istio-proxy", "$(A)", "{}", "eA==", "http", "metadata.name", "*", "(", "\ud800"),
    )
)
NUMBERS = st.sampled_from(
    (0, 1, -1, 80, 65536, 2**31 - 1, 2**31, 2**63, -(2**63), 2**64, 10**30, 0.5)
)
KEYS = st.sampled_from(
    (
        *(
            "metadata",
            "name",
            "namespace",
            "labels",
            "annotations",
            "finalizers",
            "ownerReferences",
        ),
        *(
            "managedFields",
            "uid",
            "resourceVersion",
            "deletionTimestamp",
            "generateName",
            "fieldsV1",
        ),
        *("spec", "status", "data", "template", "containers", "selector", "ports", "replicas"),
        *(
            "kind",
            "apiVersion",
            "$patch",
            "$retainKeys",
            "$setElementOrder/ports",
            "f:a",
            "k:{}",
            ".",
        ),
        *("op", "path", "from", "value", "", "../x", "versions", "schema", "openAPIV3Schema"),
    )
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def values(draw: st.DrawFn, schema: Mapping[str, Any], depth: int = 0) -> Any:
    """Draw what a schema wants, with a wrong value here and there."""
    if draw(st.integers(0, 40)) == 0:
        return draw(ANYTHING)
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]) | WORDS)
    if schema.get("x-kubernetes-int-or-string"):
        return draw(NUMBERS | WORDS)
    kind = schema.get("type")
    if kind == "object":
        required = schema.get("required") or ()
        properties = schema.get("properties") or {}
        found = {
            name: draw(values(child, depth + 1))
            for name, child in properties.items()
            if name in required or (depth < 7 and draw(st.integers(0, 2 + 3 * depth)) == 0)
        }
        further = schema.get("additionalProperties")
        if isinstance(further, Mapping) and depth < 7:
            found |= draw(st.dictionaries(WORDS, values(further, depth + 1), max_size=2))
        return found
    if kind == "array":
        items = schema.get("items") or {}
        count = draw(st.integers(0, 1 if depth > 5 else 2))
        return [draw(values(items, depth + 1)) for _ in range(count)]
    simple = {"string": WORDS, "integer": NUMBERS, "number": NUMBERS, "boolean": st.booleans()}
    return draw(simple.get(str(kind), ANYTHING))


@st.composite
def objects(draw: st.DrawFn, kind: KindInfo, name: str = "") -> Any:
    found = draw(values(kind.schema.openapi))
    if not isinstance(found, dict):
        return found
    metadata = found.get("metadata")
    if isinstance(metadata, dict):
        metadata = {k: v for k, v in metadata.items() if k != "namespace" or draw(st.booleans())}
        metadata["name"] = name or draw(st.just("a") | WORDS)
    else:
        metadata = draw(st.just({"name": "a"}) | ANYTHING)
    return {**found, "apiVersion": kind.gvk.api_version, "kind": kind.kind, "metadata": metadata}


# What the odd ones are put to: valid objects that are there.
CONTAINER = {"name": "c", "image": "i", "ports": [{"containerPort": 80}]}
TEMPLATE = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [CONTAINER]}}
PRESENT: tuple[Object, ...] = (
    {"kind": "Pod", "spec": {"containers": [CONTAINER]}},
    {"kind": "ConfigMap", "data": {"a": "b"}, "metadata": {"finalizers": ["a.b/c"]}},
    {"kind": "Service", "spec": {"ports": [{"port": 80, "name": "a"}]}},
    {"kind": "Deployment", "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": TEMPLATE}},
    {
        "kind": "APIRule",
        "spec": {
            "hosts": ["a.b.com"],
            "gateway": "n/g",
            "service": {"name": "s", "port": 80},
            "rules": [{"path": "/*", "methods": ["GET"], "noAuth": True}],
        },
    },
)


def create(obj: Object) -> Request:
    kind = BY_NAME[obj["kind"]]
    metadata = {"name": "a", **obj.get("metadata", {})}
    return Request(
        "POST", path_of(kind), {**obj, "apiVersion": kind.gvk.api_version, "metadata": metadata}
    )


@st.composite
def writes(draw: st.DrawFn) -> Request:
    """Draw a change of one of the objects that are there."""
    kind = BY_NAME[draw(st.sampled_from(PRESENT))["kind"]]
    subresources = [name for name in ("status", "scale") if name in kind.subresources]
    path = path_of(kind, "a", draw(st.sampled_from(["", "", *subresources])))
    query = draw(
        st.sampled_from(
            ("", "dryRun=All", "fieldValidation=Strict", "fieldValidation=Ignore", "force=true")
        )
    )
    body = draw(objects(kind, "a") | ANYTHING)
    match draw(st.sampled_from(("PUT", MERGE, STRATEGIC, JSON_PATCH, APPLY, "DELETE"))):
        case ("PUT" | "DELETE") as method:
            return Request(method, path, body, query=query)
        case "application/json-patch+json":
            operations = ("add", "remove", "replace", "move", "copy", "test")
            pointers = st.sampled_from(
                ("", "/metadata", "/spec", "/data/a", "/metadata/labels", "a")
            )
            operation = st.fixed_dictionaries(
                {"op": st.sampled_from(operations), "path": pointers, "value": ANYTHING},
                optional={"from": pointers},
            )
            patch = draw(st.lists(operation, max_size=3) | ANYTHING)
            return Request("PATCH", path, patch, JSON_PATCH, query)
        case content_type:
            manager = draw(st.sampled_from(("m1", "m2")))
            return Request("PATCH", path, body, content_type, f"fieldManager={manager}&{query}")


@pytest.mark.parametrize("kind", SERVED, ids=lambda k: f"{k.kind}.{k.version}.{k.group}")
@settings(QUICK, max_examples=8)
@given(data=st.data())
def test_an_odd_object_of_any_kind_is_answered(kind: KindInfo, data: st.DataObject) -> None:
    created = [
        Request("POST", path_of(kind), body, query="fieldValidation=Warn")
        for body in data.draw(st.lists(objects(kind), min_size=1, max_size=4))
    ]
    applied = Request(
        "PATCH", path_of(kind, "a"), data.draw(objects(kind, "a")), APPLY, "fieldManager=m"
    )
    table = Request("GET", path_of(kind), query="limit=1")

    assert_answered(answers(*created, applied, table))


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if has_defaults(kind)], ids=lambda k: f"{k.kind}.{k.version}"
)
@settings(QUICK, max_examples=30)
@given(data=st.data())
def test_whatever_is_stored_is_completed_once_or_left_alone(
    kind: KindInfo, data: st.DataObject
) -> None:
    drawn = data.draw(objects(kind).filter(lambda obj: isinstance(obj, dict)))
    stored = {**drawn, "metadata": {}, "spec": drawn.get("spec") or {}}

    completed = with_defaults(kind, stored)

    assert with_defaults(kind, completed) == completed


@settings(QUICK, max_examples=60)
@given(changes=st.lists(writes(), min_size=1, max_size=6))
def test_odd_changes_of_good_objects_are_answered(changes: list[Request]) -> None:
    assert_answered(answers(*map(create, PRESENT), *changes))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_text_that_would_exhaust_the_process_is_answered(text: str) -> None:
    path = path_of(BY_NAME["ConfigMap"], "a")
    kinds = ("application/json", "application/yaml")
    patches = (MERGE, STRATEGIC, JSON_PATCH, APPLY)

    found = answers(
        create(PRESENT[1]),
        *(Request("PUT", path, text.encode(), kind) for kind in kinds),
        *(Request("PATCH", path, text.encode(), kind, "fieldManager=m") for kind in patches),
        Request("DELETE", path, text.encode(), "application/yaml"),
    )

    assert {answer.status for answer in found[1:]} == {400}


@pytest.mark.parametrize(
    "query",
    [
        *("limit=-1", "limit=0", "limit=1&continue=x", "limit=" + "9" * 40, "limit=1_0"),
        *("continue=eyJ2IjoieCJ9", "resourceVersion=-1", "resourceVersion=" + "9" * 40),
        *("resourceVersion=1&resourceVersionMatch=Foo", "resourceVersionMatch=Exact"),
        *("labelSelector=%00", "labelSelector=a+in+(", "fieldSelector==", "fieldSelector=a%3Db"),
        *("labelSelector=" + "a," * 2000 + "a", "includeObject=Foo", "pretty=x", "%FF=%FE"),
        *("watch=true&timeoutSeconds=" + "9" * 400, "watch=true&resourceVersion=x"),
        "watch=true&sendInitialEvents=true",
    ],
)
def test_an_odd_query_is_answered(query: str) -> None:
    maps = path_of(BY_NAME["ConfigMap"])

    assert_answered(answers(create(PRESENT[1]), Request("GET", maps, query=query)))


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/",
            "//",
            "/api",
            "/api/v1",
            "/api/v1/",
            "/apis//v1/x",
            "/api/v1/namespaces//configmaps",
        ),
        *(
            "/api/v1/namespaces/default/configmaps/%2e%2e%2fx",
            "/api/v1/namespaces/%00/configmaps/a",
        ),
        *("/api/v1/namespaces/default/configmaps/" + "a" * 5000, "/openapi/v3/apis/x/y"),
        *("/api/v1/namespaces/default/pods/a/log", "/api/v1/namespaces/default/pods/a/exec"),
        *("/apis/apps/v1/namespaces/default/deployments/a/scale/x", "/version/x", "/openapi/v2"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_an_odd_path_is_answered(method: str, path: str) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}

    assert_answered(answers(Request(method, path, body, query="tailLines=-1&sinceSeconds=-1")))


SEGMENTS = st.sampled_from(
    (
        *("api", "apis", "openapi", "version", "healthz", "v1", "v2", "v3", "v1alpha1", "watch"),
        *("apps", "gateway.kyma-project.io", "apiextensions.k8s.io", "authorization.k8s.io"),
        *("namespaces", "default", "pods", "configmaps", "deployments", "apirules", "services"),
        *("customresourcedefinitions", "selfsubjectaccessreviews", "jobs", "a", "b"),
        *("status", "scale", "log", "exec", "proxy", "portforward", "token", "finalize"),
        *("", ".", "..", "%2f", "%00", "%zz", "\u00e9", "\U0001f600", "x" * 300, "a b", "*", "?"),
    )
)
PREFIXES = st.sampled_from(
    (
        (),
        ("api", "v1", "namespaces", "default"),
        ("apis", "apps", "v1", "namespaces", "default", "deployments", "a"),
        ("apis", "gateway.kyma-project.io", "v2", "namespaces", "default", "apirules"),
        ("apis", "apiextensions.k8s.io", "v1", "customresourcedefinitions"),
    )
)
PARAMETERS = st.sampled_from(
    (
        *("watch", "limit", "continue", "resourceVersion", "resourceVersionMatch", "pretty"),
        *("labelSelector", "fieldSelector", "sendInitialEvents", "allowWatchBookmarks"),
        *("timeoutSeconds", "dryRun", "fieldManager", "fieldValidation", "force", "includeObject"),
        *("propagationPolicy", "gracePeriodSeconds", "orphanDependents", "command", "container"),
        *("follow", "tailLines", "limitBytes", "sinceSeconds", "sinceTime", "previous", "stdin"),
    )
)
SENT = st.sampled_from(
    ("application/json", "application/yaml", MERGE, STRATEGIC, JSON_PATCH, APPLY)
)
WANTED = st.sampled_from(
    (
        *("", "*/*", "application/json", "text/html", "application/vnd.kubernetes.protobuf"),
        *(f"application/json;as={form};v=v1;g=meta.k8s.io" for form in FORMS),
        "application/json;as=Table;v=v9;g=x,application/json;g=;as",
    )
)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Draw any request, mostly to a path that there is."""
    segments = (*draw(PREFIXES), *draw(st.lists(SEGMENTS, max_size=4)))
    query = draw(st.dictionaries(PARAMETERS, WORDS.filter(is_text), max_size=4))
    return Request(
        draw(st.sampled_from(("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "X"))),
        "/" + "/".join(segments),
        draw(ANYTHING),
        draw(SENT),
        urlencode(query),
        draw(WANTED),
    )


def is_text(word: str) -> bool:
    return word != "\ud800"


@settings(QUICK, max_examples=50)
@given(asked=st.lists(requests(), min_size=1, max_size=8))
def test_any_request_is_answered(asked: list[Request]) -> None:
    assert_answered(answers(*map(create, PRESENT), *asked))


def test_an_object_does_not_grow_deeper_with_every_patch() -> None:
    path = path_of(BY_NAME["APIRule"], "a")
    deep = json.loads('{"a":' * 100 + "1" + "}" * 100)
    below = "/metadata/annotations" + "/a" * 100
    patches = [
        Request(
            "PATCH",
            path,
            [{"op": "add", "path": "/metadata/annotations", "value": deep}],
            JSON_PATCH,
        ),
        Request("PATCH", path, [{"op": "add", "path": below, "value": deep}], JSON_PATCH),
    ]

    assert_answered(answers(create(PRESENT[4]), *patches))
