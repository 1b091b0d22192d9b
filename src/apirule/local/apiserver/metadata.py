"""The rules of metadata that no schema states: names, labels, finalizers, and what the server sets.

Functions from objects to causes; the wording of syntax errors is Kubernetes', as tools match on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from apirule.apis.meta import Object
from apirule.local.apiserver.errors import Cause
from apirule.problem import FieldPath, Problem, Reason
from apirule.schema import syntax

_INVALID = "FieldValueInvalid"

_ANNOTATIONS_BYTES = 256 * 1024

_NAMES: Mapping[str, syntax.Syntax] = {
    "namespaces": syntax.dns_label,
    "services": syntax.dns_label_1035,
}

# Set by the server; a client's value counts for nothing.
SERVERS_OWN = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "selfLink",
)


def check_metadata(obj: Object, resource: str) -> Iterator[Cause]:
    """Yield what is wrong with the metadata of an object."""
    metadata = obj["metadata"]
    yield from _check_name(str(metadata.get("name") or ""), resource)
    yield from _check_labels(metadata.get("labels") or {})
    yield from _check_annotations(metadata.get("annotations") or {})
    yield from _check_owners(metadata.get("ownerReferences") or ())
    for finalizer in metadata.get("finalizers") or ():
        for text in syntax.qualified_name(str(finalizer)):
            yield _invalid("metadata.finalizers", finalizer, text)


def check_finalizers(old: Object, new: Object) -> Iterator[Cause]:
    """Yield the finalizers that are added to an object that is being deleted."""
    if not old["metadata"].get("deletionTimestamp"):
        return
    present = set(old["metadata"].get("finalizers") or ())
    added = sorted(set(new["metadata"].get("finalizers") or ()) - present)
    if added:
        listed = ", ".join(f'"{name}"' for name in added)
        yield Cause(
            "metadata.finalizers",
            "FieldValueForbidden",
            "Forbidden: no new finalizers can be added if the object is being deleted, found new"
            f" finalizers []string{{{listed}}}",
        )


def keep_servers_own(old: Object, new: Object) -> None:
    """Give an update the metadata that only the server may set."""
    for key in SERVERS_OWN:
        if key in old["metadata"]:
            new["metadata"][key] = old["metadata"][key]
        else:
            new["metadata"].pop(key, None)


def content_changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Tell whether anything but metadata and status differs: what ``generation`` counts."""
    ignored = ("metadata", "status", "apiVersion", "kind")
    return any(old.get(key) != new.get(key) for key in {*old, *new} if key not in ignored)


def _check_name(name: str, resource: str) -> Iterator[Cause]:
    if not name:
        message = "Required value: name or generateName is required"
        yield Cause("metadata.name", "FieldValueRequired", message)
        return
    for text in _NAMES.get(resource, syntax.dns_subdomain)(name):
        yield _invalid("metadata.name", name, text)


def _check_labels(labels: Mapping[str, Any]) -> Iterator[Cause]:
    for key, value in labels.items():
        for text in syntax.qualified_name(key):
            yield _invalid("metadata.labels", key, text)
        # The schema has checked that it is a text; both are told if it is not.
        for text in syntax.label_value(str(value)):
            yield _invalid("metadata.labels", value, text)


def _check_annotations(annotations: Mapping[str, Any]) -> Iterator[Cause]:
    size = 0
    for key, value in annotations.items():
        size += len(key.encode()) + len(str(value).encode())
        for text in syntax.qualified_name(key.lower()):
            yield _invalid("metadata.annotations", key, text)
    if size > _ANNOTATIONS_BYTES:
        message = f"Too long: may not be more than {_ANNOTATIONS_BYTES} bytes"
        yield Cause("metadata.annotations", "FieldValueTooLong", message)


def _check_owners(owners: list[Any] | tuple[Any, ...]) -> Iterator[Cause]:
    controllers = []
    for index, owner in enumerate(owners):
        for key in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(key):
                field = f"metadata.ownerReferences[{index}].{key}"
                yield Cause(field, "FieldValueRequired", "Required value: must not be empty")
        if owner.get("controller"):
            controllers.append(owner)
    if len(controllers) > 1:
        yield Cause(
            "metadata.ownerReferences",
            _INVALID,
            "Invalid value: only one reference can have Controller set to true",
        )


def _invalid(field: str, value: object, text: str) -> Cause:
    return Cause(field, _INVALID, f'Invalid value: "{value}": {text}')


def immutable(at: FieldPath, value: object) -> Problem:
    message = f"Invalid value: {value!r}: field is immutable"
    return Problem(at, Reason.INVALID, message, "Delete the object and create it anew.")
