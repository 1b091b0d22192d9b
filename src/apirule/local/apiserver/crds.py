"""The life of a CustomResourceDefinition: accepted at once, cleaned up after when it goes.

A real cluster establishes a CRD some moments after it was written. Here the same write does it,
so that whoever created a CRD can use it with the next request.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apirule.apis.meta import Object
from apirule.local.apiserver import errors
from apirule.local.apiserver.errors import Cause
from apirule.local.apiserver.kinds import CRDS, Kinds, established
from apirule.schema import check_crd

CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
"""The finalizer that stays until all objects of the kind are gone."""


def settle(crd: Object, old: Object | None, kinds: Kinds, now: str) -> Object:
    """Return the CRD with its names completed and its status. StatusError 422: it is invalid."""
    spec = crd["spec"] = {**crd["spec"], "names": _names(crd["spec"]["names"])}
    spec.setdefault("conversion", {"strategy": "None"})
    # What is stored was checked when it came, and every start writes ours again.
    same = old is not None and old["spec"] == spec
    causes = [
        Cause(str(problem.field), problem.reason.value, problem.message)
        for problem in (() if same else check_crd(crd))
    ]
    if old is not None:
        causes += _check_fixed(crd, old)
        causes += _check_stored_versions(crd, old)
    if causes:
        subject = errors.Subject("apiextensions.k8s.io", "CustomResourceDefinition")
        name = crd["metadata"]["name"]
        raise errors.invalid(errors.Subject(subject.group, subject.kind, name), causes)
    taken = _names_taken(crd, kinds)
    status = {**(crd.get("status") or {})}
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    _set(
        conditions,
        "NamesAccepted",
        taken == "",
        reason="NoConflicts",
        message=taken or "no conflicts found",
        now=now,
    )
    if not taken:
        status["acceptedNames"] = spec["names"]
        _set(
            conditions,
            "Established",
            True,
            reason="InitialNamesAccepted",
            message=_ESTABLISHED,
            now=now,
        )
    elif "Established" not in conditions:
        _set(
            conditions,
            "Established",
            False,
            reason="NotAccepted",
            message="not all names are accepted",
            now=now,
        )
    storage = next(v["name"] for v in spec["versions"] if v["storage"])
    stored = list(status.get("storedVersions") or ())
    status["storedVersions"] = stored if storage in stored else [*stored, storage]
    status["conditions"] = list(conditions.values())
    return {**crd, "status": status}


def remarks(crd: Object) -> Iterator[str]:
    """Yield what a writer should know: parts of a CRD that are stored and do nothing here."""
    if (crd["spec"].get("conversion") or {}).get("strategy") == "Webhook":
        yield (
            "spec.conversion: webhooks are not called on this machine, so all versions must have"
            " the same shape"
        )


def mark_terminating(crd: Object, now: str) -> None:
    status = crd["status"] = {**(crd.get("status") or {})}
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    message = "CustomResource deletion is in progress"
    _set(
        conditions,
        "Terminating",
        True,
        reason="InstanceDeletionInProgress",
        message=message,
        now=now,
    )
    status["conditions"] = list(conditions.values())


_ESTABLISHED = "the initial names have been accepted"


def _names(names: dict[str, Any]) -> dict[str, Any]:
    kind = names["kind"]
    return {"singular": kind.lower(), "listKind": f"{kind}List", **names}


_FIXED = (("group",), ("names", "plural"))
_FIXED_ONCE_ESTABLISHED = (("scope",), ("names", "kind"))


def _check_fixed(crd: Object, old: Object) -> Iterator[Cause]:
    """Yield what must not change: objects are stored under it."""
    for steps in (*_FIXED, *(_FIXED_ONCE_ESTABLISHED if established(old) else ())):
        now, before = crd["spec"], old["spec"]
        for step in steps:
            now, before = now[step], before[step]
        if now != before:
            field = ".".join(("spec", *steps))
            message = f'Invalid value: "{now}": field is immutable'
            yield Cause(field, "FieldValueInvalid", message)


def _check_stored_versions(crd: Object, old: Object) -> Iterator[Cause]:
    known = {version["name"] for version in crd["spec"]["versions"]}
    stored = (old.get("status") or {}).get("storedVersions") or ()
    for index, version in enumerate(stored):
        if version not in known:
            yield Cause(
                f"status.storedVersions[{index}]",
                "FieldValueInvalid",
                f'Invalid value: "{version}": must appear in spec.versions: objects may be stored'
                " in it",
            )


def _names_taken(crd: Object, kinds: Kinds) -> str:
    spec = crd["spec"]
    for other in kinds.all_stored:
        same = other.resource == crd["metadata"]["name"]
        if other.info.group != spec["group"] or same:
            continue
        if other.info.plural == spec["names"]["plural"]:
            return f'"{other.info.plural}" is already in use'
        if other.info.kind == spec["names"]["kind"]:
            return f'"{other.info.kind}" is already in use'
    return ""


def _set(
    conditions: dict[str, Any], kind: str, holds: bool, *, reason: str, message: str, now: str
) -> None:
    status = "True" if holds else "False"
    before = conditions.get(kind)
    unchanged = before is not None and before["status"] == status
    conditions[kind] = {
        "type": kind,
        "status": status,
        "lastTransitionTime": before["lastTransitionTime"] if unchanged and before else now,
        "reason": reason if holds or kind != "NamesAccepted" else "NameConflict",
        "message": message,
    }


__all__ = ["CLEANUP", "CRDS", "mark_terminating", "remarks", "settle"]
