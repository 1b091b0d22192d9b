"""Commands beside the programs of Pods, for ``kubectl exec`` and probes: their pipes or terminal.

The supervisor runs them, in the environment of the program they are beside; what they say goes
through named pipes or a terminal that are made here. A session ends with whoever opened it, with
its program, and with the supervisor, whichever is first, and takes along all that it has started.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import shutil
import signal
import struct
import termios
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import anyio

from apirule.local.apiserver.executing import CannotRunError, CannotStartError
from apirule.local.processes.client import SupervisorClient
from apirule.local.processes.containers import MOUNTS, process_name
from apirule.local.processes.mounts import relocate
from apirule.local.processes.protocol import Message, Refused
from apirule.names import ObjectName

GRACE_S = 1.0
DRAIN_S = 0.5
"""For output on its way after the end. Without anybody who could write, it is over at once."""

_CHUNK_BYTES = 32 * 1024
_KEPT_BYTES = 256
"""Of the output of a command that nobody reads while it runs: enough for a last sentence."""
_END_OF_INPUT = b"\x04"
"""What a terminal in its usual mode takes for the end of the input."""


@dataclass
class _Ends:
    """Our ends of what a session reads and writes; -1: there is none, or it is closed."""

    streams: dict[str, str]
    stdin: int = -1
    stdout: int = -1
    stderr: int = -1
    placeholder: int = -1
    """Keeps the other end open until the command has opened it."""
    folder: Path | None = None
    """Where the pipes have their names."""

    @property
    def is_terminal(self) -> bool:
        return "tty" in self.streams

    def close(self) -> None:
        for number in {self.stdin, self.stdout, self.stderr, self.placeholder} - {-1}:
            os.close(number)
        self.stdin = self.stdout = self.stderr = self.placeholder = -1


class Session:
    """A command that runs. Its input and its outputs may be used by different tasks."""

    def __init__(self, ends: _Ends, ended: Callable[[], Awaitable[Message]]) -> None:
        self._ends = ends
        self._ended = ended
        self._read_until = math.inf
        self._reads: set[anyio.CancelScope] = set()

    async def wait(self) -> int:
        """Wait for its end. Returns the exit code, 128 and the signal for a killed one."""
        code: int = (await self._ended())["code"]
        self._read_until = anyio.current_time() + DRAIN_S
        for scope in self._reads:
            scope.deadline = self._read_until
        return code

    def stdout(self) -> AsyncIterator[bytes]:
        return self._read(self._ends.stdout)

    def stderr(self) -> AsyncIterator[bytes]:
        """Nothing of a terminal, which mixes both."""
        return self._read(self._ends.stderr)

    async def write(self, data: bytes) -> None:
        """Write to its input. What a command does not read is dropped once it closed its end."""
        view = memoryview(data)
        while view and self._ends.stdin >= 0:
            try:
                view = view[os.write(self._ends.stdin, view) :]
            except BlockingIOError:
                await anyio.wait_writable(self._ends.stdin)
            except OSError:
                return

    async def end_input(self) -> None:
        if self._ends.is_terminal:
            await self.write(_END_OF_INPUT)
        elif self._ends.stdin >= 0:
            os.close(self._ends.stdin)
            self._ends.stdin = -1

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the terminal; its programs get SIGWINCH."""
        if self._ends.is_terminal:
            size = struct.pack("HHHH", rows, columns, 0, 0)
            fcntl.ioctl(self._ends.stdout, termios.TIOCSWINSZ, size)

    async def _read(self, number: int) -> AsyncIterator[bytes]:
        while number >= 0:
            try:
                data = os.read(number, _CHUNK_BYTES)
            except BlockingIOError:
                if not await self._readable(number):
                    return
                continue
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                return  # how a terminal ends
            if not data:
                return
            yield data

    async def _readable(self, number: int) -> bool:
        """Wait for more. False: it has ended, and somebody who escaped holds the other end."""
        with anyio.CancelScope(deadline=self._read_until) as scope:
            self._reads.add(scope)
            await anyio.wait_readable(number)
        self._reads.discard(scope)
        return not scope.cancelled_caught


