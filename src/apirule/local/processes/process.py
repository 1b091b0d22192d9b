"""One process as the supervisor knows it: what it was told to run, and what became of that."""

from __future__ import annotations

from collections.abc import Callable

from apirule.local.processes import protocol
from apirule.local.processes.child import Log
from apirule.local.processes.protocol import Message
from apirule.local.processes.vigil import Vigil


class Process:
    """One definition and what became of it."""

    def __init__(self, definition: Message) -> None:
        self.definition = definition
        self.name: str = definition["name"]
        self.state = "exited"
        self.pid = 0
        self.output = -1
        self.started_at = 0.0
        self.started = 0.0
        self.retry_at = 0.0
        self.restarts: int = definition.get("restarts", 0)
        self.failures = 0
        self.coming_back = False
        """It is being stopped, to be started again."""
        self.failing = False
        """It is being stopped because it does not do its work."""
        self.last: Message | None = None
        self.revision = 0
        """Of two descriptions the one with the higher number is newer."""
        self.vigil: Vigil | None = None
        """Watches this run, once it has said that it is well."""
        self.ticket = 0
        """Changes whenever a timer that was set for the process has lost its meaning."""
        self.on_end: list[Callable[[], None]] = []
        self.on_exit: Callable[[], None] = lambda: None
        """Called whenever it has ended, whether it was stopped or not."""
        limit_bytes = definition.get("log_limit", protocol.LOG_LIMIT_BYTES)
        self.log = Log(definition["log"], limit_bytes=limit_bytes) if "log" in definition else None

    def describe(self) -> Message:
        """All but the environment, which may hold secrets."""
        shown = ("name", "kind", "argv", "cwd", "log", "meta")
        return {
            **{key: self.definition[key] for key in shown if key in self.definition},
            "revision": self.revision,
            "state": self.state,
            "pid": self.pid,
            "started_at": self.started_at,
            "restarts": self.restarts,
            "retry_at": self.retry_at if self.state == "backing-off" else 0.0,
            "last": self.last,
        }

    def wants_restart(self) -> bool:
        policy = self.definition.get("restart", "always")
        failed = self.last is not None and self.last["code"] != 0
        return policy == "always" or (policy == "on-failure" and failed)
