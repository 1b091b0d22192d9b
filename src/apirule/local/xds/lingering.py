"""Guards that stay a little longer than their objects: until no gateway can hold an old route.

A guard lingers when its object is gone, and when it has come to select other workloads: then its
old form stays where it was, beside the new one. A guard that closed its workload, because it was
rejected or could not be expressed, lingers closed; it must not come back to life on its way out.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from apirule.apis.envoy_filter import EnvoyFilter
from apirule.apis.meta import ObjectRef, Resource
from apirule.local.xds.world import GUARDS, NOTHING, Moment


class _Entry(msgspec.Struct, frozen=True):
    resource: Resource
    closed: str | None
    """Why it closes its workload, if it does."""


class LingeringGuards:
    def __init__(self) -> None:
        self._seen = NOTHING
        self._closed: dict[ObjectRef, str] = {}
        self._entries: dict[ObjectRef, _Entry] = {}

    def __bool__(self) -> bool:
        return bool(self._entries)

    def note(self, moment: Moment, rejected: Mapping[ObjectRef, str]) -> None:
        """Compare with the moment before. ``rejected``: what proxies refused up to now."""
        closed = {**self._closed, **rejected}
        for ref in moment.changed_since(self._seen):
            before, now = self._seen.resources.get(ref), moment.resources.get(ref)
            if not isinstance(before, GUARDS):
                continue
            if now is None:
                left = before
            elif _selector(now) != _selector(before):
                left = _renamed(before)
            else:
                continue
            self._entries[left.ref] = _Entry(left, closed.get(ref))
        for ref in self._entries.keys() & moment.resources.keys():
            del self._entries[ref]
        self._seen = moment
        self._closed = {ref: fault.text for ref, fault in moment.faults.items()}

    def clear(self) -> None:
        self._entries.clear()

    def resources(self) -> dict[ObjectRef, Resource]:
        return {ref: entry.resource for ref, entry in self._entries.items()}

    def closed(self) -> dict[ObjectRef, str]:
        return {r: entry.closed for r, entry in self._entries.items() if entry.closed is not None}


def _selector(guard: Resource) -> object:
    if isinstance(guard, EnvoyFilter):
        return guard.selector
    return getattr(getattr(guard, "spec", None), "selector", None)


def _renamed(guard: Resource) -> Resource:
    """Return the guard under a name that no object can have."""
    name = f"{guard.metadata.name}~{guard.metadata.generation}"
    return msgspec.structs.replace(
        guard, metadata=msgspec.structs.replace(guard.metadata, name=name)
    )
