"""The store: one SQLite table that is the log, and everything that is in it in memory.

A write is one row and one transaction, done in the event loop: 30 to 100 microseconds in WAL mode
with ``synchronous=NORMAL``. A power cut may take the last writes with it and never corrupts; a
crash of the process takes none. The revision counts writes over all kinds and never goes back.

Opening reads the log from its start, which gives the objects and the recent history again, so a
client can go on watching where it was. Compaction drops the rows that neither needs.
"""

from __future__ import annotations

import os
import sqlite3
from bisect import bisect_left, bisect_right, insort
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from apirule.apis.meta import Object
from apirule.local.store.watch import (
    Change,
    Event,
    EventType,
    Expired,
    History,
    Record,
    Watch,
    follow,
)
from apirule.names import ObjectName
from apirule.problem import SetupError

SCHEMA_VERSION = 1

_TABLES = """
CREATE TABLE log (
  revision INTEGER PRIMARY KEY,
  type TEXT NOT NULL,
  resource TEXT NOT NULL,
  namespace TEXT NOT NULL,
  name TEXT NOT NULL,
  object BLOB NOT NULL
);
CREATE INDEX log_by_name ON log (resource, namespace, name, revision);
CREATE TABLE floor (revision INTEGER NOT NULL);
INSERT INTO floor VALUES (0);
"""

_COMPACT = """
DELETE FROM log WHERE revision <= :floor AND (
  type = 'DELETED' OR EXISTS (
    SELECT 1 FROM log AS later WHERE later.resource = log.resource
    AND later.namespace = log.namespace AND later.name = log.name
    AND later.revision > log.revision AND later.revision <= :floor))
"""

# Above all names: DNS names are ASCII.
_LAST = "\U0010ffff"

_encode = msgspec.json.Encoder().encode

Batches = AsyncIterator[list[Change]]


class AlreadyExistsError(Exception):
    """There is an object of that name."""


class MissingError(Exception):
    """There is no object of that name."""


class StaleError(Exception):
    """The object has changed since the revision the writer expected."""


class UnwritableError(Exception):
    """The change could not be written to disk, so nothing has changed."""

    def __init__(self, path: Path, error: sqlite3.Error) -> None:
        full = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL
        what = (
            f"the disk of the state folder {path.parent} is full: free some space"
            if full
            else f"{path} cannot be written ({error}): see to its disk, its quota and its rights"
        )
        super().__init__(f"{what}, then try again")


class _Shelf:
    """The objects of one resource, also in the order of their names."""

    __slots__ = ("names", "records")

    def __init__(self) -> None:
        self.records: dict[ObjectName, Record] = {}
        self.names: list[ObjectName] = []

    def put(self, record: Record) -> Record | None:
        previous = self.records.get(record.name)
        if previous is None:
            insort(self.names, record.name)
        self.records[record.name] = record
        return previous

    def take(self, name: ObjectName) -> Record | None:
        previous = self.records.pop(name, None)
        if previous is not None:
            del self.names[bisect_left(self.names, name)]
        return previous

    def within(self, namespace: str) -> list[Record]:
        names = self.names
        if namespace:
            first = bisect_left(names, ObjectName(namespace, ""))
            names = names[first : bisect_right(names, ObjectName(namespace, _LAST))]
        return [self.records[name] for name in names]