class Sessions:
    """``run`` is the folder for sockets and pipes."""

    def __init__(self, supervisor: SupervisorClient, run: Path) -> None:
        self._supervisor = supervisor
        self._run = run

    @asynccontextmanager
    async def open(
        self, pod: ObjectName, container: str, command: Sequence[str], *, stdin: bool, tty: bool
    ) -> AsyncIterator[Session]:
        """Run a command beside a container. CannotRunError, or CannotStartError.

        Where it names a mount of the container it means the files that are mounted.
        """
        host = process_name(pod, container)
        places: Mapping[str, str] = {}
        for process in await self._supervisor.list():
            if process["name"] == host:
                places = process.get("meta", {}).get(MOUNTS, {})
        words = [relocate(word, places) for word in command]
        async with self._open(host, words, stdin=stdin, tty=tty) as session:
            yield session

    @asynccontextmanager
    async def _open(
        self, host: str, command: Sequence[str], *, stdin: bool, tty: bool
    ) -> AsyncIterator[Session]:
        identity = token_hex(8)
        with _terminal(stdin) if tty else _pipes(self._run / f"x{identity}", stdin) as ends:
            definition = {
                "name": f"{host}/{identity}",
                "kind": "session",
                "within": host,
                "argv": list(command),
                # As a container runtime says it of a terminal.
                "env": {"TERM": "xterm"} if tty else {},
                "streams": ends.streams,
                # A shell heeds it, unlike SIGTERM: its terminal has gone.
                "signal": int(signal.SIGHUP),
                "grace_s": GRACE_S,
            }
            try:
                async with self._supervisor.run(definition) as (process, ended):
                    _check_started(process)
                    _hand_over(ends)
                    yield Session(ends, ended)
            except Refused as refusal:
                raise CannotRunError(refusal.message) from refusal

    async def outcome(self, process: Message, command: Sequence[str]) -> tuple[int, str]:
        """Run a command beside a process to its end. Returns its exit code and its last words.

        CannotRunError, or CannotStartError.
        """
        words = [relocate(word, process["meta"].get(MOUNTS, {})) for word in command]
        said = bytearray()

        async def keep_last(output: AsyncIterator[bytes]) -> None:
            async for data in output:
                said.extend(data)
                del said[:-_KEPT_BYTES]

        async with (
            self._open(process["name"], words, stdin=False, tty=False) as session,
            anyio.create_task_group() as outputs,
        ):
            outputs.start_soon(keep_last, session.stdout())
            outputs.start_soon(keep_last, session.stderr())
            code = await session.wait()
        return code, said.decode(errors="replace").strip()


def _check_started(process: Message) -> None:
    last = process["last"] or {}
    if error := last.get("error"):
        raise CannotStartError(error, last["code"])


@contextmanager
def _terminal(stdin: bool) -> Iterator[_Ends]:
    ours, theirs = os.openpty()
    ends = _Ends({"tty": os.ttyname(theirs)}, placeholder=theirs)
    # A number of its own, so that each can be closed once.
    ends.stdout, ends.stdin = ours, os.dup(ours) if stdin else -1
    os.set_blocking(ours, False)
    try:
        yield ends
    finally:
        ends.close()


@contextmanager
def _pipes(folder: Path, stdin: bool) -> Iterator[_Ends]:
    folder.mkdir(mode=0o700, parents=True)
    ends = _Ends({}, folder=folder)
    try:
        for name in ("stdin", "stdout", "stderr") if stdin else ("stdout", "stderr"):
            path = folder / name
            os.mkfifo(path, 0o600)
            ends.streams[name] = str(path)
        for name in ("stdout", "stderr"):
            setattr(ends, name, os.open(ends.streams[name], os.O_RDONLY | os.O_NONBLOCK))
        if stdin:
            # Both ways: nobody reads yet, and one that only writes could not be opened.
            ends.placeholder = os.open(ends.streams["stdin"], os.O_RDWR | os.O_NONBLOCK)
        yield ends
    finally:
        ends.close()
        shutil.rmtree(folder, ignore_errors=True)


def _hand_over(ends: _Ends) -> None:
    """Let go of the command's ends, now that it holds them: so their closing is its own."""
    if path := ends.streams.get("stdin"):
        with suppress(OSError):  # it has ended already
            ends.stdin = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    if ends.placeholder >= 0:
        os.close(ends.placeholder)
        ends.placeholder = -1
    if ends.folder is not None:
        # Both sides have opened them; names that nobody needs cannot be left behind.
        shutil.rmtree(ends.folder, ignore_errors=True)
