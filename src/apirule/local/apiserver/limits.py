"""What one write must not change: the name, what the server sets, and what other paths write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apirule.apis.meta import Object
from apirule.local.apiserver import errors
from apirule.local.apiserver.kinds import Kind
from apirule.local.apiserver.metadata import keep_servers_own
from apirule.names import ObjectName

NAMESPACE_MISMATCH = (
    "the namespace of the provided object does not match the namespace sent on the request"
)


def check_names(
    kind: Kind, name: ObjectName, metadata: Mapping[str, Any], live: Object | None
) -> None:
    """Refuse metadata that speaks of another object than the URL. StatusError 400, 409."""
    given = metadata.get("name")
    if not given:
        raise errors.bad_request(
            f"the name of the object ({name.name} based on URL) was undeterminable: name must be"
            " provided"
        )
    if given != name.name:
        raise errors.bad_request(
            f"the name of the object ({given}) does not match the name on the URL ({name.name})"
        )
    if live is not None:
        _check_uid(kind, metadata, live)


def check_identity(kind: Kind, old: Object, new: Object) -> None:
    was, metadata = old["metadata"], new["metadata"]
    check_names(kind, ObjectName(was.get("namespace", ""), was["name"]), metadata, old)
    subject = kind.subject(was["name"])
    if kind.info.namespaced and metadata.setdefault("namespace", was["namespace"]) != was.get(
        "namespace"
    ):
        raise errors.bad_request(NAMESPACE_MISMATCH)
    expected = metadata.get("resourceVersion")
    if expected:
        if not str(expected).isdigit():
            raise errors.bad_request(
                f'metadata.resourceVersion: Invalid value: "{expected}": it must be one that'
                " this server gave out"
            )
        if expected != was["resourceVersion"]:
            raise errors.modified(subject)


def _check_uid(kind: Kind, metadata: Mapping[str, Any], live: Object) -> None:
    expected, uid = metadata.get("uid"), live["metadata"]["uid"]
    if expected and expected != uid:
        raise errors.conflict(
            kind.subject(live["metadata"]["name"]),
            f"Precondition failed: UID in precondition: {expected}, UID in object meta: {uid}",
        )


def check_no_uid(kind: Kind, metadata: Mapping[str, Any]) -> None:
    """Refuse to create what the client believes to be there. StatusError 409."""
    if uid := metadata.get("uid"):
        raise errors.conflict(
            kind.subject(metadata["name"]),
            f"uid mismatch: the provided object specified uid {uid}, and no existing object was"
            " found",
        )


def with_untouchables(kind: Kind, old: Object, new: Object, subresource: str) -> Object:
    """Return the new object with everything of the old one that this request may not change."""
    new = {**new, "metadata": dict(new["metadata"])}
    if subresource == "status":
        status: Mapping[str, Any] = {"status": new["status"]} if "status" in new else {}
        kept = {key: value for key, value in old.items() if key != "status"}
        fields = new["metadata"].get("managedFields")
        new = {**kept, **status, "metadata": dict(old["metadata"])}
        if fields is not None:
            new["metadata"]["managedFields"] = fields
    elif kind.has_status:
        new.pop("status", None)
        if "status" in old:
            new["status"] = old["status"]
    new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
    keep_servers_own(old, new)
    return new


def limit_to(applied: Object, subresource: str) -> None:
    """Leave in an applied object only what this path may write."""
    if not subresource:
        applied.pop("status", None)
        return
    for key in [key for key in applied if key not in ("apiVersion", "kind", "metadata", "status")]:
        del applied[key]
    applied["metadata"] = {
        key: value
        for key, value in applied["metadata"].items()
        if key in ("name", "namespace", "resourceVersion", "uid")
    }
