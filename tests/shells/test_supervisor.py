"""The supervisor with real processes: what must come back, what must stop, what must be gone."""

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import anyio
import pytest
from tests.families import alive, below, parent

from apirule.local.processes.client import SupervisorClient
from apirule.local.processes.launch import SupervisorConnection, launch, supervisor_argv
from apirule.local.processes.protocol import Refused
from apirule.problem import SetupError

T = TypeVar("T")

DEADLINE_S = 15.0
FOREVER = ["sleep", "1000"]
ESCAPES = ("", "setsid", "env -i", "env -i setsid")
"""How a program may start a child, so that it has less and less in common with it."""


class Instance:
    def __init__(self, state: Path) -> None:
        self.state = state
        self.run = state / "run"
        self.pid = launch(state)

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        with SupervisorConnection(self.run, timeout_s=DEADLINE_S) as connection:
            return connection.ask(op, **fields)

    def start(self, name: str, argv: list[str], **fields: Any) -> dict[str, Any]:
        definition = {
            "name": name,
            "argv": argv,
            "kind": "workload",
            "log": str(self.state / f"{name}.log"),
            **fields,
        }
        return self.ask("start", process=definition)

    def process(self, name: str) -> dict[str, Any]:
        (found,) = [p for p in self.ask("list")["processes"] if p["name"] == name]
        return dict(found)

    def text(self, name: str) -> str:
        try:
            return (self.state / f"{name}.log").read_text()
        except FileNotFoundError:  # not yet, or it is being rotated
            return ""


@pytest.fixture
def instance() -> Iterator[Instance]:
    with tempfile.TemporaryDirectory(prefix="ap", dir="/tmp") as folder:
        made = Instance(Path(folder))
        yield made
        kill(made.pid, signal.SIGTERM)
        eventually(lambda: not alive(made.pid), "the supervisor ends")
        assert (made.state / "logs" / "supervisor.log").read_text() == ""


def test_it_needs_less_than_15_megabytes(instance: Instance) -> None:
    for number in range(5):
        instance.start(f"p{number}", FOREVER)

    status = Path(f"/proc/{instance.pid}/status").read_text()
    resident = int(status.split("VmRSS:")[1].split()[0])

    assert resident < 15_000


def test_it_imports_none_of_the_heavy_libraries() -> None:
    code = "import sys, apirule.local.processes.supervisor; print(*sys.modules)"

    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    heavy = {"aiohttp", "anyio", "asyncio", "grpc", "google", "msgspec", "yaml", "ssl", "hashlib"}
    assert not heavy & {name.partition(".")[0] for name in loaded.stdout.split()}


def test_a_killed_child_is_back_by_itself(instance: Instance) -> None:
    first = instance.start("app", FOREVER)["process"]

    os.kill(first["pid"], signal.SIGKILL)
    second = eventually(lambda: other_run(instance, "app", first["pid"]), "it is restarted")

    assert second["restarts"] == 1
    assert second["last"]["signal"] == signal.SIGKILL
    assert second["last"]["code"] == 128 + signal.SIGKILL


def test_a_crash_loop_slows_down(instance: Instance) -> None:
    instance.start("app", ["sh", "-c", "echo run; exit 3"])

    waiting = eventually(
        lambda: (
            (p := instance.process("app"))["restarts"] >= 3 and p["state"] == "backing-off" and p
        ),
        "it backs off",
    )

    assert waiting["last"]["code"] == 3
    assert waiting["retry_at"] > waiting["last"]["finished_at"] + 0.3

    def runs() -> bool:
        return bool(instance.text("app").count("run") == instance.process("app")["restarts"] + 1)

    eventually(runs, "each run wrote once")


