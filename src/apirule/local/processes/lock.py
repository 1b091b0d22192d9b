"""The lock that makes a supervisor the only one of its folder.

It ends with the processes that hold it, so there is never a stale one to be removed by hand.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path

from apirule.local.processes import protocol
from apirule.local.processes.protocol import Refused

_LOCK_WAIT_S = 5.0
"""How long the guard of a killed supervisor may take to end what that left behind."""


def take_lock(run: Path) -> int:
    """Become the only supervisor of this folder. Raises Refused when there is another."""
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(run / protocol.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    give_up = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            # Held by a supervisor, or by the guard of a dead one, which is about to let go.
            holder = os.pread(lock, 32, 0).decode().strip()
            if time.monotonic() > give_up or _accepts(run / protocol.SOCKET):
                raise Refused(
                    f"already running (supervisor {holder}, folder {run.parent})",
                    "Use it as it is, stop it with apirule down, or give another --state.",
                ) from None
            time.sleep(0.05)
    return lock


def sign_lock(lock: int) -> None:
    """Write who holds it, for those who are refused."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
        except OSError:
            return False
    return True
