"""kill -9 of each process: it comes back by itself, nothing is let through, nothing is lost."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest
from instance import Instance, running
from ports import free_ports
from tests.e2e.gateway import ask, kubectl, token

from apirule.local.processes.launch import SupervisorConnection
from apirule.settings import StateFolder

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def good(instance: Instance) -> str:
    """A token from before anything was killed."""
    return token(instance)


def processes(instance: Instance) -> dict[str, int]:
    with SupervisorConnection(StateFolder(instance.state).run) as supervisor:
        return {p["name"]: p["pid"] for p in supervisor.ask("list")["processes"]}


def find(instance: Instance, pattern: str) -> tuple[str, int]:
    found = processes(instance).items()
    return next((name, pid) for name, pid in found if pid and fnmatch(name, pattern))


def until(condition: Callable[[], bool]) -> float:
    """Return how long it took until the condition held; it is asked over and over."""
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE_S:
        if condition():
            return time.monotonic() - began
    raise AssertionError("it did not come back")


@pytest.mark.parametrize(
    "pattern",
    [
        "control-plane",
        "istio-system/istio-ingressgateway-*",
        "default/httpbin-*/istio-proxy",
        "default/httpbin-*/httpbin",
    ],
)
def test_what_is_killed_comes_back_and_lets_nothing_through(
    instance: Instance, good: str, pattern: str
) -> None:
    name, pid = find(instance, pattern)
    kubectl(instance, "create", "configmap", f"before-{pid}", "--from-literal=kept=yes")

    os.kill(pid, signal.SIGKILL)
    unchecked: list[int] = []

    def back() -> bool:
        without = ask(instance, "httpbin").status
        if without == 200:
            unchecked.append(without)
        alive = processes(instance).get(name, pid) not in (pid, 0)
        return alive and without == 401 and ask(instance, "httpbin", token=good).status == 200

    until(back)

    assert unchecked == []
    until(lambda: kept(instance, f"before-{pid}"))


def kept(instance: Instance, name: str) -> bool:
    done = kubectl(instance, "get", "configmap", name, "-o", "json", check=False)
    return done.returncode == 0 and json.loads(done.stdout)["data"] == {"kept": "yes"}


def test_nothing_survives_down() -> None:
    with running("--demo") as other:
        pids = list(processes(other).values())

    gone = [pid for pid in pids if not Path(f"/proc/{pid}").exists()]
    assert gone == pids


def test_a_second_up_is_refused_in_one_sentence(instance: Instance) -> None:
    done = instance.apirule("up", check=False)

    assert done.returncode == 3
    assert "already running" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_named_and_nothing_is_half_started(
    instance: Instance, tmp_path: Path
) -> None:
    port = str(instance.https_port)
    http, api = free_ports(2)

    done = subprocess.run(
        [
            *("python", "-m", "apirule", "--state", str(tmp_path / "s"), "up"),
            *("--https-port", port, "--http-port", str(http), "--api-port", str(api)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 3
    by = f"the apirule of the state folder {instance.state}"
    assert f"error: Port {port} is taken by {by}." in done.stderr
    assert not (tmp_path / "s" / "settings.json").exists()