def test_who_does_not_do_its_work_is_restarted_later_and_later(instance: Instance) -> None:
    instance.start("app", FOREVER)

    pauses = []
    for _ in range(4):
        eventually(lambda: instance.process("app")["state"] == "running", "it runs")
        process = instance.ask("fail", name="app")["process"]
        pauses.append(round(process["retry_at"] - process["last"]["finished_at"], 1))

    assert pauses == [0.0, 0.1, 0.5, 1.0]
    assert instance.ask("fail", name="app")["process"]["state"] == "backing-off"
    assert instance.ask("fail", name="nobody")["process"] is None
    # Who asks for a restart does not wait for it.
    assert instance.ask("restart", name="app")["process"]["state"] == "running"


def test_what_fails_is_restarted_as_its_policy_says(instance: Instance) -> None:
    gentle = ["sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done"]
    for name, argv, policy in (
        ("never", FOREVER, "never"),
        ("gentle", gentle, "on-failure"),
        ("rough", FOREVER, "on-failure"),
    ):
        instance.start(name, argv, restart=policy)
    eventually(lambda: "ready" in instance.text("gentle"), "it waits for the signal")

    states = [
        instance.ask("fail", name=name)["process"]["state"] for name in ("never", "gentle", "rough")
    ]

    assert states == ["exited", "exited", "backing-off"]


def test_who_is_stopped_while_it_fails_is_stopped(instance: Instance) -> None:
    stubborn = ["sh", "-c", "trap '' TERM; echo ready; sleep 1000"]
    instance.start("app", stubborn, grace_s=5.0)
    eventually(lambda: "ready" in instance.text("app"), "it ignores the signal")
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(str(instance.run / "supervisor.sock"))
        other.sendall(b'{"id": 1, "op": "fail", "name": "app"}\n')
        eventually(lambda: instance.process("app")["state"] == "stopping", "it is being stopped")

        assert instance.ask("stop", name="app", grace_s=0.1)["stopped"]

    assert instance.ask("list")["processes"] == []


def test_restart_policies_look_at_how_a_process_ended(instance: Instance) -> None:
    instance.start("job", ["true"], restart="on-failure")
    instance.start("failing", ["false"], restart="on-failure")
    instance.start("once", ["false"], restart="never")

    eventually(lambda: instance.process("failing")["restarts"], "a failure is retried")
    eventually(lambda: instance.process("job")["state"] == "exited", "success is the end")
    once = eventually(
        lambda: (p := instance.process("once"))["state"] == "exited" and p, "never is never"
    )

    assert once["last"]["code"] == 1
    assert instance.process("job")["restarts"] == 0


def test_a_program_that_does_not_exist_is_reported_by_name(instance: Instance) -> None:
    process = instance.start("app", ["no-such-program"], restart="never")["process"]

    assert process["last"]["code"] == 128
    assert process["last"]["error"] == 'cannot execute "no-such-program": No such file or directory'


def test_a_folder_that_does_not_exist_is_reported(instance: Instance) -> None:
    process = instance.start("app", FOREVER, cwd="/no/folder", restart="never")["process"]

    assert "cannot enter the working directory" in process["last"]["error"]


@pytest.mark.parametrize("prefix", ESCAPES)
def test_stop_leaves_no_grandchild(instance: Instance, prefix: str) -> None:
    _, family = start_family(instance, prefix)

    instance.ask("stop", name="app")

    assert not [pid for pid in family if alive(pid)]
    assert instance.ask("list")["processes"] == []


@pytest.mark.parametrize("prefix", ESCAPES)
def test_a_program_that_ends_leaves_no_grandchild(instance: Instance, prefix: str) -> None:
    pid, family = start_family(instance, prefix, restart="never")

    os.kill(pid, signal.SIGKILL)

    eventually(lambda: instance.process("app")["state"] == "exited", "it has ended")
    assert not [pid for pid in family if alive(pid)]


