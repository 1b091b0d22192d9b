"""metadata.managedFields: who owns which fields, after an update and after an apply.

Two kinds of writers. An Update owns what it changed. An Apply owns what it said, must not change
what others own unless forced, and removes what it said last time and says no more, if nobody else
owns that. Server-side apply, KEP-555; the shape of the entries follows real API servers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from apirule.apis.meta import Object
from apirule.local.apiserver import errors
from apirule.local.apiserver.fields import (
    NOTHING,
    Fields,
    Path,
    UnkeyedItemError,
    apply_onto,
    beneath,
    compare,
    from_v1,
    owned_by_applying,
    path_text,
    remove,
    to_v1,
)
from apirule.local.apiserver.nodes import Node

APPLY = "Apply"
UPDATE = "Update"

MAX_UPDATERS = 10
"""More Update entries than this are folded into the oldest, as Kubernetes does."""

# Set by the server, owned by nobody.
_NOBODYS: Fields = frozenset(
    [
        ("f:apiVersion",),
        ("f:kind",),
        ("f:metadata",),
        *(
            ("f:metadata", f"f:{name}")
            for name in (
                "name",
                "namespace",
                "uid",
                "resourceVersion",
                "generation",
                "creationTimestamp",
                "deletionTimestamp",
                "deletionGracePeriodSeconds",
                "selfLink",
                "managedFields",
            )
        ),
    ]
)

# Members that Kubernetes' own types always have: nobody created them, so nobody owns them as such.
_ALWAYS_THERE = frozenset(
    f"f:{name}"
    for name in ("spec", "status", "template", "strategy", "metadata", "involvedObject", "source")
)


class Manager(NamedTuple):
    """Who wrote. An applier is one manager whatever version it applies."""

    name: str
    operation: str
    api_version: str
    subresource: str = ""

    @property
    def identity(self) -> Manager:
        return self._replace(api_version="") if self.operation == APPLY else self

    def __str__(self) -> str:
        using = f" using {self.api_version}" if self.operation == UPDATE else ""
        place = f" with subresource {_quoted(self.subresource)}" if self.subresource else ""
        return f"{_quoted(self.name)}{place}{using}"


class Share(msgspec.Struct, frozen=True):
    """What one manager owns, and since when it is so."""

    manager: Manager
    fields: Fields
    time: str


Shares = dict[Manager, Share]


def read(obj: Mapping[str, Any]) -> Shares:
    """Read the entries of an object. ValueError: they are not what Kubernetes writes."""
    shares: Shares = {}
    for entry in (obj.get("metadata") or {}).get("managedFields") or ():
        if not isinstance(entry, dict):
            raise ValueError("an entry of managedFields is not an object")  # noqa: TRY004
        manager = Manager(
            str(entry.get("manager", "")),
            str(entry.get("operation", UPDATE)),
            str(entry.get("apiVersion", "")),
            str(entry.get("subresource", "")),
        )
        fields = from_v1(entry.get("fieldsV1") or {})
        shares[manager.identity] = Share(manager, fields, str(entry.get("time", "")))
    return shares


def write(obj: Object, shares: Shares) -> None:
    """Put the entries into the object: Apply before Update, then by age and name."""
    entries = [_entry(share) for share in sorted(shares.values(), key=_order) if share.fields]
    if entries:
        obj["metadata"]["managedFields"] = entries
    else:
        obj["metadata"].pop("managedFields", None)


class Writer(msgspec.Struct, frozen=True):
    """One write: by whom, when, and under which schema."""

    name: str
    api_version: str
    subresource: str
    now: str
    node: Node
    custom: bool

    def manager(self, operation: str) -> Manager:
        return Manager(self.name, operation, self.api_version, self.subresource)


def track_update(old: Object | None, new: Object, by: Writer) -> None:
    """Record in ``new`` that the writer owns what it changed. The object is altered in place."""
    shares = _starting_point(old, new, by)
    difference = _without_metadata(compare(_bare(old or {}), _bare(new), by.node))
    changed = difference.added | difference.modified
    manager = by.manager(UPDATE)
    mine = shares.get(manager.identity, Share(manager, NOTHING, by.now))
    shares = _taken_from_others(shares, manager, changed, difference.removed, by.now)
    fields = (mine.fields - difference.removed) | _noted(changed, by)
    if fields != mine.fields:
        mine = msgspec.structs.replace(mine, fields=fields, time=by.now)
    shares[manager.identity] = mine
    if not fields:
        del shares[manager.identity]
    write(new, _folded(shares))


def apply(live: Object | None, applied: Object, by: Writer, *, force: bool) -> Object:
    """Return the object that applying gives. StatusError 409: others own what would change."""
    manager = by.manager(APPLY)
    base = live if live is not None else _shell(applied)
    try:
        said = owned_by_applying(_bare(applied), by.node) - _NOBODYS
        merged: Object = apply_onto(_bare(base), _bare(applied), by.node)
    except UnkeyedItemError as error:
        message = f"failed to create typed patch object: {error}"
        raise errors.bad_request(message) from error
    shares = read(base)
    last = shares.get(manager.identity)
    shares[manager.identity] = Share(
        manager, said, last.time if last and last.fields == said else by.now
    )
    if last is not None:
        merged = remove(merged, _given_up(last.fields, shares), by.node)
    difference = _without_metadata(compare(_bare(base), merged, by.node))
    changed = difference.added | difference.modified
    if not force:
        _refuse_conflicts(shares, manager, changed)
    shares = _taken_from_others(shares, manager, changed, difference.removed, by.now)
    merged["metadata"] = {**_servers_metadata(base), **merged.get("metadata", {})}
    merged["apiVersion"], merged["kind"] = applied["apiVersion"], applied["kind"]
    write(merged, _folded(shares))
    return merged


def _given_up(last: Fields, shares: Shares) -> Fields:
    """Return what was applied last time and is now owned, or contains what is owned, by nobody."""
    owned = beneath(frozenset().union(*(share.fields for share in shares.values())))
    return last - owned


def _refuse_conflicts(shares: Shares, me: Manager, changed: Fields) -> None:
    conflicts = [
        (share.manager, path)
        for share in sorted(shares.values(), key=lambda share: share.manager)
        if share.manager.identity != me.identity
        for path in sorted(share.fields & changed)
    ]
    if not conflicts:
        return
    causes = [
        errors.Cause(path_text(path), "FieldManagerConflict", f"conflict with {manager}")
        for manager, path in conflicts
    ]
    raise errors.StatusError(
        409,
        "Conflict",
        _conflict_text(conflicts),
        {"causes": [cause.as_object() for cause in causes]},
    )


def _conflict_text(conflicts: list[tuple[Manager, Path]]) -> str:
    if len(conflicts) == 1:
        manager, path = conflicts[0]
        return f"Apply failed with 1 conflict: conflict with {manager}: {path_text(path)}"
    lines = [f"Apply failed with {len(conflicts)} conflicts: "]
    owners: dict[Manager, list[Path]] = {}
    for manager, path in conflicts:
        owners.setdefault(manager, []).append(path)
    blocks = [
        f"conflicts with {manager}:" + "".join(f"\n- {path_text(path)}" for path in paths)
        for manager, paths in owners.items()
    ]
    return lines[0] + "\n".join(blocks)


def _taken_from_others(
    shares: Shares, me: Manager, changed: Fields, removed: Fields, now: str
) -> Shares:
    result: Shares = {}
    for identity, share in shares.items():
        fields = share.fields - removed
        if identity != me.identity:
            fields -= changed
        if fields != share.fields and identity != me.identity:
            share = msgspec.structs.replace(share, fields=fields, time=now)  # noqa: PLW2901 - the share as it is now
        if share.fields or identity == me.identity:
            result[identity] = share
    return result


def _starting_point(old: Object | None, new: Object, by: Writer) -> Shares:
    """Return the entries to go on from: the request may replace them, but not by leaving them out.

    Clients that do not know the field must not delete it by accident; ``[{}]`` resets it.
    """
    given = new.get("metadata", {}).get("managedFields")
    if given == [{}]:
        return {}
    if given and not by.subresource:
        try:
            return read(new)
        except ValueError:
            pass
    return read(old) if old is not None else {}


def _noted(fields: Fields, by: Writer) -> Fields:
    if by.custom:
        return fields
    inner = {path[:end] for path in fields for end in range(1, len(path))}
    return frozenset(p for p in fields if not (p in inner and p[-1] in _ALWAYS_THERE))


def _without_metadata(difference: Any) -> Any:
    return msgspec.structs.replace(
        difference,
        added=difference.added - _NOBODYS,
        modified=difference.modified - _NOBODYS,
        removed=difference.removed - _NOBODYS,
    )


def _bare(obj: Mapping[str, Any]) -> Object:
    """Return the object without what the server says about it."""
    bare = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind")}
    bare["metadata"] = _bare_metadata(obj)
    return bare


def _bare_metadata(obj: Mapping[str, Any]) -> dict[str, Any]:
    metadata = obj.get("metadata") or {}
    return {k: v for k, v in metadata.items() if ("f:metadata", f"f:{k}") not in _NOBODYS}


def _servers_metadata(obj: Mapping[str, Any]) -> dict[str, Any]:
    metadata = obj.get("metadata") or {}
    return {k: v for k, v in metadata.items() if ("f:metadata", f"f:{k}") in _NOBODYS}


def _shell(applied: Object) -> Object:
    metadata = {k: v for k, v in applied.get("metadata", {}).items() if k in ("name", "namespace")}
    return {"metadata": metadata}


def _folded(shares: Shares) -> Shares:
    updaters = sorted(
        (s for s in shares.values() if s.manager.operation == UPDATE and not s.manager.subresource),
        key=lambda share: share.time,
    )
    excess = (
        updaters[: max(0, len(updaters) - MAX_UPDATERS + 1)] if len(updaters) > MAX_UPDATERS else []
    )
    for share in excess:
        ancient = Manager("ancient-changes", UPDATE, share.manager.api_version)
        fields = share.fields | (shares[ancient].fields if ancient in shares else NOTHING)
        shares.pop(share.manager.identity, None)
        shares[ancient] = Share(ancient, fields, share.time)
    return shares


def _entry(share: Share) -> Object:
    manager = share.manager
    entry = {
        "manager": manager.name,
        "operation": manager.operation,
        "apiVersion": manager.api_version,
        "time": share.time,
        "fieldsType": "FieldsV1",
        "fieldsV1": to_v1(share.fields),
    }
    if manager.subresource:
        entry["subresource"] = manager.subresource
    return entry


def _order(share: Share) -> tuple[str, str, str, str]:
    manager = share.manager
    return (manager.operation, share.time, manager.name, manager.subresource)


def _quoted(text: str) -> str:
    return f'"{text}"'
