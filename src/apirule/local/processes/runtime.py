"""The supervisor as a container runtime: which processes belong to Pods, and what they do.

What runs is asked of the supervisor and followed by its events, so a new control plane knows at
once what the old one started.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio
from anyio.abc import TaskStatus

from apirule.local.processes.client import SupervisorClient
from apirule.local.processes.protocol import Message
from apirule.names import ObjectName


class Runtime:
    """``wake`` is called with each Pod that something happened to, ``tell`` with each event."""

    def __init__(
        self,
        supervisor: SupervisorClient,
        *,
        wake: Callable[[ObjectName], None],
        tell: Callable[[Message], None],
    ) -> None:
        self._supervisor = supervisor
        self._wake = wake
        self._tell = tell
        self._processes: dict[str, Message] = {}
        """As far as they belong to Pods, by name."""
        self.frozen = False
        """Everything is being stopped: what ends now is to be there again after the next start."""

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Follow the supervisor. Started: all that runs is known."""
        first = True
        while True:
            async with self._supervisor.subscribe() as (snapshot, events):
                self._processes = {
                    process["name"]: process
                    for process in snapshot["processes"]
                    if "pod" in process.get("meta", {})
                }
                for process in self._processes.values():
                    self._wake(_pod_of(process))
                if first:
                    task_status.started()
                    first = False
                async for event in events:
                    self._take_in(event)
            # It dropped a slow reader, or it is gone, and then so are we.
            if self.frozen:
                await anyio.sleep_forever()

    def of(self, uid: str) -> dict[str, Message]:
        """Return the processes of a Pod by container."""
        return {
            process["meta"]["container"]: process
            for process in self._processes.values()
            if process["meta"]["uid"] == uid
        }

    def named(self, pod: ObjectName) -> list[Message]:
        """Return the processes of every Pod that has or had this name."""
        return [p for p in self._processes.values() if p["meta"]["pod"] == str(pod)]

    async def start(self, definition: Message) -> Message:
        """Start a process, or adopt it. Returns the newest that is known of it."""
        process = await self._supervisor.start(definition)
        self._learn(process)
        return self._processes[process["name"]]

    async def stop(self, name: str, *, grace_s: float) -> Message:
        """Stop and forget a process when nothing of it is left. Returns the last of it."""
        known = self._processes.get(name, {})
        last = await self._supervisor.stop(name, grace_s=grace_s)
        self._processes.pop(name, None)
        return {**known, "state": "exited", "pid": 0, "last": last or known.get("last")}

    async def fail(self, name: str) -> None:
        """End a process that does not do its work; it is restarted later and later."""
        await self._supervisor.fail(name)

    def _take_in(self, event: Message) -> None:
        if event["event"] == "shutting-down":
            self.frozen = True
            return
        process = event.get("process", {})
        if "pod" not in process.get("meta", {}) or self.frozen or not self._learn(process):
            return
        if event["event"] == "removed":
            del self._processes[process["name"]]
        self._wake(_pod_of(process))
        self._tell(event)

    def _learn(self, process: Message) -> bool:
        """Remember what is said of a process, if nobody said something newer.

        Events and answers come over different connections.
        """
        known = self._processes.get(process["name"])
        if known is not None and known["revision"] > process["revision"]:
            return False
        self._processes[process["name"]] = process
        return True


def _pod_of(process: Message) -> ObjectName:
    return ObjectName.parse(process["meta"]["pod"])
