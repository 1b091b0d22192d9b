"""Creating, changing and deleting objects: the semantics of the Kubernetes API over the store.

Every write ends here: ``POST``, ``PUT`` and all kinds of ``PATCH`` differ only in how they come by
the new object. What a write must not change is restored, the rest is admitted, ownership of fields
is recorded, and an object that comes out as it was is not written.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from secrets import choice
from typing import Any

import msgspec

from apirule.apis.meta import Object
from apirule.local.apiserver import crds, errors, ownership
from apirule.local.apiserver.admission import (
    AdmissionHook,
    admit_object,
    has_defaults,
    report_unknown,
    with_defaults,
)
from apirule.local.apiserver.bodies import check_type
from apirule.local.apiserver.builtin import initial_status
from apirule.local.apiserver.calls import Call, timestamp
from apirule.local.apiserver.deletion import DeleteOptions
from apirule.local.apiserver.errors import Cause
from apirule.local.apiserver.http import encode
from apirule.local.apiserver.kinds import CRDS, NAMESPACES, Kind, Kinds
from apirule.local.apiserver.limits import (
    NAMESPACE_MISMATCH,
    check_identity,
    check_names,
    check_no_uid,
    limit_to,
    with_untouchables,
)
from apirule.local.apiserver.metadata import (
    SERVERS_OWN,
    check_finalizers,
    content_changed,
)
from apirule.local.store import Record, Store
from apirule.names import ObjectName

_KEPT_NAMESPACES = frozenset(("default", "kube-system"))

_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_SUFFIX_LENGTH = 5
_BASE_LENGTH = 58
_ATTEMPTS = 8


class Written(msgspec.Struct, frozen=True):
    """What a write came to. ``gone``: the object no longer exists, this was its last state."""

    object: Object
    created: bool = False
    gone: bool = False


class Objects:
    """All objects of all kinds. Raises StatusError; otherwise the write has happened."""

    def __init__(self, store: Store, kinds: Kinds, hooks: Sequence[AdmissionHook]) -> None:
        self.store = store
        self.kinds = kinds
        self._hooks = tuple(hooks)

    def record(self, kind: Kind, name: ObjectName) -> Record:
        """Return a stored object. StatusError 404."""
        record = self.store.get(kind.resource, name)
        if record is None:
            raise errors.not_found(kind.subject(name.name))
        return record

    def create(
        self,
        kind: Kind,
        namespace: str,
        obj: Object,
        call: Call,
        *,
        duplicates: Sequence[str] = (),
        applied: bool = False,
    ) -> Written:
        """Store a new object. ``applied``: its managedFields are already those of an apply."""
        self._place(kind, namespace, obj["metadata"])
        self._make_new(kind, namespace, obj, call)
        obj = self._admitted(kind, obj, None, call, duplicates=duplicates)
        if not applied:
            ownership.track_update(None, obj, self._writer(kind, call))
        # The first status is the server's own: nobody owns it.
        status = initial_status(kind.resource) if kind.has_status else None
        if status is not None:
            obj["status"] = status
        obj = self._settled(kind, self._for_storage(kind, obj), None, call)
        if self._exists(kind, namespace, obj["metadata"]["name"]):
            raise errors.already_exists(kind.subject(obj["metadata"]["name"]))
        if call.dry_run:
            return Written(obj, created=True)
        record = self.store.create(kind.resource, obj)
        self._after_write(kind)
        return Written(record.decode(), created=True)

    def update(
        self,
        kind: Kind,
        name: ObjectName,
        obj: Object,
        call: Call,
        *,
        subresource: str = "",
        duplicates: Sequence[str] = (),
    ) -> Written:
        """Replace an object, or its status."""
        record = self.record(kind, name)
        check_names(kind, name, obj["metadata"], None)
        if not obj["metadata"].get("resourceVersion") and kind.custom:
            raise errors.invalid(
                kind.subject(name.name),
                [
                    Cause(
                        "metadata.resourceVersion",
                        "FieldValueInvalid",
                        "Invalid value: 0: must be specified for an update",
                    )
                ],
            )
        return self._replace(
            kind, record, obj, call, subresource=subresource, duplicates=duplicates
        )

    def patch(
        self,
        kind: Kind,
        name: ObjectName,
        change: Callable[[Object], Any],
        call: Call,
        *,
        subresource: str = "",
        duplicates: Sequence[str] = (),
    ) -> Written:
        """Replace an object by what ``change`` makes of it."""
        record = self.record(kind, name)
        changed = change(self.as_version(kind, record.decode()))
        if not isinstance(changed, dict) or not isinstance(changed.get("metadata"), dict):
            raise errors.bad_request("the patch leaves no object behind: keep metadata an object")
        check_type(changed, kind)
        return self._replace(
            kind, record, changed, call, subresource=subresource, duplicates=duplicates
        )

    def apply(
        self,
        kind: Kind,
        name: ObjectName,
        applied: Object,
        call: Call,
        *,
        subresource: str = "",
        duplicates: Sequence[str] = (),
    ) -> Written:
        """Server-side apply: create the object, or merge what is said into it."""
        if applied["metadata"].get("managedFields"):
            raise errors.bad_request("metadata.managedFields must be nil")
        applied, unknown = self._known_part(kind, applied)
        report_unknown(kind, unknown, duplicates, call)
        if kind.has_status:
            limit_to(applied, subresource)
        record = self.store.get(kind.resource, name)
        live = self.as_version(kind, record.decode()) if record else None
        if live is None and subresource:
            raise errors.not_found(kind.subject(name.name))
        self._place(kind, name.namespace, applied["metadata"])
        writer = self._writer(kind, call, subresource)
        expected = applied["metadata"].pop("resourceVersion", None)
        merged = ownership.apply(live, applied, writer, force=call.force)
        if live is not None:
            applied["metadata"].setdefault("name", name.name)
        check_names(kind, name, applied["metadata"], live)
        if live is None or record is None:
            check_no_uid(kind, applied["metadata"])
            return self.create(kind, name.namespace, merged, call, applied=True)
        if expected:
            merged["metadata"]["resourceVersion"] = expected
        return self._replace(kind, record, merged, call, subresource=subresource, applied=True)

    def delete(self, kind: Kind, name: ObjectName, options: DeleteOptions, call: Call) -> Written:
        """Delete an object, or begin to: finalizers and grace periods hold it back."""
        record = self.record(kind, name)
        obj = self.as_version(kind, record.decode())
        options.check_preconditions(obj, kind.kind_subject(name.name))
        if kind.resource == NAMESPACES and name.name in _KEPT_NAMESPACES:
            raise errors.forbidden(kind.subject(name.name), "this namespace may not be deleted")
        metadata = obj["metadata"]
        finalizers = options.finalizers(metadata.get("finalizers") or [])
        if kind.resource == CRDS and crds.CLEANUP not in finalizers:
            finalizers = [*finalizers, crds.CLEANUP]
        grace_s = options.grace_s(kind.resource, obj)
        held = finalizers or grace_s or (obj.get("spec") or {}).get("finalizers")
        if not held:
            if not call.dry_run:
                last = self._for_storage(kind, obj)
                self.store.delete(kind.resource, name, expected=record.revision, last=last)
                self._after_write(kind)
            return Written(obj, gone=True)
        before = self.as_version(kind, record.decode())
        if finalizers:
            metadata["finalizers"] = finalizers
        _mark_deleted(kind, obj, grace_s, call)
        return self._store(kind, record, before, obj, call)

    def release_namespace(self, kind: Kind, name: ObjectName, call: Call) -> None:
        """Remove a Namespace that is empty."""
        record = self.record(kind, name)
        obj = record.decode()
        if obj["metadata"].get("finalizers"):
            if obj.get("spec", {}).pop("finalizers", None):
                self.store.update(kind.resource, obj, expected=record.revision)
            return
        obj["spec"] = {}
        self.store.delete(kind.resource, name, expected=record.revision, last=obj)

    def renew(self, kind: Kind) -> None:
        """Give what is stored of a kind the defaults that it has by now. UnwritableError.

        An older version, or the CRD as it was, knew fewer. A real server fills them in whenever it
        reads; here what is stored is complete, for all who read it.
        """
        if not has_defaults(kind.storage):
            return
        for record in self.store.list(kind.resource):
            obj = record.decode()
            renewed = with_defaults(kind.storage, obj)
            if renewed != obj:
                self.store.update(kind.resource, renewed, expected=record.revision)

    def as_version(self, kind: Kind, obj: Object) -> Object:
        """Return a stored object in the version of ``kind``; they differ in name only."""
        obj["apiVersion"] = kind.api_version
        return obj

    def view(self, kind: Kind, record: Record) -> bytes:
        """Return the JSON of a stored object in the version of ``kind``."""
        # What was stored before the storage version changed has the former one.
        if kind.info is kind.storage and record.data.startswith(kind.head):
            return record.data
        cached: bytes | None = record.views.get(kind.api_version)
        if cached is None:
            cached = encode(self.as_version(kind, record.decode()))
            record.views[kind.api_version] = cached
        return cached

    def _replace(
        self,
        kind: Kind,
        record: Record,
        new: Object,
        call: Call,
        *,
        subresource: str = "",
        applied: bool = False,
        duplicates: Sequence[str] = (),
    ) -> Written:
        old = self.as_version(kind, record.decode())
        check_identity(kind, old, new)
        new = with_untouchables(kind, old, new, subresource)
        new = self._admitted(kind, new, old, call, subresource=subresource, duplicates=duplicates)
        causes = list(check_finalizers(old, new))
        if causes:
            raise errors.invalid(kind.kind_subject(record.name.name), causes)
        if kind.has_generation and content_changed(old, new):
            new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
        if not applied:
            ownership.track_update(old, new, self._writer(kind, call, subresource))
        return self._store(kind, record, old, new, call)

    def _store(self, kind: Kind, record: Record, old: Object, new: Object, call: Call) -> Written:
        metadata = new["metadata"]
        if (
            metadata.get("deletionTimestamp")
            and not metadata.get("finalizers")
            and metadata.get("deletionGracePeriodSeconds", 0) == 0
            and not (new.get("spec") or {}).get("finalizers")
        ):
            if not call.dry_run:
                last = self._for_storage(kind, new)
                self.store.delete(kind.resource, record.name, expected=record.revision, last=last)
                self._after_write(kind)
            return Written(self.as_version(kind, new), gone=True)
        if new == old:
            return Written(old)
        new = self._settled(kind, self._for_storage(kind, new), old, call)
        if call.dry_run:
            return Written(self.as_version(kind, new))
        written = self.store.update(kind.resource, new, expected=record.revision)
        self._after_write(kind)
        return Written(self.as_version(kind, written.decode()))

    def _admitted(
        self,
        kind: Kind,
        obj: Object,
        old: Object | None,
        call: Call,
        *,
        subresource: str = "",
        duplicates: Sequence[str] = (),
    ) -> Object:
        if kind.info.deprecation_warning:
            call.warnings.append(kind.info.deprecation_warning)
        namespace = None
        if kind.info.namespaced:
            holder = self.store.get(NAMESPACES, ObjectName("", obj["metadata"]["namespace"]))
            namespace = holder.decode() if holder and self._hooks else None
        admitted = admit_object(
            kind,
            obj,
            old,
            call,
            subresource=subresource,
            namespace=namespace,
            hooks=self._hooks,
            duplicates=duplicates,
            others=cache(lambda: self._others(kind, obj)),
        )
        # Our own from here on: admission shares parts with defaults and with what it was given.
        return {**admitted, "metadata": dict(admitted["metadata"])}

    def _others(self, kind: Kind, obj: Object) -> tuple[Object, ...]:
        own = ObjectName(obj["metadata"].get("namespace", ""), str(obj["metadata"].get("name")))
        return tuple(r.decode() for r in self.store.list(kind.resource) if r.name != own)

    def _settled(self, kind: Kind, obj: Object, old: Object | None, call: Call) -> Object:
        if kind.resource != CRDS:
            return obj
        call.warnings += crds.remarks(obj)
        return crds.settle(obj, old, self.kinds, call.timestamp)

    def _after_write(self, kind: Kind) -> None:
        if kind.resource == CRDS:
            self.kinds.replace_crds(record.decode() for record in self.store.list(CRDS))

    def _make_new(self, kind: Kind, namespace: str, obj: Object, call: Call) -> None:
        """Give an object the metadata of a new one. StatusError 400; 409: no name was free."""
        metadata = obj["metadata"]
        if metadata.get("resourceVersion"):
            raise errors.bad_request("resourceVersion should not be set on objects to be created")
        for key in SERVERS_OWN:
            metadata.pop(key, None)
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = call.timestamp
        if kind.has_generation:
            metadata["generation"] = 1
        if kind.has_status:
            obj.pop("status", None)
        if not metadata.get("name") and metadata.get("generateName"):
            base = str(metadata["generateName"])
            metadata["name"] = self._generated_name(kind, namespace, base)

    def _for_storage(self, kind: Kind, obj: Object) -> Object:
        if kind.info is kind.storage:
            return obj
        obj = {**obj, "apiVersion": kind.storage.gvk.api_version}
        # What the stored version does not know would come back when its schema learns the field.
        pruned, _ = kind.storage.schema.prune(obj)
        return {**pruned, "metadata": dict(pruned["metadata"])}

    def _known_part(self, kind: Kind, applied: Object) -> tuple[Object, list[str]]:
        pruned, unknown = kind.info.schema.prune(applied)
        return {**pruned, "metadata": dict(pruned["metadata"])}, unknown

    def _writer(self, kind: Kind, call: Call, subresource: str = "") -> ownership.Writer:
        return ownership.Writer(
            name=call.manager,
            api_version=kind.api_version,
            subresource=subresource,
            now=call.timestamp,
            node=kind.node,
            custom=kind.custom,
        )

    def _place(self, kind: Kind, namespace: str, metadata: dict[str, Any]) -> None:
        if not kind.info.namespaced:
            metadata.pop("namespace", None)
        elif metadata.setdefault("namespace", namespace) != namespace:
            raise errors.bad_request(NAMESPACE_MISMATCH)
        if kind.resource in self.kinds.deleting:
            raise errors.method_not_allowed(
                f"create not allowed while custom resource definition {kind.resource} is"
                " terminating"
            )
        if not kind.info.namespaced:
            return
        holder = self.store.get(NAMESPACES, ObjectName("", namespace))
        if holder is None:
            raise errors.not_found(errors.Subject("", NAMESPACES, namespace))
        if holder.decode()["metadata"].get("deletionTimestamp"):
            if self.store.get(kind.resource, ObjectName(namespace, metadata.get("name", ""))):
                return
            why = (
                f"unable to create new content in namespace {namespace} because it is being"
                " terminated"
            )
            cause = Cause(
                "metadata.namespace",
                "NamespaceTerminating",
                f"namespace {namespace} is being terminated",
            )
            raise errors.forbidden(kind.subject(str(metadata.get("name", ""))), why, [cause])

    def _exists(self, kind: Kind, namespace: str, name: str) -> bool:
        place = namespace if kind.info.namespaced else ""
        return self.store.get(kind.resource, ObjectName(place, name)) is not None

    def _generated_name(self, kind: Kind, namespace: str, base: str) -> str:
        name = ""
        for _ in range(_ATTEMPTS):
            suffix = "".join(choice(_SUFFIX_LETTERS) for _ in range(_SUFFIX_LENGTH))
            name = base[:_BASE_LENGTH] + suffix
            if not self._exists(kind, namespace, name):
                return name
        raise errors.already_exists(kind.subject(name))


def _mark_deleted(kind: Kind, obj: Object, grace_s: int, call: Call) -> None:
    metadata = obj["metadata"]
    if "deletionTimestamp" not in metadata:
        metadata["deletionTimestamp"] = timestamp(call.now + timedelta(seconds=grace_s))
        metadata["deletionGracePeriodSeconds"] = grace_s
        if "generation" in metadata:
            metadata["generation"] += 1
    elif grace_s < metadata.get("deletionGracePeriodSeconds", 0):
        metadata["deletionGracePeriodSeconds"] = grace_s
    if kind.resource == NAMESPACES:
        obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}
    if kind.resource == CRDS:
        crds.mark_terminating(obj, call.timestamp)
