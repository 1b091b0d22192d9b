"""Reconcile by name: changes become names, a queue collects them, workers take them one by one.

controller = Controller("apirule", reconcile, [Source(rules), Source(policies, owner_of)])
await tasks.start(informers.run)
await tasks.start(controller.run)
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

import anyio
import msgspec
import structlog
from anyio.abc import TaskStatus
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from apirule.kube.errors import ApiError, Conflict
from apirule.kube.informer import Delta, Informer, name_of
from apirule.kube.workqueue import WorkQueue
from apirule.names import ObjectName

log = structlog.get_logger(__name__)

CONFLICT_DELAY_S = 0.05
"""After a conflict our cache only has to catch up, which takes milliseconds."""

CONFLICTS_IN_A_ROW = 5
"""After so many quick returns a conflict counts as a failure like any other."""


class Result(NamedTuple):
    """What a pass leaves to do: nothing, or another pass after a while."""

    requeue_after_s: float | None = None


DONE = Result()

Reconcile = Callable[[ObjectName], Awaitable[Result]]
Keys = Callable[[Delta], Iterable[ObjectName]]


def own_name(delta: Delta) -> Iterable[ObjectName]:
    return (name_of(delta.current),)


class Source(msgspec.Struct, frozen=True):
    """An informer, and which names one of its changes concerns; by default the object's own."""

    informer: Informer
    keys: Keys = own_name


class ControllerMetrics:
    """The metrics of all controllers of a process; make one and hand it to each."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.passes = Counter(
            "apirule_reconcile",
            "Passes of a controller, by outcome: ok, conflict, error.",
            ["controller", "outcome"],
            registry=registry,
        )
        self.duration = Histogram(
            "apirule_reconcile_duration_seconds",
            "How long one pass took.",
            ["controller"],
            registry=registry,
        )
        self.waiting = Gauge(
            "apirule_workqueue_depth",
            "Names that wait for a worker.",
            ["controller"],
            registry=registry,
        )
        self.retries = Counter(
            "apirule_workqueue_retries",
            "Passes asked for again because one failed.",
            ["controller"],
            registry=registry,
        )


class _QueueHook:
    def __init__(self, metrics: ControllerMetrics, name: str) -> None:
        self._depth = metrics.waiting.labels(name)
        self._retries = metrics.retries.labels(name)

    def depth(self, waiting: int) -> None:
        self._depth.set(waiting)

    def retried(self) -> None:
        self._retries.inc()


class Controller:
    """Calls ``reconcile(name)`` for every name that one of the sources reports."""

    def __init__(
        self,
        name: str,
        reconcile: Reconcile,
        sources: Sequence[Source],
        *,
        workers: int = 2,
        base_delay_s: float = 1.0,
        max_delay_s: float = 1000.0,
        metrics: ControllerMetrics | None = None,
    ) -> None:
        self.name = name
        self.queue: WorkQueue[ObjectName] = WorkQueue(
            base_delay_s=base_delay_s,
            max_delay_s=max_delay_s,
            metrics=_QueueHook(metrics, name) if metrics is not None else None,
        )
        self._reconcile = reconcile
        self._sources = sources
        self._workers = workers
        self._metrics = metrics
        self._conflicts: dict[ObjectName, int] = {}

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Work for ever. Started: the sources are synced (or missing) and the workers run.

        The informers are run by others. A controller runs once in its life.
        """
        for source in self._sources:
            await source.informer.settled.wait()
        for source in self._sources:
            source.informer.add_handler(self._handler(source))
        try:
            async with anyio.create_task_group() as tasks:
                for _ in range(self._workers):
                    tasks.start_soon(self._work)
                task_status.started()
        finally:
            self.queue.close()

    def _handler(self, source: Source) -> Callable[[Delta], None]:
        def enqueue(delta: Delta) -> None:
            for name in source.keys(delta):
                self.queue.add(name)

        return enqueue

    async def _work(self) -> None:
        while (name := await self.queue.get()) is not None:
            try:
                await self._pass(name)
            finally:
                self.queue.done(name)

    async def _pass(self, name: ObjectName) -> None:
        started = time.monotonic()
        outcome = "ok"
        try:
            result = await self._reconcile(name)
        except Conflict as error:
            outcome = "conflict"
            self._after_conflict(name, error)
        except ApiError as error:
            outcome = "error"
            delay = self.queue.retry(name)
            log.warning(
                "reconcile failed",
                controller=self.name,
                name=str(name),
                error=str(error),
                retry_s=delay,
            )
        except Exception:
            # One object that trips us must not stop the work on all others.
            outcome = "error"
            delay = self.queue.retry(name)
            log.exception("reconcile crashed", controller=self.name, name=str(name), retry_s=delay)
        else:
            self._conflicts.pop(name, None)
            self.queue.forget(name)
            if result.requeue_after_s is not None:
                self.queue.add_after(name, result.requeue_after_s)
        if self._metrics is not None:
            self._metrics.passes.labels(self.name, outcome).inc()
            self._metrics.duration.labels(self.name).observe(time.monotonic() - started)

    def _after_conflict(self, name: ObjectName, error: Conflict) -> None:
        conflicts = self._conflicts.get(name, 0) + 1
        self._conflicts[name] = conflicts
        log.debug("conflict", controller=self.name, name=str(name), error=str(error))
        if conflicts <= CONFLICTS_IN_A_ROW:
            self.queue.add_after(name, CONFLICT_DELAY_S * conflicts)
        else:
            self.queue.retry(name)
