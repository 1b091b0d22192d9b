"""Makes Pods real: each container a process under the supervisor, each status what it does.

Knows Pods only through the Kubernetes API. What runs is asked of the supervisor, where a Pod was
put stands in its annotations; so a new control plane goes on where the old one ended, and
restarts nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import structlog
from anyio.abc import TaskGroup, TaskStatus

from apirule.apis import core
from apirule.apis.meta import Object
from apirule.apis.scheme import decode
from apirule.kube.client import Client
from apirule.kube.controller import DONE, Controller, ControllerMetrics, Result, Source
from apirule.kube.errors import Conflict, NotFound, Unreachable
from apirule.kube.events import EventRecorder
from apirule.kube.informer import Delta, Informers, name_of
from apirule.local.processes import containers, ports, start_order, volumes
from apirule.local.processes.client import SupervisorClient
from apirule.local.processes.containers import PROXY_GRACE_S
from apirule.local.processes.making import Maker, NotMadeError
from apirule.local.processes.mounts import ConfigError
from apirule.local.processes.pod_status import (
    TERMINAL,
    Observed,
    Waiting,
    restart_count,
    status_of,
)
from apirule.local.processes.ports import Allocator, Placement
from apirule.local.processes.prober import Prober, Subject
from apirule.local.processes.protocol import Message, Refused
from apirule.local.processes.runtime import Runtime
from apirule.local.processes.sessions import Sessions
from apirule.local.processes.volumes import Volume
from apirule.mesh.proxy import PROXY_CONTAINER
from apirule.names import ObjectName

log = structlog.get_logger(__name__)

POD = core.Pod.gvk
CONFIG_MAP = core.ConfigMap.gvk
SECRET = core.Secret.gvk
NODE = "apirule"

DRAIN_S = 0.3
"""A Pod that is deleted goes on answering until the proxies have heard that it ends."""

RETRY_S = 1.0
"""How often something outside is looked at that nobody reports, such as a port's other owner."""

PROXY_WITHIN_S = 10.0
"""How long the programs of a Pod wait for its proxy."""

REMOVED_GRACE_S = 2.0
"""For the programs of a Pod that is gone already."""

BACKOFF_WORTH_AN_EVENT_S = 0.5
_WORKERS = 8


@dataclass
class Record:
    """What we keep of one Pod while it exists."""

    pod: Object
    placement: Placement | None = None
    unscheduled: str = ""
    waiting: dict[str, Waiting] = field(default_factory=dict)
    volumes: dict[str, Volume] | None = None
    """As they were last written; None: they never were."""
    proxy_due: float | None = None
    """When the proxy is late, by the clock of the event loop; None: it was not started yet."""
    told: set[str] = field(default_factory=set)
    """Events that are written once."""
    ending: bool = False


