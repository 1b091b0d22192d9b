"""The start of the containers of a Pod: its volumes, and what is due and does not run yet."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.to_thread

from apirule.apis.meta import Object
from apirule.kube.events import EventRecorder
from apirule.local.processes import containers, start_order, volumes
from apirule.local.processes.making import Maker, NotMadeError
from apirule.local.processes.mounts import ConfigError
from apirule.local.processes.pod_status import Observed, Waiting, restart_count
from apirule.local.processes.ports import Placement
from apirule.local.processes.protocol import Refused
from apirule.local.processes.record import Record
from apirule.local.processes.runtime import Runtime
from apirule.mesh.proxy import PROXY_CONTAINER


class Starter:
    """``aside`` does something for a Pod that nobody waits for.

    ``proxy_within_s``: how long the programs of a Pod wait for its proxy.
    """

    def __init__(
        self,
        maker: Maker,
        runtime: Runtime,
        events: EventRecorder,
        *,
        aside: Callable[..., None],
        proxy_within_s: float,
    ) -> None:
        self._maker = maker
        self._runtime = runtime
        self._events = events
        self._aside = aside
        self._proxy_within_s = proxy_within_s

    async def start(self, record: Record, observe: Callable[[], Observed]) -> None:
        """Start what is due. What has to wait is noted on the record."""
        record.waiting.clear()
        mounted = await self._fill_volumes(record)
        seen = observe()
        late = record.proxy_due is not None and anyio.current_time() >= record.proxy_due
        for container, init in start_order.due(
            record.pod,
            lambda name: self._runtime.of(record.uid).get(name),
            started=seen.started,
            ready=seen.ready,
            calling_nobody=containers.bundled(record.pod),
            without_proxy=late,
        ):
            name = container["name"]
            if name == PROXY_CONTAINER:
                record.proxy_due = record.proxy_due or anyio.current_time() + self._proxy_within_s
            elif late and PROXY_CONTAINER not in seen.ready and name not in seen.processes:
                text = (
                    f"The proxy was not ready within {self._proxy_within_s:g} s, container {name} "
                    f"starts without it: what it calls now fails. See kubectl logs -c "
                    f"{PROXY_CONTAINER} {record.name.name}"
                )
                await record.warn_once(self._events, "ProxyNotReady", text)
            if mounted or name == PROXY_CONTAINER or name in seen.processes:
                await self._ensure(record, container, init=init)
            else:
                record.waiting[name] = Waiting("ContainerCreating")

    async def _fill_volumes(self, record: Record) -> bool:
        """Make the volumes what their sources are now. False: one of them was never to be had."""
        try:
            wanted = self._maker.volumes(record.pod)
        except ConfigError as error:
            # A program that runs goes on with what it has.
            if record.volumes is None:
                text = f"MountVolume.SetUp failed: {error}"
                await record.warn_once(self._events, "FailedMount", text)
            return record.volumes is not None
        for name, volume in wanted.items():
            if record.volumes is None or record.volumes.get(name) != volume:
                await anyio.to_thread.run_sync(volumes.write, volume)
        record.volumes = wanted
        return True

    async def _ensure(self, record: Record, container: Object, *, init: bool) -> None:
        """Start the process of a container if there is none of this version."""
        name = container["name"]
        process = self._runtime.of(record.uid).get(name)
        if process and process["meta"]["fingerprint"] == containers.fingerprint(container):
            return
        placement = record.placement or Placement(())
        try:
            made = self._maker.make(
                record.pod, container, placement, record.volumes or {}, init=init
            )
        except NotMadeError as error:
            record.waiting[name] = error.waiting
            await record.warn_once(self._events, error.event, str(error))
            return
        for sentence in made.elsewhere:
            await record.warn_once(self._events, "MountedElsewhere", sentence)
        # Nobody has to wait for an Event before its program starts.
        self._aside(record.pod, self._events.normal, record.pod, "Pulled", made.note)
        restarts = process["restarts"] + 1 if process else restart_count(record.pod, name)
        try:
            await self._runtime.start({**made.definition, "restarts": restarts})
        except Refused as refusal:
            record.waiting[name] = Waiting("CreateContainerError", refusal.message)
            await record.warn_once(self._events, "Failed", f"Error: {refusal.message}")
