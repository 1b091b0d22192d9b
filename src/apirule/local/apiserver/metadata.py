"""The rules of metadata that no schema states: names, labels, finalizers, and what the server sets.

Functions from objects to causes; the wording of syntax errors is Kubernetes', as tools match on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from apirule.apis.meta import Object
from apirule.local.apiserver.errors import Cause
from apirule.names import DNS_LABEL, DNS_SUBDOMAIN

_INVALID = "FieldValueInvalid"

_QUALIFIED_PART = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")

_LABEL_LENGTH = 63
_SUBDOMAIN_LENGTH = 253
_ANNOTATIONS_BYTES = 256 * 1024

_SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or"
    " '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used"
    r" for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and"
    " must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used"
    " for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_LABEL_1035_TEXT = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an"
    " alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123',"
    " regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
)
_NAME_PART_TEXT = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end"
    " with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for"
    " validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_LABEL_VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or"
    " '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value', "
    " or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)

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
        for text in _qualified_name(str(finalizer)):
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


def label_selector_matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Tell whether a ``metav1.LabelSelector`` selects the labels."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for expression in selector.get("matchExpressions") or ():
        key, operator = expression.get("key", ""), expression.get("operator", "")
        values = expression.get("values") or ()
        met = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }.get(operator, False)
        if not met:
            return False
    return True


def _check_name(name: str, resource: str) -> Iterator[Cause]:
    if not name:
        message = "Required value: name or generateName is required"
        yield Cause("metadata.name", "FieldValueRequired", message)
    elif resource == "namespaces":
        if not DNS_LABEL.fullmatch(name):
            yield _invalid("metadata.name", name, _LABEL_TEXT)
    elif resource == "services":
        if len(name) > _LABEL_LENGTH:
            yield _invalid("metadata.name", name, _at_most(_LABEL_LENGTH))
        elif not _LABEL_1035.fullmatch(name):
            yield _invalid("metadata.name", name, _LABEL_1035_TEXT)
    elif len(name) > _SUBDOMAIN_LENGTH:
        yield _invalid("metadata.name", name, _at_most(_SUBDOMAIN_LENGTH))
    elif not DNS_SUBDOMAIN.fullmatch(name):
        yield _invalid("metadata.name", name, _SUBDOMAIN_TEXT)


def _check_labels(labels: Mapping[str, Any]) -> Iterator[Cause]:
    for key, value in labels.items():
        for text in _qualified_name(key):
            yield _invalid("metadata.labels", key, text)
        value = str(value)  # noqa: PLW2901 - the schema has checked that it is one
        if len(value) > _LABEL_LENGTH:
            yield _invalid("metadata.labels", value, _at_most(_LABEL_LENGTH))
        elif not _LABEL_VALUE.fullmatch(value):
            yield _invalid("metadata.labels", value, _LABEL_VALUE_TEXT)


def _check_annotations(annotations: Mapping[str, Any]) -> Iterator[Cause]:
    size = 0
    for key, value in annotations.items():
        size += len(key.encode()) + len(str(value).encode())
        for text in _qualified_name(key.lower()):
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


def _qualified_name(text: str) -> Iterator[str]:
    prefix, slash, name = text.rpartition("/")
    if slash and (not DNS_SUBDOMAIN.fullmatch(prefix) or len(prefix) > _SUBDOMAIN_LENGTH):
        yield f"prefix part {_SUBDOMAIN_TEXT}"
    if not name:
        yield "name part must be non-empty"
    if len(name) > _LABEL_LENGTH:
        yield f"name part {_at_most(_LABEL_LENGTH)}"
    elif name and not _QUALIFIED_PART.fullmatch(name):
        yield _NAME_PART_TEXT


def _at_most(length: int) -> str:
    return f"must be no more than {length} characters"


def _invalid(field: str, value: object, text: str) -> Cause:
    return Cause(field, _INVALID, f'Invalid value: "{value}": {text}')
