"""``kubectl exec``: a command beside the program of a container, over a WebSocket.

Each message begins with the number of its channel; versions 4 and 5 of the protocol differ in that
a client of version 5 can say that the input has ended. The exit code is part of a Status, which
goes over a channel of its own before the connection is closed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from enum import IntEnum
from typing import Any, Protocol
from urllib.parse import parse_qsl

import anyio
import msgspec
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from starlette.types import Receive, Send

from apirule.apis.meta import Object
from apirule.local.apiserver import errors
from apirule.local.apiserver.http import Request, encode
from apirule.local.apiserver.podlogs import container_of
from apirule.names import ObjectName

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
"""Best first."""

MESSAGE_LIMIT_BYTES = 1 << 20
_PENDING_MESSAGES = 64
"""How much input waits for a command that does not read, before the client has to wait too."""

STREAMS_WITHIN_S = 0.1
"""How long a client that has been let in has before it is sent anything."""

_NORMAL_CLOSURE = 1000
_MOST_CELLS = 0xFFFF


class Channel(IntEnum):
    STDIN = 0
    STDOUT = 1
    STDERR = 2
    STATUS = 3
    RESIZE = 4
    CLOSE = 255


class Running(Protocol):
    """A command that has been started. Both outputs end soon after it."""

    def stdout(self) -> AsyncIterator[bytes]: ...

    def stderr(self) -> AsyncIterator[bytes]: ...

    async def write(self, data: bytes) -> None: ...

    async def end_input(self) -> None: ...

    def resize(self, columns: int, rows: int) -> None: ...

    async def wait(self) -> int: ...


class Executor(Protocol):
    """What runs commands. The context's end is the command's."""

    def open(
        self, pod: ObjectName, container: str, command: Sequence[str], *, stdin: bool, tty: bool
    ) -> AbstractAsyncContextManager[Running]: ...


class NoExecutor:
    """There are no processes, hence nothing to run a command beside."""

    @asynccontextmanager
    async def open(
        self, pod: ObjectName, container: str, command: Sequence[str], *, stdin: bool, tty: bool
    ) -> AsyncIterator[Running]:
        raise CannotRunError(f"nothing runs the containers of {pod}")
        yield  # makes it a generator


class CannotRunError(Exception):
    """There is nothing to run the command beside."""


class CannotStartError(Exception):
    """The command cannot be executed; ``code`` is what it ends with."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Command(msgspec.Struct, frozen=True):
    pod: ObjectName
    container: str
    words: tuple[str, ...]
    stdin: bool
    tty: bool


def read_command(request: Request, pod: Object) -> Command:
    """StatusError 400: no such container, it does not run, or there is no command."""
    metadata = pod["metadata"]
    container = container_of(request, pod)
    query = parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)
    words = tuple(value for key, value in query if key == "command")
    if not words:
        raise errors.bad_request("you must specify at least 1 command for the container")
    if not _runs(pod, container):
        raise errors.bad_request(
            f'container "{container}" in pod "{metadata["name"]}" is not running; its Events say'
            f" why: kubectl describe pod {metadata['name']} -n {metadata['namespace']}"
        )
    return Command(
        pod=ObjectName(metadata["namespace"], metadata["name"]),
        container=container,
        words=words,
        stdin=request.flag("stdin"),
        tty=request.flag("tty"),
    )


def choose_protocol(offered: Sequence[str]) -> str:
    """Return the best one that the client speaks. StatusError 400: none."""
    for protocol in PROTOCOLS:
        if protocol in offered:
            return protocol
    raise errors.bad_request(
        f"exec is offered with the WebSocket protocols {' and '.join(PROTOCOLS)}; the client"
        f" speaks {', '.join(offered) or 'none'}"
    )


