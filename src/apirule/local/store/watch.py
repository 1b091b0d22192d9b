"""Records, events, and the two ways to follow them.

A record is one state of one object, kept as the JSON bytes that go to disk and to clients: encoded
once, shared by all. Whoever wants a dict decodes one and may change it, for it is his own.

The history is a list of events in revision order. A follower keeps a position in it, not a queue,
so a slow one costs no memory; it falls out of the window instead and is told so (``Expired``).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterator, Iterable, Iterator
from enum import StrEnum
from typing import Any

import anyio
import msgspec

from apirule.apis.meta import Object
from apirule.names import ObjectName


class EventType(StrEnum):
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


class Expired(Exception):  # noqa: N818 - Kubernetes' name for a revision that is no longer kept
    """The revision asked for has left the history, or never was."""

    def __init__(self, revision: int, floor: int) -> None:
        super().__init__(f"too old resource version: {revision} ({floor})")
        self.revision = revision
        self.floor = floor


class Record:
    """One state of one object. ``data`` is its JSON, with ``apiVersion`` and ``kind`` first."""

    __slots__ = ("data", "name", "revision", "views")

    def __init__(self, revision: int, name: ObjectName, data: bytes) -> None:
        self.revision = revision
        self.name = name
        self.data = data
        self.views: dict[Any, Any] = {}
        """What readers derived from the record (another version, its labels), kept with it."""

    def decode(self) -> Object:
        """Return the object as a new dict, which the caller owns."""
        obj: Object = msgspec.json.decode(self.data)
        return obj


class Event(msgspec.Struct, frozen=True):
    """What happened at one revision. ``record`` of a DELETED event is the last state."""

    type: EventType
    resource: str
    record: Record
    previous: Record | None

    @property
    def revision(self) -> int:
        return self.record.revision


class Change(msgspec.Struct, frozen=True):
    """An event with its object decoded, for readers inside the process. Do not alter the object."""

    revision: int
    type: EventType
    resource: str
    object: Object


class History:
    """The newest events, as a whole and by resource; wakes those who wait for more."""

    def __init__(self) -> None:
        self.floor = 0
        """Events after this revision are known."""
        self._all: list[Event] = []
        self._of: dict[str, list[Event]] = {}
        self._watchers: dict[str, set[Watch]] = {}
        self._followers: set[Watch] = set()

    def append(self, event: Event) -> None:
        self._all.append(event)
        self._of.setdefault(event.resource, []).append(event)
        for watch in self._watchers.get(event.resource, ()):
            watch.wake()
        for watch in self._followers:
            watch.wake()

    def since(self, revision: int, resource: str | None) -> list[Event]:
        """Return the events after ``revision``. Expired: they are no longer all known."""
        if revision < self.floor:
            raise Expired(revision, self.floor)
        events = self._all if resource is None else self._of.get(resource, [])
        return events[bisect_right(events, revision, key=_revision) :]

    def forget(self, floor: int) -> None:
        # Who has seen all there is of its resource misses nothing, however long ago that was.
        for watch in [w for group in self._watchers.values() for w in group]:
            known = self._of.get(watch.resource or "", [])
            if not known or known[-1].revision <= watch.position:
                watch.position = max(watch.position, floor)
        self.floor = max(self.floor, floor)
        self._all = self._all[bisect_right(self._all, floor, key=_revision) :]
        for resource, events in self._of.items():
            self._of[resource] = events[bisect_right(events, floor, key=_revision) :]

    def slowest_follower(self, default: int) -> int:
        """Return the lowest position of an in-process follower: nothing it needs is forgotten."""
        return min((watch.position for watch in self._followers), default=default)

    def __len__(self) -> int:
        return len(self._all)

    def enter(self, watch: Watch) -> None:
        self._group(watch).add(watch)

    def leave(self, watch: Watch) -> None:
        self._group(watch).discard(watch)

    def close(self) -> None:
        self.close_watches()
        for watch in tuple(self._followers):
            watch.close()

    def close_watches(self) -> None:
        for watch in [watch for group in self._watchers.values() for watch in group]:
            watch.close()

    def _group(self, watch: Watch) -> set[Watch]:
        if watch.resource is None:
            return self._followers
        return self._watchers.setdefault(watch.resource, set())


class Watch:
    """A position in the history that moves on as it is read. Use it as a context manager."""

    def __init__(self, history: History, resource: str | None, position: int) -> None:
        self.resource = resource
        self.position = position
        self.closed = False
        self._history = history
        self._news = anyio.Event()

    def __enter__(self) -> Watch:
        self._history.enter(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._history.leave(self)

    def pending(self) -> list[Event]:
        """Return what has happened since the last call. Expired: the reader was too slow."""
        # From here on news wakes us again; what came before is in the answer.
        self._news = anyio.Event()
        events = self._history.since(self.position, self.resource)
        if events:
            self.position = events[-1].revision
        return events

    async def wait(self) -> None:
        """Return when there may be something pending, or when the store closes."""
        await self._news.wait()

    def wake(self) -> None:
        self._news.set()

    def close(self) -> None:
        self.closed = True
        self._news.set()


async def follow(
    history: History, present: Iterable[tuple[str, Record]], revision: int, only: frozenset[str]
) -> AsyncIterator[list[Change]]:
    """Yield what is there, then batches of what changes. An empty ``only`` means all resources."""
    with Watch(history, None, revision) as watch:
        yield [
            Change(record.revision, EventType.ADDED, resource, record.decode())
            for resource, record in sorted(present, key=lambda pair: pair[1].revision)
        ]
        while not watch.closed:
            await watch.wait()
            changes = list(_changes(watch.pending(), only))
            if changes:
                yield changes


def _changes(events: list[Event], only: frozenset[str]) -> Iterator[Change]:
    for event in events:
        if not only or event.resource in only:
            yield Change(event.revision, event.type, event.resource, event.record.decode())


def _revision(event: Event) -> int:
    return event.record.revision
