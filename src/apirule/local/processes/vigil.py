"""Whether a process that says now and then that it is well has been silent for too long.

For the supervisor only; pure. What counts is not the time but how often somebody looked: a machine
that slept, was stopped, or has more to do than it can, wakes us late as well, and then the silence
of a process is nothing to kill it for.
"""

from __future__ import annotations

LOOKS = 10


class Vigil:
    def __init__(self, within_s: float, now: float) -> None:
        self.within_s = within_s
        self.every_s = within_s / LOOKS
        """How often to look, and for the process to speak."""
        self._due = now + self.every_s
        self._silent = 0

    def hear(self) -> None:
        """Take note that the process is well."""
        self._silent = 0

    def look(self, now: float) -> bool:
        """Look, and say whether it has been silent for too long."""
        if now < self._due + self.every_s:
            self._silent += 1
        self._due = now + self.every_s
        return self._silent >= LOOKS
