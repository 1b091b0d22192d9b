"""A place in a schema: what patches and field ownership ask of it.

A node is a piece of OpenAPI as it stands in a CRD. Where the schema says nothing (unknown fields
that are kept), maps are merged and lists are replaced, as in Kubernetes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Node = Mapping[str, Any]

UNKNOWN: Node = {}

_STRING: Node = {"type": "string"}
_STRINGS: Node = {"type": "object", "additionalProperties": _STRING}

METADATA: Node = {
    "type": "object",
    "properties": {
        "name": _STRING,
        "namespace": _STRING,
        "labels": _STRINGS,
        "annotations": _STRINGS,
        "finalizers": {"type": "array", "x-kubernetes-list-type": "set", "items": _STRING},
        "ownerReferences": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["uid"],
            "items": {"type": "object", "x-kubernetes-map-type": "atomic"},
        },
    },
}


def root_of(schema: Node) -> Node:
    """Return the schema of a whole object: CRDs leave metadata out."""
    return {**schema, "properties": {**schema.get("properties", {}), "metadata": METADATA}}


def child_of(node: Node, key: str) -> Node:
    """Return the node of a member: a property, else what all further members look like."""
    properties = node.get("properties")
    if properties and key in properties:
        found: Node = properties[key]
        return found
    further = node.get("additionalProperties")
    return further if isinstance(further, dict) else UNKNOWN


def declares(node: Node, key: str) -> bool:
    """Tell whether ``key`` is a named field of the node, not the key of a map."""
    return key in (node.get("properties") or ())


def items_of(node: Node) -> Node:
    found = node.get("items")
    return found if isinstance(found, dict) else UNKNOWN


def list_kind(node: Node) -> str:
    """Return ``map``, ``set`` or ``atomic``."""
    kind = str(node.get("x-kubernetes-list-type", "atomic"))
    if kind == "atomic" and "x-kubernetes-patch-merge-key" in node:
        return "map"
    return kind


def list_keys(node: Node) -> tuple[str, ...]:
    return tuple(node.get("x-kubernetes-list-map-keys", ()))


def merge_key(node: Node) -> str:
    """Return the one key that strategic merge patches use for a list of kind ``map``."""
    return str(node.get("x-kubernetes-patch-merge-key") or list_keys(node)[0])


def atomic_map(node: Node) -> bool:
    return node.get("x-kubernetes-map-type") == "atomic"


def default_key(node: Node, key: str) -> Any:
    """Return the default of a list's key field; None: it must be given."""
    return child_of(items_of(node), key).get("default")
