"""A queue of names with work to do: each name at most once, never by two workers at a time.

A name added while a worker has it is handed out again when that worker is done, so no change is
missed. Failures come back after a growing delay, each name on its own.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

import anyio

K = TypeVar("K", bound=Hashable)


class QueueMetrics(Protocol):
    """What a queue tells; ``kube.controller`` turns it into metrics."""

    def depth(self, waiting: int) -> None: ...
    def retried(self) -> None: ...


class WorkQueue(Generic[K]):
    def __init__(
        self,
        *,
        base_delay_s: float = 1.0,
        max_delay_s: float = 1000.0,
        metrics: QueueMetrics | None = None,
        now: Callable[[], float] = anyio.current_time,
    ) -> None:
        self._base_delay_s = base_delay_s
        self._max_delay_s = max_delay_s
        self._metrics = metrics
        self._now = now
        self._ready: deque[K] = deque()
        self._dirty: set[K] = set()
        self._processing: set[K] = set()
        self._failures: dict[K, int] = {}
        self._later: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}
        self._order = itertools.count()
        self._changed = anyio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._ready)

    def add(self, key: K) -> None:
        """Ask for one more pass over ``key``."""
        self._due.pop(key, None)
        if self._closed or key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._processing:
            self._push(key)

    def add_after(self, key: K, delay_s: float) -> None:
        """Ask for a pass later. The earliest of several dates counts; ``add`` comes first."""
        if self._closed:
            return
        if delay_s <= 0:
            self.add(key)
            return
        due = self._now() + delay_s
        if key in self._dirty or self._due.get(key, due + 1.0) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._later, (due, next(self._order), key))
        self._wake()

    def retry(self, key: K) -> float:
        """Count a failure and come back later; return the delay in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        # Beyond 2**30 the limit holds anyway, and floats overflow at 2**1024.
        delay = min(self._base_delay_s * 2.0 ** min(failures, 30), self._max_delay_s)
        if self._metrics is not None:
            self._metrics.retried()
        self.add_after(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """Start again with the smallest delay: the last pass went well."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        return self._failures.get(key, 0)

    async def get(self) -> K | None:
        """Take the next name; call ``done`` when finished. None: the queue was closed."""
        while not self._closed:
            self._move_due()
            if self._ready:
                key = self._ready.popleft()
                self._dirty.discard(key)
                self._processing.add(key)
                self._report()
                return key
            changed = self._changed
            wait_s = self._later[0][0] - self._now() if self._later else None
            with anyio.move_on_after(None if wait_s is None else max(wait_s, 0.0)):
                await changed.wait()
        return None

    def done(self, key: K) -> None:
        self._processing.discard(key)
        if key in self._dirty:
            self._push(key)

    def close(self) -> None:
        """Let every ``get`` return None."""
        self._closed = True
        self._wake()

    def _push(self, key: K) -> None:
        self._ready.append(key)
        self._report()
        self._wake()

    def _move_due(self) -> None:
        while self._later and self._later[0][0] <= self._now():
            due, _, key = heapq.heappop(self._later)
            # An entry is stale when the name was added in between, or got an earlier date.
            if self._due.get(key) == due:
                self.add(key)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _report(self) -> None:
        if self._metrics is not None:
            self._metrics.depth(len(self._ready))
