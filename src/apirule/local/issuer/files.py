"""Files that hold secrets: readable by their owner only, and never half written."""

from __future__ import annotations

import os
from pathlib import Path

from apirule.problem import SetupError


def write_private(path: Path, content: bytes) -> None:
    """Replace a file in one step. Its mode is 0600 from the first byte on."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        # The file may be left from a crash, with whatever mode it had.
        os.fchmod(file.fileno(), 0o600)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def read_private(path: Path) -> bytes:
    """Read a file that only its owner can read. SetupError: others can, or it is not there."""
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except OSError as error:
        raise SetupError(
            f"{path} cannot be read: {error.strerror}.", "Start `apirule up`; it makes the file."
        ) from error
    if mode & 0o077:
        raise SetupError(f"{path} can be read by other users.", f"Run `chmod 600 {path}`.")
    return content
