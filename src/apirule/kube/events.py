"""Events on objects, as `kubectl describe` shows them; a repeated one raises a count instead."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import structlog

from apirule.apis.meta import GroupVersionKind, ObjectRef
from apirule.kube.client import Client
from apirule.kube.errors import ApiError, NotFound
from apirule.names import ObjectName, digest

log = structlog.get_logger(__name__)

EVENT = GroupVersionKind("", "v1", "Event")
REMEMBERED = 4096
MESSAGE_LIMIT = 1024
"""The API refuses longer messages."""

_Key = tuple[str, str, str, str]


class EventRecorder:
    """Writes Events. A failure to do so is logged and never stops the caller."""

    def __init__(self, client: Client, component: str, *, now: Callable[[], datetime]) -> None:
        self._client = client
        self._component = component
        self._now = now
        self._counts: OrderedDict[_Key, int] = OrderedDict()

    async def normal(self, obj: Mapping[str, Any], reason: str, message: str) -> None:
        await self._record(obj, "Normal", reason, message)

    async def warning(self, obj: Mapping[str, Any], reason: str, message: str) -> None:
        await self._record(obj, "Warning", reason, message)

    async def _record(self, obj: Mapping[str, Any], kind: str, reason: str, message: str) -> None:
        message = message[:MESSAGE_LIMIT]
        meta = obj["metadata"]
        uid = str(meta.get("uid") or "")
        key = (uid, kind, reason, message)
        count = self._counts.pop(key, 0) + 1
        self._counts[key] = count
        if len(self._counts) > REMEMBERED:
            self._counts.popitem(last=False)
        # Events of a cluster-scoped object live in the namespace "default".
        namespace = str(meta.get("namespace") or "default")
        name = ObjectName(namespace, f"{meta['name']}.{digest(self._component, *key)}")
        try:
            await self._write(obj, name, key, count)
        except ApiError as error:
            log.warning("event not recorded", name=str(name), reason=reason, error=str(error))

    async def _write(
        self,
        obj: Mapping[str, Any],
        name: ObjectName,
        key: _Key,
        count: int,
    ) -> None:
        _, kind, reason, message = key
        now = self._now().strftime("%Y-%m-%dT%H:%M:%SZ")
        if count > 1:
            try:
                await self._client.patch(EVENT, name, {"count": count, "lastTimestamp": now})
            except NotFound:
                # The server forgets Events after an hour; begin a new one.
                self._counts[key] = 1
            else:
                return
        ref = ObjectRef.of(obj)
        event = {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {"namespace": name.namespace, "name": name.name},
            "involvedObject": {
                "apiVersion": GroupVersionKind.of(obj).api_version,
                "kind": ref.kind,
                "namespace": ref.namespace,
                "name": ref.name,
                "uid": obj["metadata"].get("uid", ""),
                "resourceVersion": obj["metadata"].get("resourceVersion", ""),
            },
            "type": kind,
            "reason": reason,
            "message": message,
            "source": {"component": self._component},
            "reportingComponent": self._component,
            "reportingInstance": self._component,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        # By apply, because the name is derived: after a restart the Event may exist already.
        await self._client.apply(event)