def test_what_a_program_left_alone_stays_as_long_as_the_program(instance: Instance) -> None:
    # As a daemon does: its parent ends, and it belongs to the first process of the container.
    script = "(env -i setsid sleep 1000 &) ; echo ready; read forever < fifo"
    os.mkfifo(instance.state / "fifo")
    started = instance.start("app", ["sh", "-c", script], cwd=str(instance.state))
    pid = started["process"]["pid"]
    eventually(lambda: "ready" in instance.text("app"), "it has begun all it begins")
    other = instance.start("other", FOREVER, restart="never")["process"]["pid"]
    (daemon,) = eventually(lambda: len(f := below(pid)) == 1 and f, "the daemon runs")
    eventually(lambda: parent(daemon) == pid, "its parent ends")

    os.kill(other, signal.SIGKILL)
    eventually(lambda: instance.process("other")["state"] == "exited", "another program ends")
    kept = alive(daemon)
    instance.ask("stop", name="app")

    assert kept
    assert not alive(daemon)


def test_the_whole_group_hears_the_request_to_stop(instance: Instance) -> None:
    child = "trap 'echo heard; exit' TERM; echo ready; while :; do sleep 0.05; done"
    script = "trap 'wait; exit' TERM; sh -c \"$CHILD\" & wait; wait"
    instance.start("app", ["sh", "-c", script], env={"CHILD": child})
    eventually(lambda: written(instance, "app"), "the child waits for the signal")

    instance.ask("stop", name="app")

    assert "heard" in instance.text("app")


def test_who_ignores_the_request_to_stop_is_killed(instance: Instance) -> None:
    instance.start("app", ["sh", "-c", "trap '' TERM; echo ready; sleep 1000"], grace_s=0.2)
    eventually(lambda: "ready" in instance.text("app"), "it ignores the signal")

    answer = instance.ask("stop", name="app")

    assert answer["stopped"]
    assert answer["last"]["signal"] == signal.SIGKILL


def test_a_gentle_stop_waits_for_the_program(instance: Instance) -> None:
    script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    instance.start("app", ["sh", "-c", script])
    eventually(lambda: "ready" in instance.text("app"), "it waits for the signal")

    instance.ask("stop", name="app")

    assert instance.text("app").splitlines()[-1] == "bye"


@pytest.mark.parametrize("prefix", ESCAPES)
def test_nothing_survives_a_killed_supervisor(instance: Instance, prefix: str) -> None:
    pid, family = start_family(instance, prefix)

    os.kill(instance.pid, signal.SIGKILL)

    eventually(lambda: not any(map(alive, [pid, *family])), "its guard ends all")


def test_a_new_supervisor_recovers_what_a_killed_one_left(instance: Instance) -> None:
    old = instance.start("app", FOREVER)["process"]["pid"]
    os.kill(instance.pid, signal.SIGKILL)

    instance.pid = launch(instance.state)

    assert not alive(old)
    assert instance.ask("list")["processes"] == []


def test_a_second_supervisor_is_refused(instance: Instance) -> None:
    with pytest.raises(SetupError, match="already running") as refusal:
        launch(instance.state)

    assert str(instance.pid) in refusal.value.message
    assert "apirule down" in refusal.value.fix


@pytest.mark.parametrize("prefix", ESCAPES)
def test_without_its_guard_the_supervisor_stops_all(instance: Instance, prefix: str) -> None:
    pid, family = start_family(instance, prefix)

    os.kill(parent(instance.pid), signal.SIGKILL)

    eventually(lambda: not any(map(alive, [instance.pid, pid, *family])), "all end in order")


def test_the_guard_heeds_no_signal_that_asks(instance: Instance) -> None:
    guard = parent(instance.pid)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(guard, number)

    pid, family = start_family(instance, ESCAPES[-1])
    os.kill(instance.pid, signal.SIGKILL)
    eventually(lambda: not any(map(alive, [guard, pid, *family])), "it did its work")


def test_starting_the_same_process_again_adopts_it(instance: Instance) -> None:
    first = instance.start("app", FOREVER, env={"A": "1"})
    again = instance.start("app", FOREVER, env={"A": "1"})
    changed = instance.start("app", FOREVER, env={"A": "2"})

    assert (first["adopted"], again["adopted"], changed["adopted"]) == (False, True, False)
    assert first["process"]["pid"] == again["process"]["pid"]
    assert changed["process"]["pid"] != first["process"]["pid"]
    assert not alive(first["process"]["pid"])


