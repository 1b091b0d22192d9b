"""Makes Pods real: each container a process under the supervisor, each status what it does.

Knows Pods only through the Kubernetes API. What runs is asked of the supervisor, where a Pod was
put stands in its annotations; so a new control plane goes on where the old one ended, and
restarts nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import datetime
from functools import partial
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
from apirule.local.processes import containers, ports, start_order
from apirule.local.processes.client import SupervisorClient
from apirule.local.processes.making import Maker
from apirule.local.processes.pod_status import WHICH_ENDS, Observed, status_of
from apirule.local.processes.ports import Allocator, Placement
from apirule.local.processes.prober import Prober, Subject
from apirule.local.processes.protocol import Message
from apirule.local.processes.record import Record
from apirule.local.processes.runtime import Runtime
from apirule.local.processes.sessions import Sessions
from apirule.local.processes.starting import Starter
from apirule.local.processes.stopping import Stopper
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
        self._pods = informers.of(POD)
        sources = {kind.kind: informers.of(kind) for kind in (CONFIG_MAP, SECRET)}
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
        self._starter = Starter(
            Maker(pods, xds_socket, sources, domain=domain),
            self._runtime,
            self._events,
            aside=self._start_soon,
            proxy_within_s=proxy_within_s,
        )
        self._allocator = Allocator()
        self._records: dict[str, Record] = {}

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Work for ever. Started: all that runs is known, and all Pods have been looked at."""
        async with anyio.create_task_group() as tasks:
            self._tasks: TaskGroup = tasks
            self._prober = Prober(tasks)
            self._stopper = Stopper(self._runtime, self._prober, self._sessions, self._events)
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
            pod = record.name
            text = (
                f"Back-off restarting failed container {name} in pod "
                f"{pod.name}_{pod.namespace}({meta['uid']})"
            )
            await self._events.warning(record.pod, "BackOff", text)

    def _affected_by(self, delta: Delta) -> list[ObjectName]:
        """Return the Pods that may have waited for a ConfigMap or Secret, or hold its files."""
        namespace = name_of(delta.current).namespace
        names = [r.name for r in self._records.values() if r.waiting or r.volumes]
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
        if core.has_ended(pod):
            await self._finish(record)
            return DONE
        if await self._place(record):
            await self._starter.start(record, partial(self._observe, record))
        return await self._write_status(record)

    async def _place(self, record: Record) -> bool:
        """Give the Pod its ports. False: they cannot be had now."""
        if record.placement is not None:
            return True
        typed = decode(record.pod, core.Pod)
        running = self._runtime.of(record.uid)
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
            await record.warn_once(self._events, "FailedScheduling", record.unscheduled)
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
            await record.warn_once(self._events, "FieldIgnored", sentence)
        return True

    def _port_conflict(self, record: Record, typed: core.Pod) -> str:
        """Say why the fixed ports of a Pod cannot be had; "" if they can."""
        wanted = ports.host_ports(typed)
        for other in self._records.values():
            if other is record or other.placement is None:
                continue
            if shared := wanted & ports.host_ports(decode(other.pod, core.Pod)):
                end = f", {WHICH_ENDS}" if other.ending else "."
                return (
                    "0/1 nodes are available: 1 node(s) didn't have free ports for the requested "
                    f"pod ports. Port {min(shared)} belongs to Pod {other.name}{end}"
                )
        for port in sorted(wanted):
            if why := ports.why_not_free(port):
                return (
                    "0/1 nodes are available: 1 node(s) didn't have free ports for the requested "
                    f"pod ports. {why}"
                )
        return ""

    async def _write_status(self, record: Record) -> Result:
        seen = self._observe(record)
        status = status_of(record.pod, seen, self._now())
        old = record.pod.get("status") or {}
        changed = {key: value for key, value in status.items() if old.get(key) != value}
        if changed:
            await self._client.patch_status(POD, record.name, changed)
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
        processes = self._runtime.of(record.uid)
        started, ready = set(), set()
        for container in _lasting(record.pod):
            name = container["name"]
            process = processes.get(name)
            if process is None or process["state"] != "running" or record.placement is None:
                self._prober.forget(containers.process_name(record.name, name))
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
        name = record.name

        async def report(reason: str, message: str) -> None:
            await self._events.warning(record.pod, reason, message)

        async def fail() -> None:
            grace_s = containers.grace_s(record.pod)
            await self._stopper.fail(record, container["name"], grace_s)

        return Subject(
            container=container,
            pid=process["pid"],
            placement=record.placement or Placement(()),
            run=partial(self._sessions.outcome, process),
            changed=lambda: self._controller.queue.add(name),
            report=report,
            fail=fail,
        )

    # The end of a Pod.

    async def _finish(self, record: Record) -> None:
        """End what still runs of a Pod whose programs have done their work: sidecars."""
        if ended := await self._stopper.stop_all(record, REMOVED_GRACE_S):
            status = status_of(record.pod, Observed(processes=ended), self._now())
            await self._client.patch_status(POD, record.name, status)
        self._release(record)

    async def _terminate(self, record: Record) -> None:
        """Let a Pod end gently, then let its object go."""
        try:
            await self._end(record)
        except Exception:
            record.ending = False
            self._controller.queue.retry(record.name)
            raise

    async def _end(self, record: Record) -> None:
        name, uid = record.name, record.uid
        for process in self._runtime.of(record.uid).values():
            if process["pid"]:
                text = f"Stopping container {process['meta']['container']}"
                await self._events.normal(record.pod, "Killing", text)
        grace_s = containers.grace_s(record.pod)
        if (
            grace_s
            and record.placement
            and record.placement.places
            and self._runtime.of(record.uid)
        ):
            await anyio.sleep(DRAIN_S)
        await self._stopper.stop_all(record, grace_s)
        self._release(record)
        await anyio.to_thread.run_sync(self._clean, record)
        # Refused if it was removed by force, and perhaps there is a new one of that name.
        with suppress(NotFound, Conflict):
            await self._client.delete(POD, name, uid=uid, grace_period_s=0)
        self._records.pop(uid, None)
        self._wake_unscheduled()

    async def _end_others(self, name: ObjectName, uid: str) -> None:
        """Stop what is left of earlier Pods of that name, whose objects are gone."""
        for record in [r for r in self._records.values() if r.name == name]:
            if record.uid != uid and not record.ending:
                record.ending = True
                await self._stopper.stop_all(record, REMOVED_GRACE_S)
                self._release(record)
                await anyio.to_thread.run_sync(self._clean, record)
                self._records.pop(record.uid, None)
                self._wake_unscheduled()
        for process in self._runtime.named(name):
            owner = process["meta"]["uid"]
            if owner != uid and not self._ends(owner):
                await self._stopper.stop(process["name"], REMOVED_GRACE_S)

    def _ends(self, uid: str) -> bool:
        record = self._records.get(uid)
        return record is not None and record.ending

    def _release(self, record: Record) -> None:
        if record.placement is not None:
            self._allocator.release(record.placement)
            record.placement = None

    def _clean(self, record: Record) -> None:
        name = record.name
        namesakes = [r for r in tuple(self._records.values()) if r.name == name]
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
                self._controller.queue.add(record.name)


def _lasting(pod: Object) -> Iterator[Object]:
    """Yield the containers that are to run as long as the Pod."""
    spec = pod["spec"]
    yield from filter(start_order.is_sidecar, spec.get("initContainers") or [])
    yield from spec["containers"]
