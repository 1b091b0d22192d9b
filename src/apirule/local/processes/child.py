"""How a program becomes a process: fork, session, log, exec. For the supervisor only.

The supervisor has one thread, so a plain fork is safe, and what happens between fork and exec can
be ordinary Python: ``subprocess`` could neither set the parent-death signal without a preexec
function nor report which step failed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import termios
from pathlib import Path

from apirule.local.processes.guard import adopt_orphans, die_with_parent
from apirule.local.processes.protocol import LOG_LIMIT_BYTES, Message

START_FAILED = 128
"""Exit code of a program that could not be executed, as container runtimes report it."""

_MANY_FILES = ("sidecar", "gateway", "control-plane")
"""Kinds that hold a descriptor per connection: they get as many as the system allows."""

_CHUNK_BYTES = 1 << 16


class StartFailed(Exception):  # noqa: N818 - also the name of what is reported
    """The program could not be executed."""


class Log:
    """A log file of limited size. ``.1`` is its older half, ``.previous`` the run before."""

    def __init__(self, path: str, *, limit_bytes: int = LOG_LIMIT_BYTES) -> None:
        self._path = Path(path)
        self._limit_bytes = limit_bytes
        self._file = -1
        self._size = 0

    def begin(self, *, fresh: bool) -> None:
        """Open the file for another run; ``fresh`` puts the last run aside."""
        if fresh and self._path.exists():
            self.close()
            self._path.replace(f"{self._path}.previous")
            Path(f"{self._path}.1").unlink(missing_ok=True)
        if self._file < 0:
            self._open()

    def write(self, text: bytes) -> None:
        """Append. A full disk loses the text, not the process."""
        with contextlib.suppress(OSError):
            for start in range(0, len(text), self._limit_bytes):
                self._append(text[start : start + self._limit_bytes])

    def _append(self, text: bytes) -> None:
        if self._size + len(text) > self._limit_bytes:
            self.close()
            self._path.replace(f"{self._path}.1")
        if self._file < 0:
            self._open()
        self._size += os.write(self._file, text)

    def fileno(self) -> int:
        return self._file

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._file = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._file).st_size


def spawn(definition: Message) -> tuple[int, int]:
    """Start the program. Returns its pid, also its process group, and its output's pipe.

    Raises StartFailed when it cannot be executed.
    """
    environment = {**os.environ, **definition.get("env", {})}  # noqa: TID251 - no settings in here
    output, its_output = os.pipe()
    failure, its_failure = os.pipe()
    supervisor = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        for descriptor in (output, its_output, failure, its_failure):
            os.close(descriptor)
        raise StartFailed(f"cannot start another process: {error.strerror}") from error
    if pid == 0:
        _become(definition, environment, its_output, its_failure, supervisor)
    os.close(its_output)
    os.close(its_failure)
    # Ends without a word when exec closes the pipe.
    said = os.read(failure, _CHUNK_BYTES).decode(errors="replace")
    os.close(failure)
    if said:
        os.waitpid(pid, 0)
        os.close(output)
        raise StartFailed(said)
    os.set_blocking(output, False)
    return pid, output


def read_output(pipe: int) -> bytes | None:
    """Return what there is; None for the moment nothing; ``b""`` when all writers are gone."""
    try:
        return os.read(pipe, _CHUNK_BYTES)
    except BlockingIOError:
        return None


def _connect(streams: dict[str, str], output: int) -> None:
    """Give this fork its standard streams: the log, or what the definition names."""
    if terminal := streams.get("tty"):
        opened = os.open(terminal, os.O_RDWR)
        # So that the keys for interrupt and stop work; Linux has done it by now, others have not.
        fcntl.ioctl(opened, termios.TIOCSCTTY, 0)
        for number in (0, 1, 2):
            os.dup2(opened, number)
        return
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        path = streams.get(name, os.devnull if name == "stdin" else "")
        # Waiting for the other end of a pipe would hold up the supervisor.
        mode = (os.O_WRONLY if number else os.O_RDONLY) | os.O_NONBLOCK
        opened = os.open(path, mode) if path else output
        os.set_blocking(opened, True)
        os.dup2(opened, number)


def _become(
    definition: Message, environment: dict[str, str], output: int, failure: int, supervisor: int
) -> None:
    """Turn this fork into the program. Never returns."""
    argv: list[str] = definition["argv"]
    step = ""
    try:
        os.setsid()
        die_with_parent(supervisor)
        adopt_orphans()
        signal.set_wakeup_fd(-1)
        # Python ignores these two, and what is ignored stays so across exec.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        step = "cannot open its streams"
        _connect(definition.get("streams", {}), output)
        if definition["kind"] in _MANY_FILES:
            _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        os.umask(0o077)
        if folder := definition.get("cwd"):
            step = f'cannot enter the working directory "{folder}"'
            os.chdir(folder)
        step = f'cannot execute "{argv[0]}"'
        os.execvpe(argv[0], argv, environment)  # noqa: S606 - what the supervisor is for
    except OSError as error:
        os.write(failure, f"{step}: {error.strerror}".encode())
    except BaseException as error:  # the fork must not go on as a supervisor
        os.write(failure, repr(error).encode())
    finally:
        os._exit(START_FAILED)
