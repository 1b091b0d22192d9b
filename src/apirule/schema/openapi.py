"""The OpenAPI documents that kubectl reads: for ``explain``, for completion, for ``--validate``.

One v3 document per group and version. kubectl finds the kind of a resource in the operations below
``paths``, the fields in ``components``; that an operation takes ``fieldValidation`` tells it to
leave strict validation to the server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from apirule.apis.meta import Object
from apirule.schema import kinds
from apirule.schema.kinds import KindInfo

_REF = "#/components/schemas/"
_METADATA = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_LIST_METADATA = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"
_PATCH_TYPES = (
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)
_WRITE_PARAMETERS = ("dryRun", "fieldManager", "fieldValidation")


def document(group_kinds: Sequence[KindInfo]) -> Object:
    """Return the OpenAPI v3 document of the kinds of one group and version.

    Which kinds are served is the caller's business; an empty sequence gives an empty document.
    """
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for kind in group_kinds:
        paths.update(_paths(kind))
        for name, schema in _schemas(kind):
            schemas.setdefault(name, schema)
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1"},
        "paths": paths,
        "components": {"schemas": dict(sorted(schemas.items()))},
    }


def path_of(group: str, version: str) -> str:
    """Return the key of a group and version in the index of documents: ``apis/apps/v1``."""
    return f"apis/{group}/{version}" if group else f"api/{version}"


def component(kind: KindInfo) -> str:
    """Return the name of a kind among the components: ``io.k8s.api.apps.v1.Deployment``."""
    if kind.builtin:
        return f"{kinds.package_of()[kind.kind]}.{kind.kind}"
    return f"{'.'.join(reversed(kind.group.split('.')))}.{kind.version}.{kind.kind}"


def _paths(kind: KindInfo) -> Iterator[tuple[str, Object]]:
    base = f"/{path_of(kind.group, kind.version)}"
    scope = "/namespaces/{namespace}" if kind.namespaced else ""
    collection = f"{base}{scope}/{kind.plural}"
    if kind.namespaced:
        yield f"{base}/{kind.plural}", {"get": _operation(kind, "list", reads_list=True)}
    yield (
        collection,
        {
            "get": _operation(kind, "list", reads_list=True),
            "post": _operation(kind, "post", body=True),
            "delete": _operation(kind, "deletecollection"),
            "parameters": _path_parameters(kind, with_name=False),
        },
    )
    for sub in ("", *(f"/{name}" for name in sorted(kind.subresources))):
        item: Object = {
            "get": _operation(kind, "get"),
            "put": _operation(kind, "put", body=True),
            "patch": _patch_operation(kind),
            "parameters": _path_parameters(kind, with_name=True),
        }
        if not sub:
            item["delete"] = _operation(kind, "delete")
        yield f"{collection}/{{name}}{sub}", item


def _operation(
    kind: KindInfo, action: str, *, body: bool = False, reads_list: bool = False
) -> Object:
    name = component(kind)
    answer = {"$ref": f"{_REF}{name}List" if reads_list else _REF + name}
    operation: Object = {
        "responses": {
            "200": {"description": "OK", "content": {"application/json": {"schema": answer}}}
        },
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": _gvk(kind),
    }
    if body:
        content = {"application/json": {"schema": {"$ref": _REF + name}}}
        operation["requestBody"] = {"required": True, "content": content}
        operation["parameters"] = _query_parameters(_WRITE_PARAMETERS)
    return operation


def _patch_operation(kind: KindInfo) -> Object:
    types = _PATCH_TYPES if kind.builtin else _PATCH_TYPES[:-1]
    return {
        **_operation(kind, "patch"),
        "requestBody": {
            "required": True,
            "content": {name: {"schema": {"type": "object"}} for name in types},
        },
        "parameters": _query_parameters((*_WRITE_PARAMETERS, "force")),
    }


def _query_parameters(names: Sequence[str]) -> list[Object]:
    return [
        {
            "name": name,
            "in": "query",
            "schema": {"type": "boolean" if name == "force" else "string", "uniqueItems": True},
        }
        for name in names
    ]


def _path_parameters(kind: KindInfo, *, with_name: bool) -> list[Object]:
    names = [*(["namespace"] if kind.namespaced else []), *(["name"] if with_name else [])]
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in names
    ]


def _gvk(kind: KindInfo) -> Object:
    return {"group": kind.group, "version": kind.version, "kind": kind.kind}


def _schemas(kind: KindInfo) -> Iterator[tuple[str, Object]]:
    name = component(kind)
    root = (
        _published(kind.schema.openapi, shared=False) if not kind.builtin else _written(kind.kind)
    )
    if not kind.builtin:
        root["properties"]["metadata"] = {
            "description": "How the object is called and found.",
            "allOf": [{"$ref": _REF + _METADATA}],
        }
    yield name, {**root, "x-kubernetes-group-version-kind": [_gvk(kind)]}
    yield f"{name}List", _list_schema(kind)
    names = _referenced(kind.kind) if kind.builtin else _referenced("ObjectMeta")
    for other in sorted({*names, "ListMeta"}):
        if other != kind.kind or not kind.builtin:
            yield f"{kinds.package_of()[other]}.{other}", _written(other)


def _list_schema(kind: KindInfo) -> Object:
    gvk = {**_gvk(kind), "kind": kind.list_kind}
    return {
        "description": f"A list of objects of the kind {kind.kind}.",
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Group and version of the API."},
            "kind": {"type": "string", "description": "The kind of the list."},
            "metadata": {
                "description": "Which revision it shows, and where it goes on.",
                "allOf": [{"$ref": _REF + _LIST_METADATA}],
            },
            "items": {
                "description": "The objects.",
                "type": "array",
                "items": {"allOf": [{"$ref": _REF + component(kind)}]},
            },
        },
        "x-kubernetes-group-version-kind": [gvk],
    }


def _written(name: str) -> Object:
    written: Object = _published(kinds.written(name), shared=True)
    return written


def _published(schema: Any, *, shared: bool) -> Any:
    """Return a schema without our own keywords; ``$ref`` with siblings becomes ``allOf``."""
    if isinstance(schema, list):
        return [_published(item, shared=shared) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    out = {
        name: _published(item, shared=shared)
        for name, item in schema.items()
        if name != "$ref" and not name.startswith("x-apirule-")
    }
    target = schema.get("$ref")
    if shared and isinstance(target, str):
        out["allOf"] = [{"$ref": f"{_REF}{kinds.package_of()[target]}.{target}"}]
    return out


def _referenced(name: str) -> set[str]:
    """Return the names of all schemas that one refers to, itself included."""
    found: set[str] = set()
    waiting: list[Any] = [{"$ref": name}]
    while waiting:
        schema = waiting.pop()
        if isinstance(schema, list):
            waiting += schema
        elif isinstance(schema, Mapping):
            target = schema.get("$ref")
            if isinstance(target, str) and target not in found:
                found.add(target)
                waiting.append(kinds.written(target))
            waiting += schema.values()
    return found
