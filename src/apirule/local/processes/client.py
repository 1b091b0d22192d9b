"""The supervisor for the control plane: asynchronous, many questions at a time, events.

The connection is made again when the supervisor dropped it; a supervisor that is gone takes the
control plane with it, so there is no other case.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import ByteReceiveStream, SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from apirule.local.processes.protocol import MAX_LINE_BYTES, SOCKET, Message, Refused
from apirule.local.processes.vigil import LOOKS


class SupervisorClient:
    """Each request has its own connection, so a slow stop holds up nobody."""

    def __init__(self, run: Path) -> None:
        self._path = run / SOCKET

    async def start(self, definition: Message) -> Message:
        """Start a process, or adopt it when it runs by the same definition. Returns its state."""
        process: Message = (await self.ask("start", process=definition))["process"]
        return process

    async def stop(self, name: str, *, grace_s: float | None = None) -> Message | None:
        """Stop and forget a process. Returns how it ended, when nothing of it is left.

        None: nobody knows it, or it never ran.
        """
        last: Message | None = (await self.ask("stop", name=name, grace_s=grace_s)).get("last")
        return last

    async def fail(self, name: str) -> None:
        """End a process that does not do its work. What comes then is up to its restart policy."""
        await self.ask("fail", name=name)

    async def say_alive(self, name: str, *, within_s: float) -> None:
        """Say for ever that the process ``name``, which is this one, is well.

        If it does not for ``within_s``, because it hangs, it is killed and restarted.
        """
        async with await anyio.connect_unix(self._path) as stream:
            lines = _lines(stream)
            request = {"id": 1, "op": "alive", "name": name, "within_s": within_s}
            while True:
                await stream.send(json.dumps(request).encode() + b"\n")
                _checked(json.loads(await _line(lines)))
                await anyio.sleep(within_s / LOOKS)

    @asynccontextmanager
    async def run(
        self, definition: Message
    ) -> AsyncIterator[tuple[Message, Callable[[], Awaitable[Message]]]]:
        """Run a session. Gives its state, and what waits for how it ended.

        It ends with the context. Refused: what it is ``within`` does not run.
        """
        async with await anyio.connect_unix(self._path) as stream:
            request = {"id": 1, "op": "run", "process": definition}
            await stream.send(json.dumps(request).encode() + b"\n")
            lines = _lines(stream)

            async def ended() -> Message:
                last: Message = json.loads(await _line(lines))["last"]
                return last

            yield _checked(json.loads(await _line(lines)))["process"], ended

    async def list(self) -> list[Message]:
        processes: list[Message] = (await self.ask("list"))["processes"]
        return processes

    async def publish(self, progress: Message) -> None:
        """Tell whoever watches ``apirule up`` how far the control plane is."""
        await self.ask("publish", progress=progress)

    async def shutdown(self) -> None:
        await self.ask("shutdown")

    async def ask(self, op: str, **fields: Any) -> Message:
        """Refused when the supervisor says no; OSError or EndOfStream when there is none."""
        async with await anyio.connect_unix(self._path) as stream:
            await stream.send(json.dumps({"id": 1, "op": op, **fields}).encode() + b"\n")
            return _checked(json.loads(await _line(_lines(stream))))

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[tuple[Message, AsyncIterator[Message]]]:
        """Give the state of everything, and the events from then on.

        The events end when the supervisor does, or when it dropped a reader that was too slow.
        """
        async with await anyio.connect_unix(self._path) as stream:
            await stream.send(json.dumps({"id": 1, "op": "subscribe"}).encode() + b"\n")
            lines = _lines(stream)
            yield _checked(json.loads(await _line(lines))), _events(lines)


class _Received(ByteReceiveStream):
    """What a connection brings.

    The stream's own ``receive`` logs an error for each answer that comes with a cancellation.
    """

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._socket = stream.extra(SocketAttribute.raw_socket)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        while True:
            await anyio.wait_readable(self._socket)
            try:
                received = self._socket.recv(max_bytes)
            except BlockingIOError:
                continue
            except OSError as error:
                raise anyio.BrokenResourceError from error
            if not received:
                raise anyio.EndOfStream
            return received

    async def aclose(self) -> None:
        await self._stream.aclose()


def _lines(stream: SocketStream) -> BufferedByteReceiveStream:
    return BufferedByteReceiveStream(_Received(stream))


async def _events(lines: BufferedByteReceiveStream) -> AsyncIterator[Message]:
    while True:
        try:
            line = await _line(lines)
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
            return
        yield json.loads(line)


async def _line(lines: BufferedByteReceiveStream) -> bytes:
    return await lines.receive_until(b"\n", MAX_LINE_BYTES * 4)


def _checked(answer: Message) -> Message:
    if error := answer.get("error"):
        raise Refused(error["message"], error["fix"])
    return answer
