"""What we wrote ourselves and the watch has not told yet.

A pass that follows right after a write would otherwise read the object as it was before, write
against a version that is gone, and come back after a conflict.
"""

from __future__ import annotations

import msgspec

from apirule.apis.meta import Object
from apirule.kube.informer import Delta, Informer, name_of
from apirule.names import ObjectName


class _Write(msgspec.Struct):
    object: Object | None
    """What the server answered; None: deleted."""
    replaced: set[str]
    """The versions that came before it; empty text stands for no object."""
    lists: int
    """How often the informer had listed: a list may skip what a watch would have told."""


class Ahead:
    """An informer's cache with our own writes on top.

    A write counts only while the cache shows what it replaced. Versions are compared for equality
    alone, which is all that may be done with them.
    """

    def __init__(self, informer: Informer) -> None:
        self._informer = informer
        self._writes: dict[ObjectName, _Write] = {}
        informer.add_handler(self._told)

    def get(self, name: ObjectName) -> Object | None:
        """Return the newest form that is known, from the watch or from our own write."""
        write = self._writes.get(name)
        if write is not None and write.lists != self._informer.lists:
            del self._writes[name]
            write = None
        return self._informer.get(name) if write is None else write.object

    def wrote(self, name: ObjectName, before: Object | None, after: Object | None) -> None:
        """Note what became of an object. ``before`` is what was read, ``after`` the answer."""
        known = self._writes.pop(name, None)
        replaced = {*known.replaced, _version(before)} if known else {_version(before)}
        if _version(after) not in replaced and _version(self._informer.get(name)) in replaced:
            kept = without_managed_fields(after) if after is not None else None
            self._writes[name] = _Write(kept, replaced, self._informer.lists)

    def _told(self, delta: Delta) -> None:
        name = name_of(delta.current)
        write = self._writes.get(name)
        if write is not None and _version(delta.new) not in write.replaced:
            del self._writes[name]


def without_managed_fields(obj: Object) -> Object:
    """Return an object as the informer keeps it."""
    meta = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    return {**obj, "metadata": meta}


def _version(obj: Object | None) -> str:
    return "" if obj is None else str(obj["metadata"].get("resourceVersion", ""))
