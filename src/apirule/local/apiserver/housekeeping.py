"""What a control plane does behind its API: empties namespaces, collects orphans, ends CRDs.

Driven by the feed of the store and nothing else, so it starts from what is there and repairs what
was left undone when the process ended. Runs in the event loop in small steps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import anyio
import structlog
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from apirule.apis.meta import Object
from apirule.local.apiserver import crds, errors, namespaces
from apirule.local.apiserver.calls import Call
from apirule.local.apiserver.deletion import FOREGROUND, ORPHAN, DeleteOptions
from apirule.local.apiserver.kinds import CRDS, NAMESPACES, Kind
from apirule.local.apiserver.objects import Objects
from apirule.local.store import Change, EventType, Record, UnwritableError
from apirule.names import ObjectName

log = structlog.get_logger()

_MANAGER = "apirule-housekeeping"
_DEFAULT_ACCOUNT = "default"
_ACCOUNTS = "serviceaccounts"

_EVENTS = "events"

EVENT_LIFETIME = timedelta(hours=1)
"""As on a cluster."""
_EXPIRE_EVERY = timedelta(minutes=1)

RETRY_AFTER_S = 5
"""How long to wait for a disk that is full."""

_Place = tuple[str, ObjectName]
"""A resource and the name of one of its objects."""


class Housekeeping:
    """Owners and namespaces, as far as the feed has told."""

    def __init__(self, objects: Objects, clock: Callable[[], datetime]) -> None:
        self._objects = objects
        self._clock = clock
        self._uids: dict[str, _Place] = {}
        self._owners: dict[_Place, frozenset[str]] = {}
        self._children: defaultdict[str, set[_Place]] = defaultdict(set)
        self._next_expiry = clock()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        started = anyio.Event()

        def start() -> None:
            if not started.is_set():
                started.set()
                task_status.started()

        await self._patiently(self._renew_builtin, start)
        async for changes in self._objects.store.follow():
            for change in changes:
                self._note(change)
            for change in changes:
                await self._patiently(partial(self._react, change), start)
                # Deleting thousands of objects must not hold up a request for long.
                await checkpoint()
            start()

    def _note(self, change: Change) -> None:
        """Keep the index of owners."""
        metadata = change.object["metadata"]
        place = _place(change)
        for uid in self._owners.pop(place, ()):
            self._children[uid].discard(place)
            if not self._children[uid]:
                del self._children[uid]
        if change.type is EventType.DELETED:
            self._uids.pop(metadata["uid"], None)
            return
        self._uids[metadata["uid"]] = place
        owners = frozenset(owner["uid"] for owner in metadata.get("ownerReferences") or ())
        if owners:
            self._owners[place] = owners
            for uid in owners:
                self._children[uid].add(place)

    async def _patiently(self, work: Callable[[], None], start: Callable[[], None]) -> None:
        """Do some work; when the disk is full, as soon as it no longer is."""
        waits = False
        while True:
            try:
                work()
            except UnwritableError as error:
                if not waits:
                    log.warning("housekeeping waits for the disk", error=str(error))
                waits = True
                # It must not keep the server from starting, or nobody would be told.
                start()
                await anyio.sleep(RETRY_AFTER_S)
            else:
                return

    def _renew_builtin(self) -> None:
        """Their schemas came with us; those of the others come with their CRDs."""
        for kind in self._objects.kinds.all_stored:
            if not kind.custom:
                self._objects.renew(kind)

    def _react(self, change: Change) -> None:
        try:
            if change.type is EventType.DELETED:
                self._deleted(change)
            else:
                self._present(change)
        except errors.StatusError as error:
            # Somebody else was faster; their write is a change that we shall see.
            if error.code not in (404, 409):
                log.warning("housekeeping refused", resource=change.resource, error=error.message)

    def _deleted(self, change: Change) -> None:
        metadata = change.object["metadata"]
        for place in tuple(self._children.get(metadata["uid"], ())):
            self._collect(place)
        self._finish_owners(change.object)
        namespace = metadata.get("namespace", "")
        if namespace:
            self._empty_namespace(namespace)
            if change.resource == _ACCOUNTS and metadata["name"] == _DEFAULT_ACCOUNT:
                self._give_account(namespace)
        self._finish_crd(change.resource)

    def _present(self, change: Change) -> None:
        metadata = change.object["metadata"]
        deleting = "deletionTimestamp" in metadata
        place = _place(change)
        if metadata.get("ownerReferences"):
            self._collect(place)
        if change.resource == _EVENTS:
            self._expire_events()
        if not deleting:
            if change.resource == NAMESPACES:
                self._give_account(metadata["name"])
            if change.resource == CRDS and (kind := self._objects.kinds.stored(metadata["name"])):
                self._objects.renew(kind)
            return
        finalizers = metadata.get("finalizers") or ()
        if ORPHAN in finalizers:
            self._orphan(place, metadata["uid"])
        elif FOREGROUND in finalizers:
            self._foreground(place, metadata["uid"])
        if change.resource == NAMESPACES:
            self._empty_namespace(metadata["name"])
        elif change.resource == CRDS:
            self._finish_crd(metadata["name"])

    def _collect(self, place: _Place) -> None:
        """Delete an object whose owners are all gone, or take those that are from its owners."""
        obj = self._get(place)
        references = (obj or {}).get("metadata", {}).get("ownerReferences") or ()
        gone = [owner for owner in references if not self._lives(owner, place)]
        if references and len(gone) == len(references):
            self._delete(place)
        elif gone:
            self._disown(place, gone)

    def _lives(self, owner: Mapping[str, Any], child: _Place) -> bool:
        """Tell whether a reference leads to its owner: the uid alone may be that of anything."""
        kind = self._objects.kinds.of_object(owner["apiVersion"], owner["kind"])
        namespace = child[1].namespace
        if kind is None or (kind.info.namespaced and not namespace):
            # It may live where we cannot look.
            return True
        place = ObjectName(namespace if kind.info.namespaced else "", owner["name"])
        return self._uids.get(owner["uid"]) == (kind.resource, place)

    def _finish_owners(self, gone: Object) -> None:
        """Let go of owners that waited in the foreground for this object to be gone."""
        for owner in gone["metadata"].get("ownerReferences") or ():
            place = self._uids.get(owner["uid"])
            if place is None:
                continue
            obj = self._get(place)
            if obj is not None and FOREGROUND in (obj["metadata"].get("finalizers") or ()):
                self._foreground(place, owner["uid"])

    def _foreground(self, owner: _Place, uid: str) -> None:
        children = tuple(self._children.get(uid, ()))
        blocking = False
        for child in children:
            obj = self._get(child)
            if obj is None:
                continue
            references = obj["metadata"].get("ownerReferences") or ()
            to_this = [reference for reference in references if reference["uid"] == uid]
            if any(r["uid"] != uid and self._lives(r, child) for r in references):
                # It has another owner that lives: only the reference goes.
                self._disown(child, to_this)
                continue
            blocking = blocking or any(r.get("blockOwnerDeletion") for r in to_this)
            self._delete(child, "Foreground")
        left = [child for child in children if self._get(child) is not None]
        if not (blocking and left):
            self._without_finalizer(owner, FOREGROUND)

    def _orphan(self, owner: _Place, uid: str) -> None:
        for child in tuple(self._children.get(uid, ())):
            references = (self._get(child) or {}).get("metadata", {}).get("ownerReferences") or ()
            self._disown(child, [owner for owner in references if owner["uid"] == uid])
        self._without_finalizer(owner, ORPHAN)

    def _empty_namespace(self, name: str) -> None:
        place: _Place = (NAMESPACES, ObjectName("", name))
        namespace = self._get(place)
        if namespace is None or "deletionTimestamp" not in namespace["metadata"]:
            return
        store = self._objects.store
        left: dict[str, list[Record]] = {}
        for content in tuple(self._objects.kinds.all_stored):
            if not content.info.namespaced:
                continue
            for record in store.list(content.resource, name):
                self._delete((content.resource, record.name))
            if remaining := store.list(content.resource, name):
                left[content.resource] = remaining
        kind = self._objects.kinds.stored(NAMESPACES)
        if kind is None:
            return
        if not left:
            self._objects.release_namespace(kind, place[1], self._call())
            return
        now = self._call().timestamp

        def change(obj: Object) -> Object:
            return namespaces.with_remaining(obj, left, now)

        self._objects.patch(kind, place[1], change, self._call(), subresource="status")

    def _expire_events(self) -> None:
        """Delete Events that are too old, when new ones come and at most once a minute."""
        now = self._clock()
        if now < self._next_expiry:
            return
        self._next_expiry = now + _EXPIRE_EVERY
        for record in self._objects.store.list(_EVENTS):
            written = record.decode()["metadata"]["creationTimestamp"]
            if now - datetime.fromisoformat(written) > EVENT_LIFETIME:
                self._delete((_EVENTS, record.name))

    def _finish_crd(self, resource: str) -> None:
        place: _Place = (CRDS, ObjectName("", resource))
        crd = self._get(place)
        if crd is None or crds.CLEANUP not in (crd["metadata"].get("finalizers") or ()):
            return
        if "deletionTimestamp" not in crd["metadata"]:
            return
        store = self._objects.store
        for record in store.list(resource):
            self._delete((resource, record.name))
        if not store.list(resource):
            self._without_finalizer(place, crds.CLEANUP)

    def _give_account(self, namespace: str) -> None:
        kind = self._objects.kinds.stored(_ACCOUNTS)
        name = ObjectName(namespace, _DEFAULT_ACCOUNT)
        if kind is None or self._get((_ACCOUNTS, name)) is not None:
            return
        holder = self._get((NAMESPACES, ObjectName("", namespace)))
        if holder is None or "deletionTimestamp" in holder["metadata"]:
            return
        account = {
            "apiVersion": kind.api_version,
            "kind": kind.info.kind,
            "metadata": {"name": _DEFAULT_ACCOUNT, "namespace": namespace},
        }
        self._objects.create(kind, namespace, account, self._call())

    def _delete(self, place: _Place, policy: str = "Background") -> None:
        kind, obj = self._kind(place), self._get(place)
        if kind is None or obj is None:
            return
        metadata = obj["metadata"]
        waits = "deletionTimestamp" in metadata
        if waits and (policy != "Foreground" or FOREGROUND in (metadata.get("finalizers") or ())):
            return
        options = DeleteOptions(policy=policy, uid=metadata["uid"])
        try:
            self._objects.delete(kind, place[1], options, self._call())
        except errors.StatusError as error:
            if error.code not in (404, 409):
                raise

    def _disown(self, place: _Place, owners: Sequence[Mapping[str, Any]]) -> None:
        def change(obj: Object) -> Object:
            present = obj["metadata"].get("ownerReferences") or ()
            left = [owner for owner in present if owner not in owners]
            return _with_metadata(obj, "ownerReferences", left)

        self._change(place, change)

    def _without_finalizer(self, place: _Place, finalizer: str) -> None:
        def change(obj: Object) -> Object:
            left = [f for f in obj["metadata"].get("finalizers") or () if f != finalizer]
            return _with_metadata(obj, "finalizers", left)

        self._change(place, change)

    def _change(self, place: _Place, change: Callable[[Object], Object]) -> None:
        kind = self._kind(place)
        if kind is not None and self._get(place) is not None:
            self._objects.patch(kind, place[1], change, self._call())

    def _get(self, place: _Place) -> Object | None:
        record = self._objects.store.get(*place)
        return record.decode() if record else None

    def _kind(self, place: _Place) -> Kind | None:
        return self._objects.kinds.stored(place[0])

    def _call(self) -> Call:
        return Call(self._clock(), manager=_MANAGER, validation="Ignore")


def _place(change: Change) -> _Place:
    metadata = change.object["metadata"]
    return change.resource, ObjectName(metadata.get("namespace", ""), metadata["name"])


def _with_metadata(obj: Object, key: str, value: Iterable[object]) -> Object:
    metadata = {k: v for k, v in obj["metadata"].items() if k != key}
    left = list(value)
    if left:
        metadata[key] = left
    return {**obj, "metadata": metadata}
