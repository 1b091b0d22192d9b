"""The ReplicaSet controller: as many Pods as asked for, neither more nor fewer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import anyio
import structlog
from anyio.abc import TaskStatus

from apirule.apis import core
from apirule.apis.meta import Object
from apirule.kube.client import Client
from apirule.kube.controller import DONE, Controller, ControllerMetrics, Result, Source
from apirule.kube.errors import ApiError, NotFound
from apirule.kube.events import EventRecorder
from apirule.kube.informer import Delta, Informers, controller_of, name_of, owner_index
from apirule.local.workloads.deployment import REPLICA_SET, owner_reference
from apirule.names import ObjectName

log = structlog.get_logger(__name__)

POD = core.Pod.gvk

EXPECTED_WITHIN_S = 10.0
"""A Pod we made or deleted and whose change the cache has not shown by now was lost."""


@dataclass
class _Expected:
    """What we did and the cache may not know yet, by Pod, with the time until it is believed."""

    created: dict[ObjectName, float] = field(default_factory=dict)
    deleted: dict[str, float] = field(default_factory=dict)


class ReplicaSets:
    def __init__(
        self,
        client: Client,
        informers: Informers,
        *,
        now: Callable[[], datetime],
        metrics: ControllerMetrics | None = None,
    ) -> None:
        self._client = client
        self._now = now
        self._sets = informers.of(REPLICA_SET)
        self._pods = informers.of(POD)
        self._pods.add_index("owner", owner_index)
        self._expected: dict[str, _Expected] = {}
        self._events = EventRecorder(client, "replicaset-controller", now=now)
        self._controller = Controller(
            "replicaset",
            self._reconcile,
            [Source(self._sets), Source(self._pods, _owner)],
            base_delay_s=0.1,
            max_delay_s=30.0,
            metrics=metrics,
        )

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        await self._controller.run(task_status=task_status)

    async def _reconcile(self, name: ObjectName) -> Result:
        rs = self._sets.get(name)
        if rs is None or rs["metadata"].get("deletionTimestamp"):
            present = {one["metadata"]["uid"] for one in self._sets}
            self._expected = {k: v for k, v in self._expected.items() if k in present}
            return DONE
        uid = rs["metadata"]["uid"]
        expected = self._expected.setdefault(uid, _Expected())
        pods = [pod for pod in self._pods.by_index("owner", uid) if is_active(pod)]
        self._settle(expected, pods)
        pods = [pod for pod in pods if pod["metadata"]["uid"] not in expected.deleted]
        wanted = int(rs["spec"].get("replicas", 1))
        missing = wanted - len(pods) - len(expected.created)
        try:
            for _ in range(missing):
                await self._create(rs, expected)
            for pod in first_to_go(pods)[: max(0, -missing)]:
                await self._delete(rs, pod, expected)
        finally:
            # Also when a creation was refused: whoever asks sees what is there.
            pause_s = await self._write_status(rs, pods)
        if expected.created or expected.deleted:
            return Result(requeue_after_s=EXPECTED_WITHIN_S)
        return Result(requeue_after_s=pause_s)

    def _settle(self, expected: _Expected, pods: list[Object]) -> None:
        """Forget what the cache shows by now, or never will."""
        now = anyio.current_time()
        seen = {name_of(pod) for pod in self._pods}
        expected.created = {
            name: until
            for name, until in expected.created.items()
            if name not in seen and until > now
        }
        active = {pod["metadata"]["uid"] for pod in pods}
        expected.deleted = {
            uid: until for uid, until in expected.deleted.items() if uid in active and until > now
        }

    async def _create(self, rs: Object, expected: _Expected) -> None:
        try:
            pod = await self._client.create(pod_of(rs))
        except ApiError as error:
            await self._events.warning(rs, "FailedCreate", f"Error creating: {error}")
            raise
        expected.created[name_of(pod)] = anyio.current_time() + EXPECTED_WITHIN_S
        text = f"Created pod: {pod['metadata']['name']}"
        await self._events.normal(rs, "SuccessfulCreate", text)

    async def _delete(self, rs: Object, pod: Object, expected: _Expected) -> None:
        uid = pod["metadata"]["uid"]
        expected.deleted[uid] = anyio.current_time() + EXPECTED_WITHIN_S
        try:
            await self._client.delete(POD, name_of(pod), uid=uid)
        except NotFound:
            return
        text = f"Deleted pod: {pod['metadata']['name']}"
        await self._events.normal(rs, "SuccessfulDelete", text)

    async def _write_status(self, rs: Object, pods: list[Object]) -> float | None:
        """Write the counts. Returns after how many seconds one of them changes by itself."""
        pause = timedelta(seconds=rs["spec"].get("minReadySeconds") or 0)
        ready = [since for pod in pods if (since := ready_since(pod)) is not None]
        waits = [since + pause - self._now() for since in ready]
        status = {
            "replicas": len(pods),
            "fullyLabeledReplicas": len(pods),
            "readyReplicas": len(ready),
            "availableReplicas": sum(not pause or wait <= timedelta() for wait in waits),
            "observedGeneration": rs["metadata"].get("generation", 1),
        }
        old = rs.get("status") or {}
        if any(old.get(key, 0) != value for key, value in status.items()):
            await self._client.patch_status(REPLICA_SET, name_of(rs), status)
        later = [wait.total_seconds() for wait in waits if pause and wait > timedelta()]
        return min(later, default=None)


def is_active(pod: Object) -> bool:
    """Say whether a Pod counts: it has not ended and is not about to."""
    return not core.has_ended(pod) and not pod["metadata"].get("deletionTimestamp")


def ready_since(pod: Object) -> datetime | None:
    """Return since when a Pod is ready; None: it is not."""
    for condition in (pod.get("status") or {}).get("conditions") or []:
        if condition["type"] == "Ready" and condition["status"] == "True":
            return datetime.fromisoformat(condition["lastTransitionTime"])
    return None


def first_to_go(pods: Iterable[Object]) -> list[Object]:
    """Order Pods for a scale-down: those that serve nobody, then the newest."""
    youngest_first = sorted(
        pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")), reverse=True
    )
    return sorted(youngest_first, key=lambda pod: ready_since(pod) is not None)


def pod_of(rs: Object) -> Object:
    """Return one more Pod of a ReplicaSet; the API server completes its name."""
    template = rs["spec"]["template"]
    meta = template.get("metadata") or {}
    copied = {key: meta[key] for key in ("labels", "annotations", "finalizers") if meta.get(key)}
    return {
        "apiVersion": POD.api_version,
        "kind": POD.kind,
        "metadata": {
            **copied,
            "generateName": f"{rs['metadata']['name']}-",
            "namespace": rs["metadata"]["namespace"],
            "ownerReferences": [owner_reference(rs)],
        },
        "spec": template["spec"],
    }


def _owner(delta: Delta) -> Iterable[ObjectName]:
    owner = controller_of(delta.current, REPLICA_SET)
    return () if owner is None else (owner,)
