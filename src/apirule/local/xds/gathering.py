"""Lets changes that come together be told together, as one round costs the same for all of them.

What comes alone is told at once: the wait is a small part of what telling costs, which is next to
nothing among few objects. While changes keep coming, say of a thousand rules that are applied at
once, rounds are held back so that the work that brings the changes gets most of the time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import anyio.lowlevel

QUIET = 0.03
"""So much of a round's cost without a change, and they have all come."""

LONGEST = 4.0
"""So much of it is waited at most: rounds then take a quarter of the time."""


class Gathering:
    """Tell it of every change and of the work of every round, and wait ``until_quiet`` before."""

    def __init__(self) -> None:
        self._changes = 0
        self._cost_s = 0.0

    def note_change(self) -> None:
        self._changes += 1

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count what is done within it, which must not await anything, as cost of the round."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._cost_s += time.monotonic() - began

    async def until_quiet(self) -> None:
        """Return when no more changes come, or it has taken long enough."""
        cost_s, self._cost_s = self._cost_s, 0.0
        with anyio.move_on_after(cost_s * LONGEST):
            seen = -1
            while seen != self._changes:
                seen = self._changes
                await anyio.sleep(cost_s * QUIET)
                # What has been written meanwhile is told of in the next turn of the loop.
                await anyio.lowlevel.checkpoint()
