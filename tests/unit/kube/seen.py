"""Collects the changes an informer reports, and waits for them without sleeping."""

from collections.abc import Callable

import anyio

from apirule.kube.informer import Delta, name_of


class Seen:
    def __init__(self) -> None:
        self.deltas: list[tuple[str, str]] = []
        self._changed = anyio.Event()

    def __call__(self, delta: Delta) -> None:
        what = "new" if delta.old is None else "gone" if delta.new is None else "changed"
        self.deltas.append((what, name_of(delta.current).name))
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(10):
            while not condition():
                await self._changed.wait()
