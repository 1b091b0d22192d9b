"""Watches: what happens to a collection, line by line, until the client or the server goes.

A selector turns a change into ADDED when an object enters the selection and into DELETED when it
leaves it. Each event is encoded once and the bytes are shared by all watches that show it alike.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import anyio
import msgspec
from starlette.types import Receive, Send

from apirule.apis.meta import Object
from apirule.local.apiserver import errors
from apirule.local.apiserver.http import JSON, Request, disconnected, encode, start_stream
from apirule.local.apiserver.kinds import Kind
from apirule.local.apiserver.list_options import check_watch
from apirule.local.apiserver.reading import Form, Reader, negotiate, revision_in, selection_of
from apirule.local.apiserver.selectors import Requirement, Selection
from apirule.local.store import Event, EventType, Expired, Record

BOOKMARK_EVERY_S = 60.0
_TIMEOUT_S = (1800, 3600)
"""Clients that give no timeout are sent away after a random time, so that they do not all return
at once."""

INITIAL_END = "k8s.io/initial-events-end"


class WatchRequest(msgspec.Struct, frozen=True):
    """What to watch, from where on, and in which form."""

    kind: Kind
    namespace: str
    selection: Selection
    form: Form
    since: int
    initial: bool
    """Begin with everything that is there."""
    mark_initial_end: bool
    bookmarks: bool
    timeout_s: float


def read_watch(request: Request, kind: Kind, namespace: str, name: str) -> WatchRequest:
    check_watch(request)
    selection = selection_of(request, kind)
    if name:
        only = Requirement("metadata.name", frozenset((name,)))
        selection = msgspec.structs.replace(selection, fields=(*selection.fields, only))
    since = revision_in(request)
    wants_initial = request.flag("sendInitialEvents")
    bookmarks = request.flag("allowWatchBookmarks")
    return WatchRequest(
        kind=kind,
        namespace=namespace,
        selection=selection,
        form=negotiate(request),
        since=since,
        initial=wants_initial or (since == 0 and "sendInitialEvents" not in request.query),
        mark_initial_end=wants_initial and bookmarks,
        bookmarks=bookmarks,
        timeout_s=float(request.number("timeoutSeconds") or random.randint(*_TIMEOUT_S)),  # noqa: S311 - spreads load, guards nothing
    )


async def stream(
    asked: WatchRequest,
    reader: Reader,
    receive: Receive,
    send: Send,
    *,
    bookmark_every_s: float,
) -> None:
    """Send events until the time is up, the client has gone, or the store closes."""
    view = _View(asked, reader)
    await start_stream(send, JSON)
    with anyio.move_on_after(asked.timeout_s):
        async with anyio.create_task_group() as tasks:

            async def until_disconnected() -> None:
                await disconnected(receive)
                tasks.cancel_scope.cancel()

            tasks.start_soon(until_disconnected)
            await _events(asked, view, send, bookmark_every_s)
            tasks.cancel_scope.cancel()
    # A client that has gone does not hear this; uvicorn takes it as the end of the exchange.
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _events(asked: WatchRequest, view: _View, send: Send, bookmark_every_s: float) -> None:
    store = view.reader.objects.store
    since = asked.since
    try:
        if asked.initial:
            since = store.revision
            lines = b"".join(view.present())
            if asked.mark_initial_end:
                lines += view.bookmark(since, initial_end=True)
            await _send(send, lines)
        elif since == 0:
            since = store.revision
        every = bookmark_every_s if asked.bookmarks else math.inf
        due = anyio.current_time() + every
        with store.watch(asked.kind.resource, since) as watch:
            while not watch.closed:
                lines = b"".join(view.lines(watch.pending()))
                # Due whatever happens meanwhile: what wakes the watch need not be in its selection.
                if anyio.current_time() >= due:
                    lines += view.bookmark(store.revision)
                    due = anyio.current_time() + every
                await _send(send, lines)
                with anyio.CancelScope(deadline=due):
                    await watch.wait()
    except Expired as error:
        status = errors.expired(str(error)).as_object()
        await _send(send, encode({"type": "ERROR", "object": status}) + b"\n")


async def _send(send: Send, lines: bytes) -> None:
    if lines:
        await send({"type": "http.response.body", "body": lines, "more_body": True})


class _View:
    """The events of one watch as the client sees them."""

    def __init__(self, asked: WatchRequest, reader: Reader) -> None:
        self.asked = asked
        self.reader = reader
        self._columns_sent = False

    def present(self) -> Iterator[bytes]:
        asked = self.asked
        for record in self.reader.objects.store.list(asked.kind.resource, asked.namespace):
            if asked.selection.matches(record):
                yield self._line(EventType.ADDED, record)

    def lines(self, events: list[Event]) -> Iterator[bytes]:
        for event in events:
            what = self._seen_as(event)
            if what is EventType.DELETED and event.type is not what:
                yield self._line(what, _as_it_left(event))
            elif what is not None:
                yield self._line(what, event.record)

    def bookmark(self, revision: int, *, initial_end: bool = False) -> bytes:
        kind = self.asked.kind
        metadata: Object = {"resourceVersion": str(revision), "creationTimestamp": None}
        if initial_end:
            metadata["annotations"] = {INITIAL_END: "true"}
        obj: Object = {"kind": kind.info.kind, "apiVersion": kind.api_version, "metadata": metadata}
        if self.asked.form.shape == "Table":
            row = {"cells": [], "object": {**obj, **_PARTIAL}}
            obj = {**_TABLE, "metadata": {"resourceVersion": str(revision)}, "rows": [row]}
        elif self.asked.form.shape:
            obj = {**obj, **_PARTIAL}
        return encode({"type": "BOOKMARK", "object": obj}) + b"\n"

    def _seen_as(self, event: Event) -> EventType | None:
        asked = self.asked
        if asked.namespace and event.record.name.namespace != asked.namespace:
            return None
        if asked.selection.everything:
            return event.type
        was = event.previous is not None and asked.selection.matches(event.previous)
        if event.type is EventType.DELETED:
            return EventType.DELETED if was else None
        matches = asked.selection.matches(event.record)
        if matches:
            return EventType.MODIFIED if was else EventType.ADDED
        return EventType.DELETED if was else None

    def _line(self, what: EventType, record: Record) -> bytes:
        asked = self.asked
        if asked.form.shape:
            # Columns only once: kubectl keeps them.
            obj = self.reader.shaped(
                asked.kind, record, asked.form, with_definitions=not self._columns_sent
            )
            self._columns_sent = True
            return encode({"type": what, "object": obj}) + b"\n"
        key = (what, asked.kind.api_version)
        line: bytes | None = record.views.get(key)
        if line is None:
            body = self.reader.objects.view(asked.kind, record)
            line = b'{"type":"' + what.value.encode() + b'","object":' + body + b"}\n"
            record.views[key] = line
        return line


def _as_it_left(event: Event) -> Record:
    """Return an object as it was in a selection, at the revision at which it left."""
    before = event.previous or event.record
    obj = before.decode()
    obj["metadata"]["resourceVersion"] = str(event.revision)
    return Record(event.revision, before.name, encode(obj))


_PARTIAL = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
_TABLE = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "columnDefinitions": None}
