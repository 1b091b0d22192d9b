"""The Deployment controller: one ReplicaSet for each template, sizes by ``rollout``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import structlog
from anyio.abc import TaskStatus

from apirule.apis import core
from apirule.apis.meta import GroupVersionKind, Object
from apirule.kube.client import Client
from apirule.kube.controller import DONE, Controller, ControllerMetrics, Result, Source
from apirule.kube.errors import AlreadyExists, NotFound
from apirule.kube.events import EventRecorder
from apirule.kube.informer import Delta, Informers, controller_of, name_of, owner_index
from apirule.local.workloads.rollout import (
    HASH_LABEL,
    REVISION,
    Limits,
    Size,
    limits_of,
    next_sizes,
    template_hash,
)
from apirule.names import ObjectName

log = structlog.get_logger(__name__)

DEPLOYMENT = GroupVersionKind("apps", "v1", "Deployment")
REPLICA_SET = GroupVersionKind("apps", "v1", "ReplicaSet")

_DEADLINE_S = 600
_HISTORY = 10
_NOT_COPIED = (REVISION, "kubectl.kubernetes.io/last-applied-configuration")


class Deployments:
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
        self._deployments = informers.of(DEPLOYMENT)
        self._replica_sets = informers.of(REPLICA_SET)
        self._replica_sets.add_index("owner", owner_index)
        self._pods = informers.of(core.Pod.gvk)
        self._pods.add_index("owner", owner_index)
        self._events = EventRecorder(client, "deployment-controller", now=now)
        self._controller = Controller(
            "deployment",
            self._reconcile,
            [
                Source(self._deployments),
                Source(self._replica_sets, _owner),
                Source(self._pods, self._waiting_for),
            ],
            base_delay_s=0.1,
            max_delay_s=30.0,
            metrics=metrics,
        )

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        await self._controller.run(task_status=task_status)

    def _waiting_for(self, delta: Delta) -> list[ObjectName]:
        """Return the Deployment that may have waited for the end of a Pod to make the next one."""
        replica_set_name = controller_of(delta.current, REPLICA_SET)
        rs = replica_set_name and self._replica_sets.get(replica_set_name)
        owner = controller_of(rs, DEPLOYMENT) if rs else None
        deployment = owner and self._deployments.get(owner)
        return [owner] if owner and deployment and limits_of(deployment["spec"]).recreate else []

    async def _reconcile(self, name: ObjectName) -> Result:
        deployment = self._deployments.get(name)
        if deployment is None or deployment["metadata"].get("deletionTimestamp"):
            return DONE
        owned = sorted(
            self._replica_sets.by_index("owner", deployment["metadata"]["uid"]), key=_age
        )
        spec = deployment["spec"]
        limits = limits_of(spec)
        hash_ = template_hash(spec["template"])
        new = next((rs for rs in owned if made_from(rs, hash_)), None)
        old = [rs for rs in owned if rs is not new]
        created = False
        if new is None and not spec.get("paused"):
            new = await self._create(deployment, owned, hash_)
            created = True
        if new is not None:
            await self._set_revision(deployment, new, old)
        if not spec.get("paused"):
            await self._scale(deployment, limits, new, old)
        elif len(owned) == 1:
            await self._resize(deployment, owned[0], limits.replicas)
        status = status_of(deployment, new, old, self._now(), created=created)
        if any((deployment.get("status") or {}).get(key) != status[key] for key in status):
            await self._client.patch_status(DEPLOYMENT, name, status)
        if _complete(status, deployment):
            await self._forget_history(spec, old)
            return DONE
        deadline_s = spec.get("progressDeadlineSeconds") or _DEADLINE_S
        return Result(requeue_after_s=float(deadline_s) + 1.0)

    async def _create(self, deployment: Object, owned: list[Object], hash_: str) -> Object:
        body = replica_set(deployment, hash_, revision=_newest(owned) + 1)
        try:
            return await self._client.create(body)
        except AlreadyExists:
            # The name depends on the template: mostly the cache has not seen ours yet.
            present = await self._client.get(REPLICA_SET, name_of(body))
            if deployment["metadata"]["uid"] not in owner_index(present):
                raise  # of a Deployment that was deleted; it is about to go
            return present

    async def _set_revision(self, deployment: Object, new: Object, old: list[Object]) -> None:
        """Keep the numbers of the templates; one that is used again, by an undo, gets a new one."""
        revision = _revision(new)
        if revision <= _newest(old):
            revision = _newest(old) + 1
            patch = {"metadata": {"annotations": {REVISION: str(revision)}}}
            await self._client.patch(REPLICA_SET, name_of(new), patch)
        if _revision(deployment) != revision:
            patch = {"metadata": {"annotations": {REVISION: str(revision)}}}
            await self._client.patch(DEPLOYMENT, name_of(deployment), patch)

    async def _scale(
        self, deployment: Object, limits: Limits, new: Object | None, old: list[Object]
    ) -> None:
        if new is None:
            return
        sizes = next_sizes(limits, self._size(new), [self._size(rs) for rs in old])
        for rs in (new, *old):
            if rs["metadata"]["name"] in sizes:
                await self._resize(deployment, rs, sizes[rs["metadata"]["name"]])

    def _size(self, rs: Object) -> Size:
        # A ReplicaSet does not count a Pod that is ending, but such a Pod still has its ports.
        left = [
            p for p in self._pods.by_index("owner", rs["metadata"]["uid"]) if not core.has_ended(p)
        ]
        return Size(
            name=rs["metadata"]["name"],
            wanted=int(rs["spec"].get("replicas", 1)),
            present=max(_present(rs), len(left)),
            available=int((rs.get("status") or {}).get("availableReplicas") or 0),
        )

    async def _resize(self, deployment: Object, rs: Object, replicas: int) -> None:
        before = rs["spec"].get("replicas", 1)
        if before == replicas:
            return
        version = rs["metadata"]["resourceVersion"]
        # With the version, so that a decision made on an old picture is not carried out.
        patch = {"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}}
        await self._client.patch(REPLICA_SET, name_of(rs), patch)
        direction = "up" if replicas > before else "down"
        text = (
            f"Scaled {direction} replica set {rs['metadata']['name']} from {before} to {replicas}"
        )
        await self._events.normal(deployment, "ScalingReplicaSet", text)

    async def _forget_history(self, spec: Mapping[str, Any], old: list[Object]) -> None:
        limit = spec.get("revisionHistoryLimit", _HISTORY)
        idle = [rs for rs in old if not rs["spec"].get("replicas") and not _present(rs)]
        for rs in sorted(idle, key=_revision)[: max(0, len(idle) - limit)]:
            try:
                await self._client.delete(REPLICA_SET, name_of(rs), uid=rs["metadata"]["uid"])
            except NotFound:
                log.debug("replica set was gone", name=str(name_of(rs)))


def replica_set(deployment: Object, hash_: str, *, revision: int) -> Object:
    """Return the ReplicaSet of a Deployment's template, still without Pods."""
    meta, spec = deployment["metadata"], deployment["spec"]
    template = spec["template"]
    labels = {**((template.get("metadata") or {}).get("labels") or {}), HASH_LABEL: hash_}
    selector = spec["selector"]
    annotations = {
        key: value
        for key, value in (meta.get("annotations") or {}).items()
        if key not in _NOT_COPIED
    }
    return {
        "apiVersion": REPLICA_SET.api_version,
        "kind": REPLICA_SET.kind,
        "metadata": {
            "name": f"{meta['name']}-{hash_}",
            "namespace": meta["namespace"],
            "labels": labels,
            "annotations": annotations | {REVISION: str(revision)},
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": {
            "replicas": 0,
            "minReadySeconds": spec.get("minReadySeconds", 0),
            "selector": {
                **selector,
                "matchLabels": {**(selector.get("matchLabels") or {}), HASH_LABEL: hash_},
            },
            "template": {
                **template,
                "metadata": {**(template.get("metadata") or {}), "labels": labels},
            },
        },
    }


