"""The end of the containers of a Pod: their ``preStop`` hooks, and one group after the other."""

from __future__ import annotations

from functools import partial

import anyio

from apirule.kube.events import EventRecorder
from apirule.local.processes import probes
from apirule.local.processes.containers import PROXY_GRACE_S, containers_of
from apirule.local.processes.ports import Placement
from apirule.local.processes.prober import Prober
from apirule.local.processes.probes import Probe
from apirule.local.processes.protocol import Message
from apirule.local.processes.record import Record
from apirule.local.processes.runtime import Runtime
from apirule.local.processes.sessions import Sessions
from apirule.local.processes.start_order import stop_order
from apirule.mesh.proxy import PROXY_CONTAINER

LEAST_S = 2.0
"""What is left for an end when others, or a hook, took all the time there was."""


class Stopper:
    def __init__(
        self, runtime: Runtime, prober: Prober, sessions: Sessions, events: EventRecorder
    ) -> None:
        self._runtime = runtime
        self._prober = prober
        self._sessions = sessions
        self._events = events

    async def stop_all(self, record: Record, grace_s: float) -> dict[str, Message]:
        """Stop what runs of a Pod. Returns how each container ended."""
        processes = self._runtime.of(record.uid)
        deadline = anyio.current_time() + grace_s
        ended: dict[str, Message] = {}

        async def stop(container: str) -> None:
            within_s = max(deadline - anyio.current_time(), min(grace_s, LEAST_S))
            left_s = await self.before_stop(record, container, within_s)
            left_s = min(left_s, PROXY_GRACE_S) if container == PROXY_CONTAINER else left_s
            ended[container] = await self.stop(processes[container]["name"], left_s)

        for group in stop_order(record.pod):
            async with anyio.create_task_group() as tasks:
                for container in processes.keys() & set(group):
                    tasks.start_soon(stop, container)
        return ended

    async def stop(self, process: str, grace_s: float) -> Message:
        """Stop one process. Returns the last of it."""
        self._prober.forget(process)
        return await self._runtime.stop(process, grace_s=grace_s)

    async def fail(self, record: Record, container: str, grace_s: float) -> None:
        """End a container that does not do its work; it is restarted later and later."""
        await self.before_stop(record, container, grace_s)
        if process := self._runtime.of(record.uid).get(container):
            await self._runtime.fail(process["name"])

    async def before_stop(self, record: Record, name: str, grace_s: float) -> float:
        """Call the preStop hook of a container. Returns how much of its time is left."""
        process = self._runtime.of(record.uid).get(name)
        container = next(c for c in containers_of(record.pod) if c["name"] == name)
        hook = (container.get("lifecycle") or {}).get("preStop")
        if not hook or not grace_s or process is None or process["state"] != "running":
            return grace_s
        began = anyio.current_time()
        check = probes.action(
            hook,
            record.placement or Placement(()),
            container,
            partial(self._sessions.outcome, process),
        )
        wrong = await probes.look(Probe(check, timeout_s=grace_s))
        if wrong is not None:
            text = f"PreStopHook of container {name} failed: {wrong}"
            await self._events.warning(record.pod, "FailedPreStopHook", text)
        return max(grace_s - (anyio.current_time() - began), LEAST_S)
