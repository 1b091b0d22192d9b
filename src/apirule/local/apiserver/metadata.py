"""The rules of metadata that no schema states: names, labels, finalizers, and what the server sets.

Functions from objects to causes; the wording of syntax errors is Kubernetes', as tools match on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from apirule.apis.meta import Object
from apirule.local.apiserver.errors import Cause
from apirule.problem import FieldPath, Problem, Reason
from apirule.schema import metadata
from apirule.schema.messages import show

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
    for problem in metadata.check_metadata(obj, resource):
        yield Cause(str(problem.field), problem.reason, problem.message)


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


def immutable(at: FieldPath, value: object) -> Problem:
    message = f"Invalid value: {show(value)}: field is immutable"
    return Problem(at, Reason.INVALID, message, "Delete the object and create it anew.")