def test_environments_are_not_shown(instance: Instance) -> None:
    instance.start("app", FOREVER, env={"PASSWORD": "hush-hush"})

    assert "hush-hush" not in json.dumps(instance.ask("list"))


def test_the_environment_reaches_the_program(instance: Instance) -> None:
    instance.start(
        "app", ["sh", "-c", 'echo "$GREETING $(pwd)"'], env={"GREETING": "hello"}, cwd="/"
    )

    eventually(lambda: "hello /\n" in instance.text("app"), "it prints both")


def test_logs_are_private_and_rotated(instance: Instance) -> None:
    script = (
        "i=0; while [ $i -lt 400 ]; do echo line-$i-xxxxxxxxxxxxxxxx; i=$((i+1)); done; sleep 99"
    )
    instance.start("app", ["sh", "-c", script], log_limit=4096)

    eventually(lambda: "line-399" in instance.text("app"), "all lines are written")

    log, older = instance.state / "app.log", instance.state / "app.log.1"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert stat.S_IMODE(older.stat().st_mode) == 0o600
    assert log.stat().st_size <= 4096
    assert older.exists()


def test_a_fresh_log_keeps_the_run_before(instance: Instance) -> None:
    first = instance.start("app", ["sh", "-c", "echo $$; sleep 99"], fresh_log=True)["process"]
    eventually(lambda: instance.text("app"), "it prints its pid")
    os.kill(first["pid"], signal.SIGKILL)
    second = eventually(lambda: other_run(instance, "app", first["pid"]), "it is restarted")

    eventually(lambda: instance.text("app") == f"{second['pid']}\n", "the log is the new run's")

    assert (instance.state / "app.log.previous").read_text() == f"{first['pid']}\n"


def test_shutdown_ends_callers_before_what_they_call(instance: Instance) -> None:
    for kind in ("control-plane", "gateway", "sidecar", "workload"):
        note = f"trap 'echo {kind} >> {instance.state}/order; exit 0' TERM"
        script = f"{note}; echo ready; while :; do sleep 0.02; done"
        instance.start(kind, ["sh", "-c", script], kind=kind)
        eventually(partial(written, instance, kind), "it waits for the signal")

    instance.ask("shutdown")

    order = (instance.state / "order").read_text().split()
    assert order == ["workload", "sidecar", "gateway", "control-plane"]
    eventually(lambda: not alive(instance.pid), "then the supervisor ends")
    assert not (instance.run / "supervisor.sock").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all(instance: Instance, number: signal.Signals) -> None:
    pid = instance.start("app", FOREVER)["process"]["pid"]

    os.kill(instance.pid, number)

    eventually(lambda: not alive(instance.pid), "the supervisor ends")
    assert not alive(pid)


def test_nothing_starts_while_all_is_stopped(instance: Instance) -> None:
    instance.start("slow", ["sh", "-c", "trap '' TERM; echo ready; sleep 99"], grace_s=60.0)
    eventually(lambda: "ready" in instance.text("slow"), "it ignores the signal")
    os.kill(instance.pid, signal.SIGTERM)

    with pytest.raises(Refused, match="being stopped"):
        # Until the signal is handled the answer is yes, for a definition it knows.
        eventually(lambda: not instance.start("late", FOREVER), "it refuses")


def test_the_control_plane_can_come_and_go_without_the_workloads(instance: Instance) -> None:
    app = instance.start("app", FOREVER)["process"]["pid"]
    control = instance.start("control-plane", FOREVER, kind="control-plane")["process"]["pid"]

    os.kill(control, signal.SIGKILL)

    eventually(lambda: other_run(instance, "control-plane", control), "it is back")
    assert instance.process("app")["pid"] == app


