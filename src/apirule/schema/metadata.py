"""The rules of metadata that no schema states: names, labels, annotations, owners, finalizers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from apirule.apis.meta import Object
from apirule.problem import METADATA, FieldPath, Problem, Reason
from apirule.schema import syntax

_NAME = METADATA / "name"
_OWNERS = METADATA / "ownerReferences"
_ANNOTATIONS_BYTES = 256 * 1024
_NAMES: Mapping[str, syntax.Syntax] = {
    "namespaces": syntax.dns_label,
    "services": syntax.dns_label_1035,
}
"""The names of other resources are subdomains."""


def check_metadata(obj: Object, resource: str) -> Iterator[Problem]:
    """Yield what is wrong with the metadata of an object."""
    metadata = obj["metadata"]
    yield from _check_name(str(metadata.get("name") or ""), resource)
    yield from _check_labels(metadata.get("labels") or {})
    yield from _check_annotations(metadata.get("annotations") or {})
    yield from _check_owners(metadata.get("ownerReferences") or ())
    for finalizer in metadata.get("finalizers") or ():
        for text in syntax.qualified_name(str(finalizer)):
            yield _invalid(METADATA / "finalizers", finalizer, text)


def _check_name(name: str, resource: str) -> Iterator[Problem]:
    if not name:
        message = "Required value: name or generateName is required"
        yield Problem(_NAME, Reason.REQUIRED, message, "Add metadata.name.")
        return
    for text in _NAMES.get(resource, syntax.dns_subdomain)(name):
        yield _invalid(_NAME, name, text)


def _check_labels(labels: Mapping[str, Any]) -> Iterator[Problem]:
    for key, value in labels.items():
        for text in syntax.qualified_name(key):
            yield _invalid(METADATA / "labels", key, text)
        # The schema has checked that it is a text; both are told if it is not.
        for text in syntax.label_value(str(value)):
            yield _invalid(METADATA / "labels", value, text)


def _check_annotations(annotations: Mapping[str, Any]) -> Iterator[Problem]:
    size = 0
    for key, value in annotations.items():
        size += len(key.encode()) + len(str(value).encode())
        for text in syntax.qualified_name(key.lower()):
            yield _invalid(METADATA / "annotations", key, text)
    if size > _ANNOTATIONS_BYTES:
        message = f"Too long: may not be more than {_ANNOTATIONS_BYTES} bytes"
        fix = "Keep large data in a ConfigMap."
        yield Problem(METADATA / "annotations", Reason.TOO_LONG, message, fix)


def _check_owners(owners: list[Any] | tuple[Any, ...]) -> Iterator[Problem]:
    controllers = []
    for index, owner in enumerate(owners):
        for key in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(key):
                at = _OWNERS / index / key
                message = "Required value: must not be empty"
                yield Problem(at, Reason.REQUIRED, message, f"Add {key}.")
        if owner.get("controller"):
            controllers.append(owner)
    if len(controllers) > 1:
        yield Problem(
            _OWNERS,
            Reason.INVALID,
            "Invalid value: only one reference can have Controller set to true",
            "Keep controller: true on one of them.",
        )


def _invalid(at: FieldPath, value: object, text: str) -> Problem:
    fix = "Use letters, digits, '-', '_' and '.'; begin and end with a letter or a digit."
    if at is _NAME:
        fix = "Use lower-case letters, digits and '-', as in my-name-1."
    if text.startswith("must be no more"):
        fix = "Shorten it."
    return Problem(at, Reason.INVALID, f'Invalid value: "{value}": {text}', fix)