def made_from(rs: Object, hash_: str) -> bool:
    """Tell whether a ReplicaSet is that of a template.

    Its own hash is that of the template as it was: a default that came with a new version of
    apirule changes the template and is no reason to replace the Pods.
    """
    if _hash(rs) == hash_:
        return True
    template = rs["spec"]["template"]
    metadata = template.get("metadata") or {}
    labels = {k: v for k, v in (metadata.get("labels") or {}).items() if k != HASH_LABEL}
    return template_hash({**template, "metadata": {**metadata, "labels": labels}}) == hash_


def owner_reference(owner: Object) -> Object:
    gvk = GroupVersionKind.of(owner)
    return {
        "apiVersion": gvk.api_version,
        "kind": gvk.kind,
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def status_of(
    deployment: Object,
    new: Object | None,
    old: Sequence[Object],
    now: datetime,
    *,
    created: bool = False,
) -> Object:
    """Return the status that ``kubectl rollout status`` reads."""
    every = [rs for rs in (new, *old) if rs is not None]
    wanted = sum(int(rs["spec"].get("replicas", 1)) for rs in every)
    available = _sum(every, "availableReplicas")
    status: Object = {
        "observedGeneration": deployment["metadata"].get("generation", 1),
        "replicas": _sum(every, "replicas"),
        "updatedReplicas": _sum([new] if new else [], "replicas"),
        "readyReplicas": _sum(every, "readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": max(0, wanted - available),
    }
    before = deployment.get("status") or {}
    moved = created or any(before.get(key) != value for key, value in status.items())
    status["conditions"] = [
        _available(deployment, available, before, now),
        _progressing(deployment, new, status, before, now, moved=moved, created=created),
    ]
    return status


def _available(deployment: Object, available: int, before: Object, now: datetime) -> Object:
    limits = limits_of(deployment["spec"])
    enough = available >= limits.replicas - limits.unavailable
    reason = "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable"
    has = "has" if enough else "does not have"
    return _condition(
        ("Available", enough, reason, f"Deployment {has} minimum availability."), before, now
    )


def _progressing(
    deployment: Object,
    new: Object | None,
    status: Object,
    before: Object,
    now: datetime,
    *,
    moved: bool,
    created: bool,
) -> Object:
    if new is None:
        return _condition(
            ("Progressing", True, "DeploymentPaused", "Deployment is paused"), before, now
        )
    name = new["metadata"]["name"]
    if _complete(status, deployment):
        text = f'ReplicaSet "{name}" has successfully progressed.'
        found = ("Progressing", True, "NewReplicaSetAvailable", text)
    elif created:
        found = ("Progressing", True, "NewReplicaSetCreated", f'Created new replica set "{name}"')
    elif not moved and _is_late(deployment, before, now):
        text = f'ReplicaSet "{name}" has timed out progressing.'
        found = ("Progressing", False, "ProgressDeadlineExceeded", text)
    else:
        text = f'ReplicaSet "{name}" is progressing.'
        found = ("Progressing", True, "ReplicaSetUpdated", text)
    return _condition(found, before, now, moved=moved)


def _is_late(deployment: Object, before: Object, now: datetime) -> bool:
    known = _known(before, "Progressing")
    if known.get("reason") == "ProgressDeadlineExceeded":
        return True
    if known.get("reason") == "NewReplicaSetAvailable" or not known.get("lastUpdateTime"):
        return False
    deadline_s = deployment["spec"].get("progressDeadlineSeconds") or _DEADLINE_S
    since = datetime.fromisoformat(known["lastUpdateTime"])
    return now - since > timedelta(seconds=deadline_s)


def _complete(status: Object, deployment: Object) -> bool:
    desired = limits_of(deployment["spec"]).replicas
    counts = ("updatedReplicas", "replicas", "availableReplicas")
    return all(status[count] == desired for count in counts)


def _condition(
    found: tuple[str, bool, str, str], before: Object, now: datetime, *, moved: bool = False
) -> Object:
    kind, holds, reason, message = found
    known = _known(before, kind)
    time = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    status = "True" if holds else "False"
    same = known.get("status") == status
    unchanged = same and known.get("reason") == reason and not moved
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastUpdateTime": known["lastUpdateTime"] if unchanged else time,
        "lastTransitionTime": known["lastTransitionTime"] if same else time,
    }


def _known(status: Object, kind: str) -> Mapping[str, Any]:
    return next((c for c in status.get("conditions") or [] if c.get("type") == kind), {})


def _owner(delta: Delta) -> Iterable[ObjectName]:
    owner = controller_of(delta.current, DEPLOYMENT)
    return () if owner is None else (owner,)


def _present(rs: Object) -> int:
    return int((rs.get("status") or {}).get("replicas") or 0)


def _sum(sets: Iterable[Object], count: str) -> int:
    return sum(int((rs.get("status") or {}).get(count) or 0) for rs in sets)


def _hash(rs: Object) -> str:
    return str((rs["metadata"].get("labels") or {}).get(HASH_LABEL, ""))


def _revision(obj: Object) -> int:
    text = (obj["metadata"].get("annotations") or {}).get(REVISION, "0")
    return int(text) if text.isdecimal() else 0


def _newest(sets: Iterable[Object]) -> int:
    return max((_revision(rs) for rs in sets), default=0)


def _age(obj: Object) -> tuple[str, str]:
    return obj["metadata"].get("creationTimestamp") or "", obj["metadata"]["name"]