async def run(
    command: Command, executor: Executor, protocol: str, *, receive: Receive, send: Send
) -> None:
    """Run a command to its end or that of the client. StatusError, before the client is let in."""
    opened = executor.open(
        command.pod, command.container, command.words, stdin=command.stdin, tty=command.tty
    )
    talk = _Talk(receive, send)
    try:
        async with opened as running:
            await talk.accept(protocol)
            code = await talk.until_end(running)
    except CannotRunError as error:
        raise errors.bad_request(f"the command cannot be run: {error}") from error
    except CannotStartError as error:
        await talk.accept(protocol)
        channel = Channel.STDOUT if command.tty else Channel.STDERR
        await talk.say(channel, f"{error}\n".encode())
        code = error.code
    if code is not None:
        await talk.say(Channel.STATUS, encode(outcome(code)))
        await talk.close()


def outcome(code: int) -> Object:
    """Return the Status that tells a client the exit code."""
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


class _Talk:
    """One client."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send

    async def accept(self, protocol: str) -> None:
        await self._receive()
        await self._tell({"type": "websocket.accept", "subprotocol": protocol})
        # kubectl reads before it has made its streams, drops what comes for one that it has not
        # made, and tells nobody when it has. Far away from a server it has long made them.
        await anyio.sleep(STREAMS_WITHIN_S)
        # Clients that wait for a first message before they send anything: here it is.
        await self.say(Channel.STDOUT, b"")

    async def say(self, channel: Channel, data: bytes) -> None:
        await self._tell({"type": "websocket.send", "bytes": bytes((channel,)) + data})

    async def close(self) -> None:
        await self._tell({"type": "websocket.close", "code": _NORMAL_CLOSURE})

    async def _tell(self, message: dict[str, Any]) -> None:
        # Whoever listens learns that the client has gone; nobody has to learn it twice.
        with suppress(OSError):
            await self._send(message)

    async def until_end(self, running: Running) -> int | None:
        """Pass everything on. Returns the exit code; None: the client has gone."""
        code: int | None = None
        # Input waits in line: a command that reads none must not hide that the client has gone.
        put: ObjectSendStream[bytes | None]
        take: ObjectReceiveStream[bytes | None]
        put, take = anyio.create_memory_object_stream[bytes | None](_PENDING_MESSAGES)
        async with anyio.create_task_group() as tasks, put, take:

            async def listen() -> None:
                await self._listen(running, put)
                tasks.cancel_scope.cancel()

            tasks.start_soon(listen)
            tasks.start_soon(_feed, running, take)
            async with anyio.create_task_group() as outputs:
                outputs.start_soon(self._copy, running.stdout(), Channel.STDOUT)
                outputs.start_soon(self._copy, running.stderr(), Channel.STDERR)
                code = await running.wait()
            tasks.cancel_scope.cancel()
        return code

    async def _copy(self, output: AsyncIterator[bytes], channel: Channel) -> None:
        async for data in output:
            await self.say(channel, data)

    async def _listen(self, running: Running, put: ObjectSendStream[bytes | None]) -> None:
        """Return when the client has gone."""
        while (message := await self._receive())["type"] == "websocket.receive":
            data: bytes = message.get("bytes") or (message.get("text") or "").encode()
            match data[:1]:
                case b"\x00" if len(data) > 1:
                    await put.send(data[1:])
                case b"\x04":
                    _resize(running, data[1:])
                case b"\xff" if data[1:] == b"\x00":
                    await put.send(None)
                case _:
                    pass  # channels that go the other way, and those that we do not know


async def _feed(running: Running, take: ObjectReceiveStream[bytes | None]) -> None:
    async for data in take:
        if data is None:
            await running.end_input()
        else:
            await running.write(data)


def _resize(running: Running, data: bytes) -> None:
    try:
        size: Any = msgspec.json.decode(data)
        columns, rows = int(size["Width"]), int(size["Height"])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        return  # as a real server: a terminal of the wrong size is no reason to end
    if 0 <= columns <= _MOST_CELLS and 0 <= rows <= _MOST_CELLS:
        running.resize(columns, rows)


def _runs(pod: Object, container: str) -> bool:
    status = pod.get("status") or {}
    statuses = (
        *(status.get("containerStatuses") or ()),
        *(status.get("initContainerStatuses") or ()),
    )
    return any(one["name"] == container and "running" in one["state"] for one in statuses)
