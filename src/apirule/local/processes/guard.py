"""What makes sure that nobody outlives the supervisor, not even after ``kill -9``.

A process dies with its parent only if it asked the kernel for it, and its own children never did.
So the supervisor forks a guard, which waits on a pipe that only the supervisor holds open. When
the pipe ends the guard ends everything that carries the marker of this run in its environment.
The guard also inherits the lock of the state folder: a new supervisor starts when all are gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from pathlib import Path

from apirule.local.processes.protocol import MARKER

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PROC = Path("/proc")
_SWEEP_S = 0.02
_PF_KTHREAD = 0x00200000
_EXEC_LOOKS = 5
"""How many looks a process without any environment is given to show one: in the middle of
``execve`` it has none yet. Who still has none then was started without."""


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends. Only Linux can do that."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def marked(marker: str) -> list[int]:
    """Return the processes whose marker starts with ``marker``; this one never.

    One that is just being replaced by ``execve`` shows no marker and is not among them.
    """
    return _look(marker)[0]


def kill_marked(marker: str, *, rounds: int = 50) -> None:
    """Kill all that carry the marker, until a look round finds nobody who still runs."""
    looks: Counter[int] = Counter()
    for _ in range(rounds):
        found, blank = _look(marker)
        running = [pid for pid in found if _runs(pid)]
        looks.update(pid for pid in blank if _runs(pid))
        for pid in running:
            kill(pid, signal.SIGKILL)
        if not running and all(looks[pid] > _EXEC_LOOKS for pid in blank if looks[pid]):
            return
        time.sleep(_SWEEP_S)


def _look(marker: str) -> tuple[list[int], list[int]]:
    """Return the processes that carry the marker, and those that show no environment at all."""
    wanted = f"{MARKER}={marker}".encode()
    found, blank = [], []
    for folder in _PROC.glob("[0-9]*"):
        pid = int(folder.name)
        if pid == os.getpid():
            continue
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue  # ended meanwhile, or of another user
        if not environment:
            blank.append(pid)
        elif any(entry.startswith(wanted) for entry in environment.split(b"\0")):
            found.append(pid)
    return found, blank


def kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def kill_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def start_guard(marker: str, lock: int) -> tuple[int, int]:
    """Fork the guard. Returns its pid, and the end of the pipe that has to stay open.

    Lines ``+GROUP`` and ``-GROUP`` on the pipe say which process groups exist: some programs
    overwrite their environment, and with it the marker.
    """
    watched, held = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _guard(marker, watched, lock)
        finally:
            os._exit(0)
    os.close(watched)
    os.set_blocking(held, False)
    return pid, held


def _guard(marker: str, watched: int, lock: int) -> None:
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    # Every other descriptor would keep a socket, a log or a terminal open.
    start = 0
    for descriptor in sorted({watched, lock}):
        os.closerange(start, descriptor)
        start = descriptor + 1
    os.closerange(start, start + 4096)
    groups: set[int] = set()
    rest = b""
    while received := os.read(watched, 4096):
        *lines, rest = (rest + received).split(b"\n")
        for line in lines:
            (groups.add if line[:1] == b"+" else groups.discard)(int(line[1:]))
    for group in groups:
        kill_group(group, signal.SIGKILL)
    kill_marked(marker)


def _runs(pid: int) -> bool:
    """Whether it is a program: not ended, and no thread of the kernel."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return False
    state, *numbers = stat.rpartition(")")[2].split()
    flags = int(numbers[5])
    return state not in ("Z", "X") and not flags & _PF_KTHREAD


def _prctl(option: int, value: int) -> None:
    try:
        import ctypes  # noqa: PLC0415 - a megabyte, and only where it is of use

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        pass  # not Linux: the guard alone has to do
