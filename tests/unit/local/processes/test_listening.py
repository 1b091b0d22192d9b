import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from apirule.local.processes.listening import beyond_loopback, listeners, owner_of

SERVE = """
import os, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
listener = socket.socket(family)
if family == socket.AF_INET6:
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
listener.bind((sys.argv[1], 0))
listener.listen()
if os.fork():
    listener.close()  # only the child has it
else:
    print(listener.getsockname()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def listening(host: str) -> Iterator[tuple[int, int]]:
    """A program whose child listens. Gives its pid and the port."""
    argv = [sys.executable, "-c", SERVE, host]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        argv, start_new_session=True, text=True, stdin=pipe, stdout=pipe
    ) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())


@pytest.mark.parametrize(
    ("host", "shown", "is_local"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.9", "127.0.0.9", True),
        ("::1", "[::1]", True),
        ("0.0.0.0", "0.0.0.0", False),  # noqa: S104 - what it is about
        ("::", "[::]", False),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
    ],
)
def test_where_a_program_listens_and_who_can_reach_it(
    host: str, shown: str, is_local: bool
) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    with listening(host) as (pid, port):
        found = listeners(pid)

        assert [str(listener) for listener in found] == [f"{shown}:{port}"]
        assert beyond_loopback(pid) == ([] if is_local else found)


def test_a_process_that_has_ended_listens_nowhere() -> None:
    with listening("127.0.0.1") as (pid, _):
        pass

    give_up = time.monotonic() + 10
    while listeners(pid):  # its child ends a moment after it
        assert time.monotonic() < give_up


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def test_who_listens_on_a_port_is_found() -> None:
    with listening("127.0.0.1") as (parent, port):
        owner = owner_of(port)

        assert owner is not None
        assert os.getsid(owner) == parent
