"""Who is connected to the supervisor: lines in, lines out, and nobody can make it wait."""

from __future__ import annotations

import json
import os
import selectors
import socket
from collections.abc import Callable
from pathlib import Path

from apirule.local.processes.protocol import MAX_LINE_BYTES, MAX_SOCKET_PATH, Message, Refused

_MAX_PENDING_BYTES = 8 << 20
"""A peer that reads nothing is dropped; a subscriber connects again and gets a fresh list."""


def listen(path: Path) -> socket.socket:
    """Bind, in place of a socket that a killed supervisor left: the caller holds the lock."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise Refused(
            f"the path of the supervisor's socket is longer than {MAX_SOCKET_PATH} bytes: {path}",
            "Give a shorter --state.",
        )
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        server.bind(str(path))
    finally:
        os.umask(before)
    server.listen(64)
    server.setblocking(False)
    return server


class Peer:
    """One connection."""

    def __init__(
        self,
        connection: socket.socket,
        selector: selectors.BaseSelector,
        handle: Callable[[Message, Peer], None],
        gone: Callable[[Peer], None],
    ) -> None:
        connection.setblocking(False)
        self.subscribed = False
        self.on_close: list[Callable[[], None]] = []
        self._connection = connection
        self._selector = selector
        self._handle = handle
        self._gone = gone
        self._input = bytearray()
        self._output = bytearray()
        self._open = True
        selector.register(connection, selectors.EVENT_READ, self._ready)

    @property
    def has_output(self) -> bool:
        return bool(self._output)

    def send(self, message: Message) -> None:
        if not self._open:
            return
        self._output += json.dumps(message).encode() + b"\n"
        if len(self._output) > _MAX_PENDING_BYTES:
            self.close()
            return
        self._write()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._output.clear()
            self._selector.unregister(self._connection)
            self._connection.close()
            self._gone(self)
            for call in self.on_close:
                call()

    def _ready(self) -> None:
        if self._output:
            self._write()
        if self._open:
            self._read()

    def _read(self) -> None:
        try:
            received = self._connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        self._input += received
        while self._open and (end := self._input.find(b"\n")) >= 0:
            line = bytes(self._input[:end])
            del self._input[: end + 1]
            self._answer(line)
        if not received or len(self._input) > MAX_LINE_BYTES:
            self.close()

    def _answer(self, line: bytes) -> None:
        identity = None
        try:
            request: Message = json.loads(line)
            identity = request.get("id")
            self._handle(request, self)
        except Refused as refusal:
            error = {"message": refusal.message, "fix": refusal.fix}
            self.send({"id": identity, "error": error})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # The supervisor outlives whatever it is sent.
            self.send({"id": identity, "error": {"message": f"bad request: {error!r}", "fix": ""}})

    def _write(self) -> None:
        try:
            while self._output:
                del self._output[: self._connection.send(self._output)]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._output else 0)
        self._selector.modify(self._connection, wanted, self._ready)
