"""Runs the probes of all Pods, each from the start of a process to its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import anyio
import anyio.to_thread
import msgspec
import structlog
from anyio.abc import TaskGroup

from apirule.apis.meta import Object
from apirule.local.processes import listening, probes
from apirule.local.processes.ports import LOOPBACK, Placement
from apirule.local.processes.probes import Probe
from apirule.mesh.proxy import PROXY_CONTAINER

log = structlog.get_logger(__name__)

EXPECTED_WITHIN_S = 5.0
"""How long a program may take to listen before somebody asks where it does."""

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0

Report = Callable[[str, str], Awaitable[None]]
"""Reason and message of a Warning Event."""


@dataclass
class Watched:
    """One process under observation, and what was found so far."""

    run: float
    """When the process was started; another value is another process."""
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    started: bool = False
    ready: bool = False


class Subject(msgspec.Struct, frozen=True):
    """What is to be probed, and whom to tell."""

    container: Object
    pid: int
    placement: Placement
    run: probes.Run
    changed: Callable[[], None]
    report: Report
    fail: Callable[[], Awaitable[None]]
    """End the container, which is restarted later and later."""


class Prober:
    """``watch`` is called again and again; only another run of the process starts anew."""

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._watched: dict[str, Watched] = {}

    def watch(self, name: str, run: float, subject: Subject) -> Watched:
        """Return what is known of process ``name``, and see to it that more will be."""
        known = self._watched.get(name)
        if known is not None and known.run == run:
            return known
        self.forget(name)
        watched = self._watched[name] = Watched(run)
        self._tasks.start_soon(self._probe, watched, subject)
        return watched

    def forget(self, name: str) -> None:
        known = self._watched.pop(name, None)
        if known is not None:
            known.scope.cancel()

    async def _probe(self, watched: Watched, subject: Subject) -> None:
        with watched.scope:
            for pause_s in _pauses():
                try:
                    await self._follow(watched, subject)
                except Exception as error:
                    # One Pod that trips us must not end the probing of all others.
                    name = subject.container["name"]
                    log.exception("probing failed", container=name, retry_s=pause_s)
                    text = f"Container {name} cannot be probed: {error!r}"
                    await subject.report("ProbeError", text)
                else:
                    return
                await anyio.sleep(pause_s)

    async def _follow(self, watched: Watched, subject: Subject) -> None:
        if subject.container["name"] == PROXY_CONTAINER:
            await probes.until_proxy_ready(subject.placement.admin)
            watched.started = watched.ready = True
            subject.changed()
            return
        if startup := _read(subject, "startupProbe"):
            await self._until_started(startup, subject)
        watched.started = True
        subject.changed()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._follow_readiness, watched, subject)
            if liveness := _read(subject, "livenessProbe"):
                tasks.start_soon(self._follow_liveness, liveness, subject)

    async def _until_started(self, probe: Probe, subject: Subject) -> None:
        await anyio.sleep(probe.initial_delay_s)
        failures = 0
        while (wrong := await probes.look(probe)) is not None:
            failures += 1
            await subject.report("Unhealthy", f"Startup probe failed: {wrong}")
            if failures >= probe.failures:
                await _fail(subject, "startup")
            await anyio.sleep(probe.period_s)

    async def _follow_readiness(self, watched: Watched, subject: Subject) -> None:
        probe = _read(subject, "readinessProbe")
        if probe is None:
            await _until_accepting(subject)
            watched.ready = True
            subject.changed()
            await _tell_who_can_reach(subject)
            return
        await anyio.sleep(probe.initial_delay_s)
        good = bad = 0
        while True:
            wrong = await probes.look(probe)
            good, bad = (good + 1, 0) if wrong is None else (0, bad + 1)
            if wrong is not None:
                await subject.report("Unhealthy", f"Readiness probe failed: {wrong}")
            ready = good >= probe.successes if wrong is None else bad < probe.failures
            ready = ready and (watched.ready or wrong is None)
            if ready != watched.ready:
                watched.ready = ready
                subject.changed()
                await _tell_who_can_reach(subject)
            await anyio.sleep(probe.period_s)

    async def _follow_liveness(self, probe: Probe, subject: Subject) -> None:
        await anyio.sleep(probe.initial_delay_s)
        failures = 0
        while True:
            wrong = await probes.look(probe)
            failures = 0 if wrong is None else failures + 1
            if wrong is not None:
                await subject.report("Unhealthy", f"Liveness probe failed: {wrong}")
            if failures >= probe.failures:
                await _fail(subject, "liveness")
                failures = 0
            await anyio.sleep(probe.period_s)


async def _until_accepting(subject: Subject) -> None:
    """Wait until a container accepts connections; say where they are expected if it takes long."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_tell_where_to_listen, subject)
        await probes.until_accepting(subject.placement, subject.container)
        tasks.cancel_scope.cancel()


async def _tell_where_to_listen(subject: Subject) -> None:
    await anyio.sleep(EXPECTED_WITHIN_S)
    name = subject.container["name"]
    found = await anyio.to_thread.run_sync(listening.listeners, subject.pid)
    where = f"listens on {', '.join(map(str, found))}" if found else "does not listen at all"
    for number, address in probes.expected(subject.placement, subject.container):
        if address not in map(str, found):
            text = (
                f"Container {name} {where}; its port {number} is expected on {address}. Let it "
                "listen there (the variable PORT tells it), or declare where it does as hostPort"
            )
            await subject.report("NotListening", text)


async def _tell_who_can_reach(subject: Subject) -> None:
    """Warn of doors that lead around the sidecar and all policies."""
    found = await anyio.to_thread.run_sync(listening.beyond_loopback, subject.pid)
    if found:
        text = (
            f"Container {subject.container['name']} listens on {', '.join(map(str, found))}: other "
            f"machines can call it there, around its sidecar and all policies. Let it listen on "
            f"{LOOPBACK}"
        )
        await subject.report("OpenToOtherMachines", text)


def _pauses() -> Iterator[float]:
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


async def _fail(subject: Subject, kind: str) -> None:
    name = subject.container["name"]
    text = f"Container {name} failed {kind} probe, will be restarted"
    await subject.report("Killing", text)
    await subject.fail()


def _read(subject: Subject, field_name: str) -> Probe | None:
    probe = subject.container.get(field_name)
    if not probe:
        return None
    return probes.read(probe, subject.placement, subject.container, subject.run)
