"""Who really listens where, as the kernel tells it.

Only Linux names the programs (``/proc``); elsewhere nobody listens, as far as we know.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_LOCAL, _STATE, _INODE = 1, 3, 9
"""Columns of ``/proc/net/tcp``."""
_LISTEN = "0A"
_WORD_BYTES = 4


class Listener(NamedTuple):
    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int

    def __str__(self) -> str:
        is_v6 = isinstance(self.address, ipaddress.IPv6Address)
        return f"[{self.address}]:{self.port}" if is_v6 else f"{self.address}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine can connect."""
        return self.address.is_loopback


def listeners(pid: int) -> list[Listener]:
    """Return where a process that leads a session, and all in that session, listen on TCP."""
    inodes = {inode for member in _session(pid) for inode in _sockets(member)}
    if not inodes:
        return []
    return sorted({found for found, inode in _listening() if inode in inodes}, key=str)


def beyond_loopback(pid: int) -> list[Listener]:
    """Return those of them that other machines can reach, around every sidecar and policy."""
    return [listener for listener in listeners(pid) if not listener.is_local]


def owner_of(port: int) -> int | None:
    """Return a process that listens on a port, on any address; None: nobody this user may look at.

    Of several that share the socket it is the one that began first, most often the parent.
    """
    inodes = {inode for found, inode in _listening() if found.port == port}
    pids = sorted(int(folder.name) for folder in _PROC.glob("[0-9]*"))
    return next((pid for pid in pids if inodes & {*_sockets(pid)}), None)


def bind_error(port: int) -> OSError | None:
    """Return what keeps a program from listening on a loopback port now; None: nothing does.

    A PermissionError says that the port is for root; any other one that somebody has it.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error
    return None


def _session(leader: int) -> Iterator[int]:
    for folder in _PROC.glob("[0-9]*"):
        pid = int(folder.name)
        try:
            if os.getsid(pid) == leader:
                yield pid
        except OSError:
            continue  # ended meanwhile


def _sockets(pid: int) -> Iterator[str]:
    try:
        for link in (_PROC / str(pid) / "fd").iterdir():
            kind, _, inode = str(link.readlink()).partition(":")
            if kind == "socket":
                yield inode.strip("[]")
    except OSError:
        return  # ended meanwhile, or closed it


def _listening() -> Iterator[tuple[Listener, str]]:
    for table in ("tcp", "tcp6"):
        try:
            rows = (_PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if fields[_STATE] == _LISTEN:
                yield _read(fields[_LOCAL]), fields[_INODE]


def _read(local: str) -> Listener:
    """Read ``0100007F:1F90``: an address in words of the machine's own byte order, and a port."""
    address, _, port = local.partition(":")
    raw = bytes.fromhex(address)
    words = (raw[i : i + _WORD_BYTES] for i in range(0, len(raw), _WORD_BYTES))
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    found = ipaddress.ip_address(packed)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return Listener(mapped or found, int(port, 16))
