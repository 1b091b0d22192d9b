"""A start, watched: the supervisor is launched, steps are told as they finish, failures explained.

Whatever goes wrong, or whoever interrupts it, nothing half started is left behind; and nothing is
ended that somebody else started.
"""

from __future__ import annotations

import os
import select
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from apirule.cli import output
from apirule.local.processes.launch import SupervisorConnection, launch
from apirule.local.processes.protocol import Message
from apirule.problem import SetupError
from apirule.settings import StateFolder

CONTROL_PLANE = "control-plane"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
EXIT_START = 3
EXIT_TIMEOUT = 5
LAST_LINES = 5
GATEWAY = "istio-system/istio-ingressgateway"
ENDS_OF_A_LOOP = 4
"""So many ends of the gateway's Envoy during one start are no accident."""

_PODS_OF_STEPS = {"gateway": "istio-system_istio-ingressgateway-*", "demo": "default_httpbin-*"}
"""Whose logs say why a step failed. Of the other steps the control plane's does."""
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does: raise KeyboardInterrupt."""
    # Who ignores one, as nohup makes us do, goes on ignoring it.
    default = [one for one in _ENDING[1:] if signal.getsignal(one) is signal.SIG_DFL]
    for number in default:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in default:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def launched(folder: StateFolder, *, foreground: bool) -> Iterator[None]:
    """Launch a supervisor. It stays if the block ends well, else it ends with all it has started.

    SetupError: there is one already, perhaps since just now; it is left alone.
    """
    is_ours = False
    try:
        with _signals_later():
            launch(folder.root, folder.run, foreground=foreground)
            is_ours = True
        yield
    except BaseException:
        if is_ours:
            shut_down(folder)
        raise


def shut_down(folder: StateFolder) -> None:
    """End the supervisor and everything it runs; return when nothing of it is left.

    SetupError: it takes too long.
    """
    try:
        with SupervisorConnection(folder.run, timeout_s=STOP_TIMEOUT_S) as supervisor:
            last = _pidfd_of_the_last(supervisor.ask("list"))
            try:
                supervisor.ask("shutdown")
                _until_ended(last)
            finally:
                os.close(last)
    except TimeoutError:
        raise SetupError(
            f"Not everything has ended within {STOP_TIMEOUT_S:.0f} s.",
            "It is still being ended: see `apirule status`.",
        ) from None
    except (SetupError, ProcessLookupError):
        pass  # there is none
    # Whoever was killed could not remove its own.
    for path in folder.run.rglob("*.sock*"):
        path.unlink(missing_ok=True)


def _pidfd_of_the_last(answer: Message) -> int:
    """Return who ends when all else has: the guard of the supervisor, unless somebody killed it."""
    try:
        # One that was started by an earlier version does not tell.
        return os.pidfd_open(int(answer.get("guard") or answer["pid"]))
    except ProcessLookupError:
        return os.pidfd_open(answer["pid"])


def _until_ended(pidfd: int) -> None:
    """Return when a process has ended. TimeoutError: it takes too long."""
    ended, _, _ = select.select([pidfd], [], [], STOP_TIMEOUT_S)
    if not ended:
        raise TimeoutError


def start(folder: StateFolder, control_plane: Message, *, quiet: bool) -> None:
    """Start the control plane and tell the steps. Exit: it failed, and why has been said."""
    with SupervisorConnection(folder.run, timeout_s=START_TIMEOUT_S) as supervisor:
        supervisor.ask("subscribe")
        with SupervisorConnection(folder.run) as starter:
            starter.ask("start", process=control_plane)
        try:
            _follow(supervisor, folder, quiet=quiet)
        except TimeoutError:
            raise _failed(
                f"nothing happened for {START_TIMEOUT_S:.0f} s", folder, code=EXIT_TIMEOUT
            ) from None


def stay(folder: StateFolder) -> int:
    """Return when the supervisor has ended; end it when asked to. Returns the exit code."""
    asked_to_end = False
    try:
        with SupervisorConnection(folder.run, timeout_s=None) as supervisor:
            supervisor.ask("subscribe")
            for event in supervisor.events():
                asked_to_end = asked_to_end or event["event"] == "shutting-down"
    except KeyboardInterrupt:
        shut_down(folder)
        return 0
    if asked_to_end:
        return 0
    output.error("The supervisor ended, and everything with it.", "See `apirule logs supervisor`.")
    return EXIT_START


def _follow(supervisor: SupervisorConnection, folder: StateFolder, *, quiet: bool) -> None:
    """Tell each step as it finishes; return when all have."""
    ends: Counter[str] = Counter()
    for event in supervisor.events():
        process, progress = event.get("process", {}), event.get("progress", {})
        if event["event"] == "exited" and process["name"] == CONTROL_PLANE:
            raise _failed("the control plane ended", folder)
        if event["event"] == "exited" and process["name"].startswith(GATEWAY):
            ends[process["name"]] += 1
            if ends[process["name"]] >= ENDS_OF_A_LOOP:
                how = _how_it_ended(process["last"])
                raise _failed(
                    f"the gateway's Envoy ended again and again ({how})", folder, "gateway"
                )
        if event["event"] != "progress":
            continue
        if progress.get("state") == "ready":
            return
        if progress.get("state") == "failed":
            step = progress["step"]
            output.step(step, progress["detail"], ok=False)
            raise _failed(f"{step or 'its control plane'} failed", folder, step)
        if not quiet:
            output.step(progress["step"], progress["detail"], progress.get("seconds"))
    raise _failed("the supervisor ended", folder)


def _how_it_ended(last: Message) -> str:
    if error := last.get("error"):
        return str(error)
    return f"signal {last['signal']}" if last["signal"] else f"exit code {last['code']}"


@contextmanager
def _signals_later() -> Iterator[None]:
    """Hold back what would end us while something starts that nobody could end yet."""
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.getsignal(number) for number in _ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            raise KeyboardInterrupt


def _failed(
    what: str, folder: StateFolder, step: str = "", *, code: int = EXIT_START
) -> click.exceptions.Exit:
    """Say what failed, with the end of the log of that which failed."""
    output.error(
        f"apirule did not start: {what}.", "See what it wrote, and what apirule doctor finds."
    )
    for log in _logs_of(step, folder):
        output.say(f"  the end of {log}:")
        lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        for line in lines or ["(nothing)"]:
            output.say(f"    {line}")
    return click.exceptions.Exit(code)


def _logs_of(step: str, folder: StateFolder) -> Iterator[Path]:
    pods = [*folder.pods.glob(_PODS_OF_STEPS[step])] if step in _PODS_OF_STEPS else []
    if not pods:
        log = folder.logs / f"{CONTROL_PLANE}.log"
        yield from [log] if log.exists() else []
        return
    newest = max(pods, key=lambda pod: pod.stat().st_mtime)
    for log in sorted(newest.glob("*.log")):
        before = Path(f"{log}.previous")
        # Who is just being started again has said nothing yet.
        yield before if not log.stat().st_size and before.exists() else log
