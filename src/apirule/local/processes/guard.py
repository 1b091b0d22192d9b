"""What makes sure that nobody outlives a program or the supervisor, not even after ``kill -9``.

A child that takes its own session, group and environment leaves no trace of where it came from but
one: its parent. So every program is made the adopter of all orphans below it, as the first process
of a container is. When it ends the kernel hands them to the supervisor, which ends every child it
did not start; when that ends, to its own parent, the guard, which does nothing but wait for it.
Both kill only children they have not reaped, so a number never means another process. The guard
also holds the lock of the state folder: a new supervisor starts when all are gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PROC = Path("/proc")
_SWEEP_S = 0.005
_PATIENCE_S = 1.0


def die_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Ask the kernel for a signal when the parent ends. Only Linux can do that."""
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends; ``exec`` does not change it."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def stand_guard(lock: int) -> int:
    """Fork. Returns in the child, which is to be the supervisor, the pid of its guard."""
    adopt_orphans()
    guard = os.getpid()
    # Before the fork: once the supervisor can be reached its guard heeds nobody who asks it to end.
    heeded = {number: signal.signal(number, signal.SIG_IGN) for number in _ASKING}
    pid = os.fork()
    if pid == 0:
        for number, handler in heeded.items():
            signal.signal(number, handler)
        # What then runs without a guard is stopped in order.
        die_with_parent(guard, signal.SIGTERM)
        return guard
    code = 1
    try:
        code = _guard(pid, lock)
    finally:
        os._exit(code)


def end_strays(ours: Collection[int]) -> None:
    """Kill the children that are none of ``ours``, and what they leave, until none is left.

    One that not even this ends is not waited for for ever: its end is a signal to look again.
    """
    give_up = time.monotonic() + _PATIENCE_S
    while (strays := [pid for pid in children() if pid not in ours]) and (
        time.monotonic() < give_up
    ):
        for pid in strays:
            kill(pid, signal.SIGKILL)
        if not any(os.waitpid(pid, os.WNOHANG)[0] for pid in strays):
            time.sleep(_SWEEP_S)


def children() -> list[int]:
    """Return the children of this process that were not reaped, those that have ended too."""
    try:
        return [int(pid) for pid in (_PROC / "thread-self/children").read_text().split()]
    except FileNotFoundError:  # a kernel that was built without it
        pids = (int(folder.name) for folder in _PROC.glob("[0-9]*"))
        return [pid for pid in pids if _parent(pid) == os.getpid()]


def kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def kill_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _guard(supervisor: int, lock: int) -> int:
    """Wait for the supervisor, and end what it left. Returns its exit code."""
    with contextlib.suppress(PermissionError):  # it leads a session already
        os.setsid()
    # Every other descriptor would keep a log, a terminal, or whoever reads a pipe waiting.
    os.closerange(0, lock)
    os.closerange(lock + 1, lock + 4096)
    _, status = os.waitpid(supervisor, 0)
    while left := children():
        for pid in left:
            kill(pid, signal.SIGKILL)
        os.waitpid(-1, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _parent(pid: int) -> int:
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return 0  # ended meanwhile
    return int(stat.rpartition(")")[2].split()[1])


def _prctl(option: int, value: int) -> None:
    try:
        import ctypes  # noqa: PLC0415 - a megabyte, and only where it is of use

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        pass  # not Linux
