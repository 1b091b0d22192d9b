"""The supervisor for the command line: start it, ask it something, without an event loop.

Standard library only, so that ``apirule status`` and ``apirule down`` answer at once.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from apirule.local.processes.protocol import SOCKET, Message, Refused
from apirule.problem import SetupError


class SupervisorConnection:
    """One question at a time. Use as a context manager.

    SetupError when no supervisor listens; Refused when it says no.
    """

    def __init__(self, run: Path, *, timeout_s: float | None = 60.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(str(run / SOCKET))
        except OSError as error:
            self._socket.close()
            raise SetupError("apirule is not running.", "Start it: apirule up") from error
        self._lines = self._socket.makefile("rb")

    def ask(self, op: str, **fields: Any) -> Message:
        self._socket.sendall(json.dumps({"id": 1, "op": op, **fields}).encode() + b"\n")
        while True:
            answer = self._next()
            if answer is None:
                raise SetupError(
                    "the supervisor ended before it answered.", "Start it again: apirule up"
                )
            if "event" in answer:
                continue
            if error := answer.get("error"):
                raise Refused(error["message"], error["fix"])
            return answer

    def events(self) -> Iterator[Message]:
        """Yield events until the supervisor ends. Ask ``subscribe`` first."""
        while (message := self._next()) is not None:
            if "event" in message:
                yield message

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def _next(self) -> Message | None:
        try:
            line = self._lines.readline()
        except ConnectionError:
            return None
        return json.loads(line) if line.endswith(b"\n") else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()


def launch(state: Path, run: Path | None = None, *, foreground: bool = False) -> int:
    """Start a supervisor and return its pid when it accepts connections.

    It outlives the caller, unless ``foreground``: then it gets the terminal's signals too.
    SetupError says why it did not start, for example because there is one already.
    """
    process = subprocess.Popen(  # noqa: S603 - our own program
        supervisor_argv(state, run),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=not foreground,
        cwd="/",
    )
    assert process.stdout is not None  # noqa: S101 - for the type checker
    assert process.stderr is not None  # noqa: S101 - for the type checker
    with process.stdout, process.stderr:
        word, _, pid = process.stdout.readline().partition(b" ")
        if word == b"ready":
            # Nobody waits for its guard: it is to stay. This silences the destructor's warning.
            process.returncode = 0
            return int(pid)
        message, _, fix = process.stderr.read().decode(errors="replace").strip().partition("\n")
    process.wait()
    raise SetupError(message or "the supervisor did not start", fix)


def supervisor_argv(state: Path, run: Path | None = None) -> Sequence[str]:
    argv = [sys.executable, "-m", "apirule.local.processes.supervisor", "--state", os.fspath(state)]
    return argv if run is None else [*argv, "--run", os.fspath(run)]