def test_who_hangs_is_killed_and_restarted(instance: Instance) -> None:
    first = instance.start("app", FOREVER)["process"]
    instance.ask("alive", name="app", within_s=0.5)

    second = eventually(lambda: other_run(instance, "app", first["pid"]), "it is restarted")

    assert second["last"]["signal"] == signal.SIGKILL
    assert "app hangs: silent for 0.5 s, killed" in instance.text("app")
    log = instance.state / "logs" / "supervisor.log"
    assert log.read_text() == "app hangs: silent for 0.5 s, killed\n"
    log.write_text("")


async def test_who_says_that_it_is_well_goes_on(instance: Instance) -> None:
    client = SupervisorClient(instance.run)
    first = instance.start("app", FOREVER)["process"]
    hung = instance.start("hung", FOREVER)["process"]
    instance.ask("alive", name="hung", within_s=2.0)

    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(client.say_alive, "app", within_s=2.0))
            await anyio.to_thread.run_sync(
                eventually, lambda: other_run(instance, "hung", hung["pid"]), "the other is killed"
            )
            tasks.cancel_scope.cancel()

    assert instance.process("app")["pid"] == first["pid"]
    (instance.state / "logs" / "supervisor.log").write_text("")


def test_nonsense_does_not_harm(instance: Instance) -> None:
    with SupervisorConnection(instance.run) as connection:
        with pytest.raises(Refused, match="unknown"):
            connection.ask("explode")
        with pytest.raises(Refused, match="argv"):
            connection.ask("start", process={"name": "x", "kind": "workload"})
        with pytest.raises(Refused, match="kind 'daemon'"):
            connection.ask("start", process={"name": "x", "argv": ["true"], "kind": "daemon"})
        with pytest.raises(Refused, match="bad request"):
            connection.ask("stop")

        assert connection.ask("list")["processes"] == []


def test_the_socket_is_private(instance: Instance) -> None:
    assert stat.S_IMODE((instance.run / "supervisor.sock").stat().st_mode) == 0o600


def test_no_supervisor_is_a_clear_answer(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="not running"):
        SupervisorConnection(tmp_path)


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="longer than 107"):
        launch(tmp_path / ("x" * 120))


def test_wrong_usage_is_said(tmp_path: Path) -> None:
    argv = [*supervisor_argv(tmp_path)[:3], "--stat", str(tmp_path)]

    assert subprocess.run(argv, capture_output=True, check=False).returncode == 2


async def test_events_tell_what_happens_to_a_process(instance: Instance) -> None:
    client = SupervisorClient(instance.run)
    log = str(instance.state / "app.log")
    definition = {"name": "app", "argv": FOREVER, "kind": "workload", "log": log}
    seen: list[str] = []

    with anyio.fail_after(DEADLINE_S):
        async with client.subscribe() as (snapshot, events):
            assert snapshot["processes"] == []
            process = await client.start(definition)
            os.kill(process["pid"], signal.SIGKILL)
            async for event in events:
                seen.append(event["event"])
                if event["event"] == "started" and event["process"]["restarts"] == 1:
                    os.kill(event["process"]["pid"], signal.SIGKILL)
                if event["event"] == "started" and event["process"]["restarts"] == 2:
                    await client.stop("app")
                if event["event"] == "removed":
                    break

    assert seen == [
        *("started", "exited"),
        *("started", "exited", "backing-off"),
        *("started", "exited", "removed"),
    ]


async def test_progress_reaches_those_who_watch_and_those_who_come_later(
    instance: Instance,
) -> None:
    client = SupervisorClient(instance.run)

    with anyio.fail_after(DEADLINE_S):
        async with client.subscribe() as (_, events):
            await client.publish({"step": "gateway", "state": "ok"})
            event = await anext(events)
        async with client.subscribe() as (later, _):
            pass

    assert event["progress"] == {"step": "gateway", "state": "ok"}
    assert later["progress"] == [event]


async def test_events_end_with_the_supervisor(instance: Instance) -> None:
    client = SupervisorClient(instance.run)

    with anyio.fail_after(DEADLINE_S):
        async with client.subscribe() as (_, events):
            await client.shutdown()
            seen = [event["event"] async for event in events]

    assert seen == ["shutting-down"]


