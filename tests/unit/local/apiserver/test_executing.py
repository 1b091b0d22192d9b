"""The talk of `kubectl exec`: which channel does what, and how each side ends it."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from apirule.local.apiserver.errors import StatusError
from apirule.local.apiserver.executing import (
    CannotRunError,
    CannotStartError,
    Command,
    choose_protocol,
    run,
)
from apirule.names import ObjectName

pytestmark = pytest.mark.anyio


class Program:
    """Says what it read when its input has ended, and ends with the number of its bytes."""

    def __init__(self, error: Exception | None = None, *, endless: bool = False) -> None:
        self.error = error
        self.read = b""
        self.sizes: list[tuple[int, int]] = []
        self.closed = False
        self._ended = anyio.Event()
        self._endless = endless

    @asynccontextmanager
    async def open(
        self, pod: ObjectName, container: str, command: Sequence[str], *, stdin: bool, tty: bool
    ) -> AsyncIterator["Program"]:
        if self.error:
            raise self.error
        try:
            yield self
        finally:
            self.closed = True

    async def stdout(self) -> AsyncIterator[bytes]:
        await self._ended.wait()
        yield self.read

    async def stderr(self) -> AsyncIterator[bytes]:
        await self._ended.wait()
        yield b"done"

    async def write(self, data: bytes) -> None:
        if self._endless:
            await anyio.sleep_forever()
        self.read += data

    async def end_input(self) -> None:
        self._ended.set()

    def resize(self, columns: int, rows: int) -> None:
        self.sizes.append((columns, rows))

    async def wait(self) -> int:
        await self._ended.wait()
        return len(self.read)


COMMAND = Command(ObjectName("n", "p"), "c", ("cat",), stdin=True, tty=False)


async def talk(program: Program, *said: bytes, command: Command = COMMAND) -> list[dict[str, Any]]:
    """Say something, then leave or wait for the end. Returns what is heard."""
    heard: list[dict[str, Any]] = []
    left = list(said)

    async def receive() -> dict[str, Any]:
        if not heard:
            return {"type": "websocket.connect"}
        await anyio.lowlevel.checkpoint()
        if left:
            return {"type": "websocket.receive", "bytes": left.pop(0)}
        if b"\xff\x00" in said:
            await anyio.sleep_forever()
        return {"type": "websocket.disconnect"}

    async def send(message: Any) -> None:
        heard.append(dict(message))

    with anyio.fail_after(10):
        await run(command, program, "v5.channel.k8s.io", receive=receive, send=send)
    return heard


def bodies(heard: list[dict[str, Any]]) -> list[bytes]:
    return [message["bytes"] for message in heard if message["type"] == "websocket.send"]


async def test_input_goes_in_and_output_status_and_end_come_out() -> None:
    program = Program()

    heard = await talk(program, b"\x00abc", b"\x00de", b"\xff\x00")

    first, *rest, last = bodies(heard)
    assert heard[0] == {"type": "websocket.accept", "subprotocol": "v5.channel.k8s.io"}
    assert first == b"\x01"
    assert sorted(rest) == [b"\x01abcde", b"\x02done"]
    assert last[:1] == b"\x03"
    status = json.loads(last[1:])
    assert status["reason"] == "NonZeroExitCode"
    assert status["details"] == {"causes": [{"reason": "ExitCode", "message": "5"}]}
    assert heard[-1] == {"type": "websocket.close", "code": 1000}


async def test_success_is_a_status_too() -> None:
    heard = await talk(Program(), b"\xff\x00")

    assert json.loads(bodies(heard)[-1][1:]) == {"metadata": {}, "status": "Success"}


async def test_a_terminal_is_resized_and_nonsense_is_no_reason_to_end() -> None:
    program = Program()

    await talk(
        program,
        b'\x04{"Width":80,"Height":24}',
        b"\x04no json",
        b'\x04{"Width":80}',
        b'\x04{"Width":-1,"Height":99999}',
        b"",
        b"\x07?",
        b"\xff\x01",
        b"\xff\x00",
    )

    assert program.sizes == [(80, 24)]


async def test_a_client_that_goes_ends_the_command_though_its_input_is_stuck() -> None:
    program = Program(endless=True)

    heard = await talk(program, *[b"\x00more"] * 50)

    assert program.closed
    assert heard[-1]["type"] == "websocket.send"


async def test_a_command_that_cannot_start_says_why_and_with_which_code() -> None:
    heard = await talk(Program(CannotStartError("cannot execute", 128)))

    said, status = bodies(heard)[1:]
    assert said == b"\x02cannot execute\n"
    assert json.loads(status[1:])["details"]["causes"][0]["message"] == "128"


async def test_what_does_not_run_refuses_the_handshake() -> None:
    with pytest.raises(StatusError, match="gone") as refused:
        await talk(Program(CannotRunError("it is gone")))

    assert refused.value.code == 400


def test_the_newest_protocol_is_chosen() -> None:
    assert choose_protocol(["v4.channel.k8s.io", "v5.channel.k8s.io"]) == "v5.channel.k8s.io"
    assert choose_protocol(["channel.k8s.io", "v4.channel.k8s.io"]) == "v4.channel.k8s.io"
    with pytest.raises(StatusError, match=r"v5\.channel\.k8s\.io"):
        choose_protocol(["SPDY/3.1+portforward.k8s.io"])