class Kubelet:
    """``pods`` is the folder with one folder for each Pod, ``run`` the one for sockets."""

    def __init__(
        self,
        client: Client,
        informers: Informers,
        supervisor: SupervisorClient,
        *,
        pods: Path,
        run: Path,
        xds_socket: Path,
        domain: str,
        now: Callable[[], datetime],
        metrics: ControllerMetrics | None = None,
        proxy_within_s: float = PROXY_WITHIN_S,
    ) -> None:
        self._client = client
        self._folder = pods
        self._run = run
        self._now = now
        self._proxy_within_s = proxy_within_s
        self._pods = informers.of(POD)
        sources = {kind.kind: informers.of(kind) for kind in (CONFIG_MAP, SECRET)}
        self._maker = Maker(pods, xds_socket, sources, domain=domain)
        self._events = EventRecorder(client, "kubelet", now=now)
        self._controller = Controller(
            "kubelet",
            self._reconcile,
            [Source(self._pods), *(Source(i, self._affected_by) for i in sources.values())],
            workers=_WORKERS,
            base_delay_s=0.1,
            max_delay_s=30.0,
            metrics=metrics,
        )
        self._sessions = Sessions(supervisor, run)
        self._runtime = Runtime(supervisor, wake=self._controller.queue.add, tell=self._on_event)
        self._allocator = Allocator()
        self._records: dict[str, Record] = {}

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Work for ever. Started: all that runs is known, and all Pods have been looked at."""
        async with anyio.create_task_group() as tasks:
            self._tasks: TaskGroup = tasks
            self._prober = Prober(tasks)
            (self._run / "a").mkdir(mode=0o700, parents=True, exist_ok=True)
            await tasks.start(self._runtime.run)
            self._remember_placements()
            await tasks.start(self._controller.run)
            task_status.started()

    # What is said of Pods.

    def _on_event(self, event: Message) -> None:
        record = self._records.get(event["process"]["meta"]["uid"])
        if record is not None and not record.ending:
            self._start_soon(record.pod, self._tell, record, event)

    def _start_soon(
        self, pod: Object, work: Callable[..., Awaitable[None]], *arguments: Any
    ) -> None:
        """Do something beside the reconciling of a Pod. What fails of it is told on the Pod."""

        async def survive() -> None:
            try:
                await work(*arguments)
            except Exception as error:
                log.exception("work on a pod failed", name=str(name_of(pod)))
                await self._tell_failure(pod, error)

        self._tasks.start_soon(survive)

    async def _tell_failure(self, pod: Object, error: Exception) -> None:
        text = f"Error syncing pod, it is tried again: {type(error).__name__}: {error}"
        await self._events.warning(pod, "FailedSync", text)

    async def _tell(self, record: Record, event: Message) -> None:
        """Write the Events of a process on its Pod."""
        process = event["process"]
        meta = process["meta"]
        name = meta["container"]
        if event["event"] == "started":
            await self._events.normal(record.pod, "Created", f"Created container: {name}")
            await self._events.normal(record.pod, "Started", f"Started container {name}")
        elif event["event"] == "exited" and process["last"].get("error"):
            await self._events.warning(record.pod, "Failed", f"Error: {process['last']['error']}")
        elif event["event"] == "backing-off" and event["delay_s"] >= BACKOFF_WORTH_AN_EVENT_S:
            pod = name_of(record.pod)
            text = (
                f"Back-off restarting failed container {name} in pod "
                f"{pod.name}_{pod.namespace}({meta['uid']})"
            )
            await self._events.warning(record.pod, "BackOff", text)

    def _affected_by(self, delta: Delta) -> list[ObjectName]:
        """Return the Pods that may have waited for a ConfigMap or Secret, or hold its files."""
        namespace = name_of(delta.current).namespace
        names = [name_of(r.pod) for r in self._records.values() if r.waiting or r.volumes]
        return [name for name in names if name.namespace == namespace]

    def _remember_placements(self) -> None:
        for pod in self._pods:
            typed = containers.typed(containers.complete(pod))
            placement = ports.read(typed) if typed else None
            if placement is not None:
                self._allocator.keep(placement)

    # One Pod.

    async def _reconcile(self, name: ObjectName) -> Result:
        if self._runtime.frozen:
            return DONE
        pod = self._pods.get(name)
        try:
            await self._end_others(name, pod["metadata"]["uid"] if pod else "")
            return await self._sync(containers.complete(pod)) if pod else DONE
        except Exception as error:
            # The controller logs it and tries again; who looks at the Pod is to know as well,
            # unless it is one of the refusals that are part of the day.
            if pod and not isinstance(error, (Conflict, NotFound, Unreachable)):
                await self._tell_failure(pod, error)
            raise

    async def _sync(self, pod: Object) -> Result:
        record = self._records.setdefault(pod["metadata"]["uid"], Record(pod))
        record.pod = pod
        if record.ending:
            return DONE
        if pod["metadata"].get("deletionTimestamp"):
            record.ending = True
            self._start_soon(pod, self._terminate, record)
            return DONE
        if (pod.get("status") or {}).get("phase") in TERMINAL:
            await self._finish(record)
            return DONE
        if await self._place(record):
            await self._start(record)
        return await self._write_status(record)

    async def _place(self, record: Record) -> bool:
        """Give the Pod its ports. False: they cannot be had now."""
        if record.placement is not None:
            return True
        typed = decode(record.pod, core.Pod)
        running = self._of(record)
        placement = ports.read(typed)
        if (
            placement is not None
            and not running
            and not all(map(ports.is_free_port, placement.allocated))
        ):
            self._allocator.release(placement)
            placement = None
        record.unscheduled = containers.why_refused(record.pod) or (
            "" if running else self._port_conflict(record, typed)
        )
        if record.unscheduled:
            await self._warn_once(record, "FailedScheduling", record.unscheduled)
            return False
        if placement is None:
            bundled = containers.bundled(record.pod)
            placement = ports.place(typed, self._run, self._allocator, on_sockets=bundled)
            await self._client.patch(
                POD,
                typed.object_name,
                {
                    "metadata": {
                        "uid": typed.metadata.uid,
                        "annotations": placement.annotations(),
                    },
                    # Who has a node is given time to end when it is deleted.
                    "spec": {"nodeName": NODE},
                },
            )
            text = f"Successfully assigned {typed.object_name} to {NODE}"
            self._start_soon(record.pod, self._events.normal, record.pod, "Scheduled", text)
        self._allocator.keep(placement)
        record.placement = placement
        for sentence in containers.ignored_fields(record.pod):
            await self._warn_once(record, "FieldIgnored", sentence)
        return True

    def _port_conflict(self, record: Record, typed: core.Pod) -> str:
        """Say why the fixed ports of a Pod cannot be had; "" if they can."""
        wanted = ports.host_ports(typed)
        for other in self._records.values():
            if other is record or other.placement is None:
                continue
            if shared := wanted & ports.host_ports(decode(other.pod, core.Pod)):
                return (
                    "0/1 nodes are available: 1 node(s) didn't have free ports for the requested "
                    f"pod ports. Port {min(shared)} belongs to Pod {name_of(other.pod)}."
                )
        for port in sorted(wanted):
            if why := ports.why_not_free(port):
                return (
                    "0/1 nodes are available: 1 node(s) didn't have free ports for the requested "
                    f"pod ports. {why}"
                )
        return ""

    async def _start(self, record: Record) -> None:
        """Start what is due and does not run yet."""
        record.waiting.clear()
        mounted = await self._fill_volumes(record)
        seen = self._observe(record)
        late = record.proxy_due is not None and anyio.current_time() >= record.proxy_due
        for container, init in start_order.due(
            record.pod,
            lambda name: self._of(record).get(name),
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
                    f"{PROXY_CONTAINER} {name_of(record.pod).name}"
                )
                await self._warn_once(record, "ProxyNotReady", text)
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
                await self._warn_once(record, "FailedMount", text)
            return record.volumes is not None
        for name, volume in wanted.items():
            if record.volumes is None or record.volumes.get(name) != volume:
                await anyio.to_thread.run_sync(volumes.write, volume)
        record.volumes = wanted
        return True

    async def _ensure(self, record: Record, container: Object, *, init: bool) -> None:
        """Start the process of a container if there is none of this version."""
        process = self._of(record).get(container["name"])
        if process and process["meta"]["fingerprint"] == containers.fingerprint(container):
            return
        try:
            made = self._maker.make(
                record.pod,
                container,
                record.placement or Placement(()),
                record.volumes or {},
                init=init,
            )
        except NotMadeError as error:
            record.waiting[container["name"]] = error.waiting
            await self._warn_once(record, error.event, str(error))
            return
        for sentence in made.elsewhere:
            await self._warn_once(record, "MountedElsewhere", sentence)
        # Nobody has to wait for an Event before its program starts.
        self._start_soon(record.pod, self._events.normal, record.pod, "Pulled", made.note)
        restarts = (
            process["restarts"] + 1 if process else restart_count(record.pod, container["name"])
        )
        try:
            await self._runtime.start({**made.definition, "restarts": restarts})
        except Refused as refusal:
            record.waiting[container["name"]] = Waiting("CreateContainerError", refusal.message)
            await self._warn_once(record, "Failed", f"Error: {refusal.message}")

    async def _write_status(self, record: Record) -> Result:
        seen = self._observe(record)
        status = status_of(record.pod, seen, self._now())
        old = record.pod.get("status") or {}
        changed = {key: value for key, value in status.items() if old.get(key) != value}
        if changed:
            await self._client.patch_status(POD, name_of(record.pod), changed)
        if record.unscheduled or record.waiting:
            return Result(requeue_after_s=RETRY_S)
        return self._when_the_proxy_is_late(record, seen)

    def _when_the_proxy_is_late(self, record: Record, seen: Observed) -> Result:
        wait_s = (record.proxy_due or 0.0) - anyio.current_time()
        waits = wait_s > 0 and PROXY_CONTAINER not in seen.ready
        return Result(requeue_after_s=wait_s) if waits else DONE

    def _observe(self, record: Record) -> Observed:
        if record.unscheduled:
            return Observed(unscheduled=record.unscheduled)
        processes = self._of(record)
        started, ready = set(), set()
        for container in _lasting(record.pod):
            name = container["name"]
            process = processes.get(name)
            if process is None or process["state"] != "running" or record.placement is None:
                self._prober.forget(containers.process_name(name_of(record.pod), name))
                continue
            found = self._prober.watch(
                process["name"],
                process["started_at"],
                self._subject(record, container, process),
            )
            started |= {name} if found.started else set()
            ready |= {name} if found.ready else set()
        return Observed(
            processes=processes,
            waiting=dict(record.waiting),
            started=frozenset(started),
            ready=frozenset(ready),
        )

    def _subject(self, record: Record, container: Object, process: Message) -> Subject:
        name = name_of(record.pod)

        async def run(command: Sequence[str]) -> tuple[int, str]:
            return await self._sessions.outcome(process, command)

        async def report(reason: str, message: str) -> None:
            await self._events.warning(record.pod, reason, message)

        async def fail() -> None:
            await self._runtime.fail(process["name"])

        return Subject(
            container=container,
            pid=process["pid"],
            placement=record.placement or Placement(()),
            run=run,
            changed=lambda: self._controller.queue.add(name),
            report=report,
            fail=fail,
        )

    # The end of a Pod.

    async def _finish(self, record: Record) -> None:
        """End what still runs of a Pod whose programs have done their work: sidecars."""
        if ended := await self._stop(record, REMOVED_GRACE_S):
            status = status_of(record.pod, Observed(processes=ended), self._now())
            await self._client.patch_status(POD, name_of(record.pod), status)
        self._release(record)

    async def _terminate(self, record: Record) -> None:
        """Let a Pod end gently, then let its object go."""
        try:
            await self._end(record)
        except Exception:
            record.ending = False
            self._controller.queue.retry(name_of(record.pod))
            raise

    async def _end(self, record: Record) -> None:
        name, uid = name_of(record.pod), record.pod["metadata"]["uid"]
        for process in self._of(record).values():
            if process["pid"]:
                text = f"Stopping container {process['meta']['container']}"
                await self._events.normal(record.pod, "Killing", text)
        grace_s = containers.grace_s(record.pod)
        if grace_s and record.placement and record.placement.places and self._of(record):
            await anyio.sleep(DRAIN_S)
        await self._stop(record, grace_s)
        self._release(record)
        await anyio.to_thread.run_sync(self._clean, record)
        # Refused if it was removed by force, and perhaps there is a new one of that name.
        with suppress(NotFound, Conflict):
            await self._client.delete(POD, name, uid=uid, grace_period_s=0)
        self._records.pop(uid, None)
        self._wake_unscheduled()

    async def _end_others(self, name: ObjectName, uid: str) -> None:
        """Stop what is left of earlier Pods of that name, whose objects are gone."""
        for record in [r for r in self._records.values() if name_of(r.pod) == name]:
            if record.pod["metadata"]["uid"] != uid and not record.ending:
                record.ending = True
                await self._stop(record, REMOVED_GRACE_S)
                self._release(record)
                await anyio.to_thread.run_sync(self._clean, record)
                self._records.pop(record.pod["metadata"]["uid"], None)
                self._wake_unscheduled()
        for process in self._runtime.named(name):
            owner = process["meta"]["uid"]
            if owner != uid and not self._ends(owner):
                await self._stop_process(process["name"], REMOVED_GRACE_S)

    def _ends(self, uid: str) -> bool:
        record = self._records.get(uid)
        return record is not None and record.ending

    async def _stop(self, record: Record, grace_s: float) -> dict[str, Message]:
        """Stop what runs of a Pod. Returns how each container ended."""
        processes = self._of(record)
        ended: dict[str, Message] = {}

        async def stop(container: str) -> None:
            process = processes[container]
            grace = min(grace_s, PROXY_GRACE_S) if container == PROXY_CONTAINER else grace_s
            ended[container] = await self._stop_process(process["name"], grace)

        for group in start_order.stop_order(record.pod):
            async with anyio.create_task_group() as tasks:
                for container in processes.keys() & set(group):
                    tasks.start_soon(stop, container)
        return ended

    async def _stop_process(self, name: str, grace_s: float) -> Message:
        self._prober.forget(name)
        return await self._runtime.stop(name, grace_s=grace_s)

    def _release(self, record: Record) -> None:
        if record.placement is not None:
            self._allocator.release(record.placement)
            record.placement = None

    def _clean(self, record: Record) -> None:
        name = name_of(record.pod)
        namesakes = [r for r in tuple(self._records.values()) if name_of(r.pod) == name]
        if namesakes in ([], [record]):
            shutil.rmtree(containers.pod_folder(self._folder, name), ignore_errors=True)
        if (typed := containers.typed(record.pod)) is None:
            return  # it never had any
        numbers = (str(p.container_port) for c in typed.spec.containers for p in c.ports)
        for purpose in ("admin", *numbers):
            ports.socket_of(typed, self._run, purpose).unlink(missing_ok=True)

    def _wake_unscheduled(self) -> None:
        for record in self._records.values():
            if record.unscheduled:
                self._controller.queue.add(name_of(record.pod))

    # Small things.

    def _of(self, record: Record) -> dict[str, Message]:
        return self._runtime.of(record.pod["metadata"]["uid"])

    async def _warn_once(self, record: Record, reason: str, message: str) -> None:
        if (said := f"{reason} {message}") not in record.told:
            record.told.add(said)
            await self._events.warning(record.pod, reason, message)


def _lasting(pod: Object) -> Iterator[Object]:
    """Yield the containers that are to run as long as the Pod."""
    spec = pod["spec"]
    yield from filter(start_order.is_sidecar, spec.get("initContainers") or [])
    yield from spec["containers"]
