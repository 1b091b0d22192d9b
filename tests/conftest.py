"""What all tests share: options, one running instance, no way out of the machine."""

import ipaddress
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from instance import Instance, running

# How long an example takes says more about the machine than about the code.
settings.register_profile("apirule", deadline=None, derandomize=True)
settings.register_profile("random", deadline=None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden outputs")
    parser.addoption(
        "--random", action="store_true", help="draw new examples, not those of every run"
    )
    parser.addoption(
        "--rule-lists", type=int, default=200, help="how many random rule lists real Envoys serve"
    )


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("random" if config.getoption("--random") else "apirule")
    # What `nohup` or a shell in the background has the tests ignore, all they start would ignore
    # as well. A handler, even one that does nothing, does not go along with a program.
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a test named after a set: each process of the run would name it otherwise."""
    named = [
        item.nodeid
        for item in items
        for value in getattr(getattr(item, "callspec", None), "params", {}).values()
        if isinstance(value, set | frozenset) and len(value) > 1 and str(value) in item.nodeid
    ]
    if named:
        raise pytest.UsageError(f"the order of a set is in a test's name, give it ids: {named}")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def instance() -> Iterator[Instance]:
    """One instance, started as a user starts it, for all tests that want one."""
    with running("--demo") as started:
        yield started


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = ipaddress.ip_address(address[0])
            if not host.is_loopback:
                raise AssertionError(f"a test tried to reach {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
