"""Ports for instances and programs that listen a while after their port was chosen.

Whoever asks the system for any port and lets it go finds it given to the next one who asks, or to
an outgoing connection. So these come from below what the system gives away (32768 on Linux) and
below what apirule gives to Pods (20000), none twice, and test processes side by side draw from
ranges of their own.
"""

import os
import random
import socket
from itertools import cycle

_FIRST, _LAST, _OF_ONE = 10_000, 20_000, 1_000
_WORKERS = (_LAST - _FIRST) // _OF_ONE


def free_ports(count: int) -> list[int]:
    """Return ports nobody listens on now."""
    found: list[int] = []
    while len(found) < count:
        port = next(_ports)
        if port not in found and _is_free(port):
            found.append(port)
    return found


def _own_range() -> range:
    number = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    first = _FIRST + int(number) % _WORKERS * _OF_ONE
    return range(first, first + _OF_ONE)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


_ports = cycle(random.sample(_own_range(), _OF_ONE))