class Store:
    """All objects and their recent history. Made with ``Store.open``."""

    def __init__(self, database: sqlite3.Connection, path: Path, *, history_size: int) -> None:
        self.revision = 0
        self._database = database
        self._path = path
        self._history = History()
        self._history_size = history_size
        self._compact_above = 2 * history_size
        self._shelves: dict[str, _Shelf] = {}
        self._load()

    @classmethod
    def open(cls, path: Path, *, history_size: int = 5000) -> Store:
        """Open or create the store. SetupError: it is in use, newer than we are, or damaged.

        ``history_size`` is how many changes a watch may lag behind or be away.
        """
        # Created by us first, so that nobody else can read it even for a moment; SQLite gives the
        # files beside it the same mode.
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            path.chmod(0o600)
        except OSError as error:
            raise SetupError(
                f"The state database {path} cannot be opened: {error.strerror}.",
                "Choose a state folder that exists and is yours.",
            ) from error
        database = sqlite3.connect(path, isolation_level=None, timeout=0.5)
        try:
            _prepare(database, path)
            return cls(database, path, history_size=history_size)
        except sqlite3.OperationalError as error:
            database.close()
            raise SetupError(
                f"The state database {path} cannot be opened: {error}.",
                "Stop the other apirule that uses this state folder, or choose another folder.",
            ) from error
        except sqlite3.DatabaseError as error:
            database.close()
            raise SetupError(
                f"The state database {path} is damaged: {error}.",
                f"Move {path} away and start again; objects must be applied anew.",
            ) from error
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """End all watches and release the file."""
        self._history.close()
        self._database.close()

    @property
    def floor(self) -> int:
        """The oldest revision that can still be watched from or read at."""
        return self._history.floor

    @property
    def resources(self) -> tuple[str, ...]:
        return tuple(self._shelves)

    def get(self, resource: str, name: ObjectName) -> Record | None:
        shelf = self._shelves.get(resource)
        return shelf.records.get(name) if shelf else None

    def list(self, resource: str, namespace: str = "", *, at: int | None = None) -> list[Record]:
        """Return the objects in the order of their names, as of revision ``at`` or now.

        Expired: the history does not reach back that far.
        """
        shelf = self._shelves.get(resource)
        present = shelf.within(namespace) if shelf else []
        if at is None or at == self.revision:
            return present
        undo = self._history.since(at, resource)
        if not undo:
            return present
        records = {record.name: record for record in present}
        for event in reversed(undo):
            if namespace and event.record.name.namespace != namespace:
                continue
            if event.previous is None:
                records.pop(event.record.name, None)
            else:
                records[event.record.name] = event.previous
        return [records[name] for name in sorted(records)]

    def create(self, resource: str, obj: Object) -> Record:
        """Store a new object; its metadata gets the resourceVersion.

        AlreadyExistsError. UnwritableError, as with every write: the disk did not take it.
        """
        name = _name_of(obj)
        if self.get(resource, name) is not None:
            raise AlreadyExistsError(str(name))
        return self._write(EventType.ADDED, resource, name, obj)

    def update(self, resource: str, obj: Object, *, expected: int | None = None) -> Record:
        """Replace an object. StaleError: it is not at the revision ``expected``. MissingError."""
        name = _name_of(obj)
        self._present(resource, name, expected)
        return self._write(EventType.MODIFIED, resource, name, obj)

    def delete(
        self,
        resource: str,
        name: ObjectName,
        *,
        expected: int | None = None,
        last: Object | None = None,
    ) -> Record:
        """Remove an object and return its last state: ``last``, or else what was stored."""
        record = self._present(resource, name, expected)
        final = record.decode() if last is None else last
        return self._write(EventType.DELETED, resource, name, final)

    def watch(self, resource: str, since: int) -> Watch:
        """Return a watch over what happens after ``since``. Expired: that is too long ago."""
        if since < self.floor or since > self.revision:
            raise Expired(since, self.floor)
        return Watch(self._history, resource, since)

    def end_watches(self) -> None:
        """Close the watches that are open now; those who follow the whole store go on."""
        self._history.close_watches()

    def follow(self, resources: frozenset[str] = frozenset()) -> Batches:
        """Yield all objects as ADDED, then everything that changes, in the order of revisions.

        A batch holds all that is pending. Without ``resources``: all of them, later ones too.
        """
        present = [
            (resource, record)
            for resource, shelf in self._shelves.items()
            if not resources or resource in resources
            for record in shelf.records.values()
        ]
        return follow(self._history, present, self.revision, resources)

    def compact(self, keep: int) -> None:
        """Forget all history but the last ``keep`` changes, as far as no follower needs it.

        UnwritableError: the disk is full; all history is kept.
        """
        floor = min(self.revision - keep, self._history.slowest_follower(self.revision))
        if floor <= self.floor:
            return
        try:
            self._database.execute("BEGIN")
            self._database.execute(_COMPACT, {"floor": floor})
            self._database.execute("UPDATE floor SET revision = ?", (floor,))
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            raise UnwritableError(self._path, error) from error
        self._history.forget(floor)

    def _present(self, resource: str, name: ObjectName, expected: int | None) -> Record:
        record = self.get(resource, name)
        if record is None:
            raise MissingError(str(name))
        if expected is not None and record.revision != expected:
            raise StaleError(str(name))
        return record

    def _write(self, what: EventType, resource: str, name: ObjectName, obj: Object) -> Record:
        revision = self.revision + 1
        obj["metadata"]["resourceVersion"] = str(revision)
        record = Record(revision, name, _encode(_in_order(obj)))
        try:
            self._database.execute(
                "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)",
                (revision, what.value, resource, name.namespace, name.name, record.data),
            )
        except sqlite3.Error as error:
            raise UnwritableError(self._path, error) from error
        # The row is on its way to the disk: from here on it has happened.
        self.revision = revision
        self._history.append(self._enter(what, resource, record))
        if len(self._history) > self._compact_above:
            self._tidy_up()
        return record

    def _tidy_up(self) -> None:
        """Compact, or try again some changes later: what has been written stays written."""
        self._compact_above = 2 * self._history_size
        try:
            self.compact(self._history_size)
        except UnwritableError:
            self._compact_above = len(self._history) + self._history_size

    def _enter(self, what: EventType, resource: str, record: Record) -> Event:
        shelf = self._shelves.setdefault(resource, _Shelf())
        deleted = what is EventType.DELETED
        previous = shelf.take(record.name) if deleted else shelf.put(record)
        return Event(what, resource, record, previous)

    def _load(self) -> None:
        self._history.floor = self._database.execute("SELECT revision FROM floor").fetchone()[0]
        for revision, what, resource, namespace, name, data in self._rows():
            record = Record(revision, ObjectName(namespace, name), data)
            event = self._enter(EventType(what), resource, record)
            if revision > self._history.floor:
                self._history.append(event)
            self.revision = revision

    def _rows(self) -> Iterator[tuple[int, str, str, str, str, bytes]]:
        return self._database.execute(
            "SELECT revision, type, resource, namespace, name, object FROM log ORDER BY revision"
        )


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    # One process owns the store: a second one would not see our cache change.
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute("BEGIN EXCLUSIVE")
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in _TABLES.split(";"):
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        database.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise
    if version not in (0, SCHEMA_VERSION):
        raise SetupError(
            f"The state database {path} has the format {version}, we know {SCHEMA_VERSION}.",
            "Use the version of apirule that wrote it, or choose another state folder.",
        )


def _name_of(obj: Object) -> ObjectName:
    metadata = obj["metadata"]
    return ObjectName(metadata.get("namespace", ""), metadata["name"])


def _in_order(obj: Object) -> Object:
    if next(iter(obj), "") == "apiVersion":
        return obj
    return {"apiVersion": obj.get("apiVersion"), "kind": obj.get("kind"), **obj}