def session(*argv: str, **streams: str) -> dict[str, Any]:
    return {
        "name": "app/1",
        "kind": "session",
        "within": "app",
        "argv": list(argv),
        "streams": streams,
    }


def test_a_session_runs_as_its_host_does_and_tells_how_it_ended(instance: Instance) -> None:
    instance.start("app", FOREVER, env={"COLOR": "blue"}, cwd="/usr")
    pipe = instance.state / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    async def run() -> tuple[dict[str, Any], dict[str, Any]]:
        command = session("sh", "-c", "echo $COLOR; pwd; exit 5", stdout=str(pipe))
        async with SupervisorClient(instance.run).run(command) as (process, ended):
            return process, await ended()

    process, last = anyio.run(run)

    assert (process["state"], last["code"]) == ("running", 5)
    assert os.read(reader, 99) == b"blue\n/usr\n"
    os.close(reader)
    assert [p["name"] for p in instance.ask("list")["processes"]] == ["app"]


def test_a_session_ends_with_its_peer_though_it_ignores_signals(instance: Instance) -> None:
    instance.start("app", FOREVER)

    async def run() -> int:
        stubborn = "trap '' HUP TERM; setsid sleep 1000 & while true; do sleep 1; done"
        command = {**session("sh", "-c", stubborn), "signal": 1, "grace_s": 0.2}
        async with SupervisorClient(instance.run).run(command) as (process, _):
            return int(process["pid"])

    pid = anyio.run(run)

    eventually(lambda: not alive(pid), "the session ends")
    eventually(lambda: len(instance.ask("list")["processes"]) == 1, "it is forgotten")


def test_a_session_ends_with_its_host(instance: Instance) -> None:
    host = instance.start("app", FOREVER)["process"]

    async def run() -> dict[str, Any]:
        command = session(*FOREVER)
        async with SupervisorClient(instance.run).run(command) as (_, ended):
            os.kill(host["pid"], signal.SIGKILL)
            return await ended()

    assert anyio.run(run)["signal"] == signal.SIGKILL


def test_a_session_that_cannot_start_says_why(instance: Instance) -> None:
    instance.start("app", FOREVER)

    async def run(command: dict[str, Any]) -> dict[str, Any]:
        async with SupervisorClient(instance.run).run(command) as (process, _):
            return dict(process["last"])

    missing = anyio.run(run, session("no-such-program"))
    # Nobody reads: waiting for a reader would hold up everything else.
    os.mkfifo(instance.state / "pipe")
    unread = anyio.run(run, session(*FOREVER, stdout=str(instance.state / "pipe")))

    assert missing["error"] == 'cannot execute "no-such-program": No such file or directory'
    assert unread["error"].startswith("cannot open its streams")
    with pytest.raises(Refused, match="does not run"):
        anyio.run(run, {**session(*FOREVER), "within": "nobody"})


def start_family(instance: Instance, prefix: str, **fields: Any) -> tuple[int, list[int]]:
    """Start a program with a child and a grandchild. Returns its pid, and theirs."""
    child = f"sh -c '{prefix} sleep 1000 & wait'"
    script = f"{prefix} {child} >/dev/null 2>&1 & wait"
    pid = instance.start("app", ["sh", "-c", script], **fields)["process"]["pid"]
    return pid, eventually(lambda: len(f := below(pid)) == 2 and f, "both run")


def eventually(get: Callable[[], T | Literal[False] | None], what: str) -> T:
    give_up = time.monotonic() + DEADLINE_S
    while time.monotonic() < give_up:
        if value := get():
            return value
        time.sleep(0.01)
    raise AssertionError(f"in vain: {what}")


def other_run(instance: Instance, name: str, pid: int) -> dict[str, Any] | None:
    process = instance.process(name)
    return process if process["state"] == "running" and process["pid"] != pid else None


def written(instance: Instance, name: str) -> bool:
    return "ready" in instance.text(name)


def kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
