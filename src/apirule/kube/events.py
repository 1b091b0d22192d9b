"""Events on objects, as `kubectl describe` shows them; a repeated one raises a count instead."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec
import structlog

from apirule.apis.meta import GroupVersionKind, ObjectRef
from apirule.kube.client import Client
from apirule.kube.errors import ApiError, NotFound
from apirule.names import ObjectName

log = structlog.get_logger(__name__)

EVENT = GroupVersionKind("", "v1", "Event")
REMEMBERED = 4096
MESSAGE_LIMIT = 1024
"""The API refuses longer messages."""

_Key = tuple[str, str, str, str]


class _Seen(msgspec.Struct):
    """An Event that was written, and how often it happened."""

    name: ObjectName
    count: int = 0


class EventRecorder:
    """Writes Events. A failure to do so is logged and never stops the caller.

    Their names are in the order of time, as those that happen in one second are told apart by them.
    """

    def __init__(self, client: Client, component: str, *, now: Callable[[], datetime]) -> None:
        self._client = client
        self._component = component
        self._now = now
        self._seen: OrderedDict[_Key, _Seen] = OrderedDict()
        self._last_us = 0

    async def normal(self, obj: Mapping[str, Any], reason: str, message: str) -> None:
        await self._record(obj, "Normal", reason, message)

    async def warning(self, obj: Mapping[str, Any], reason: str, message: str) -> None:
        await self._record(obj, "Warning", reason, message)

    async def _record(self, obj: Mapping[str, Any], kind: str, reason: str, message: str) -> None:
        message = message[:MESSAGE_LIMIT]
        meta = obj["metadata"]
        uid = str(meta.get("uid") or "")
        key = (uid, kind, reason, message)
        seen = self._seen.pop(key, None) or _Seen(self._new_name(meta))
        seen.count += 1
        self._seen[key] = seen
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        try:
            await self._write(obj, key, seen)
        except ApiError as error:
            log.warning("event not recorded", name=str(seen.name), reason=reason, error=str(error))

    def _new_name(self, meta: Mapping[str, Any]) -> ObjectName:
        self._last_us = max(self._last_us + 1, int(self._now().timestamp() * 1_000_000))
        # Events of a cluster-scoped object live in the namespace "default".
        namespace = str(meta.get("namespace") or "default")
        return ObjectName(namespace, f"{meta['name']}.{self._last_us:x}")

    async def _write(self, obj: Mapping[str, Any], key: _Key, seen: _Seen) -> None:
        _, kind, reason, message = key
        now = self._now().strftime("%Y-%m-%dT%H:%M:%SZ")
        if seen.count > 1:
            try:
                change = {"count": seen.count, "lastTimestamp": now}
                await self._client.patch(EVENT, seen.name, change)
            except NotFound:
                # The server forgets Events after an hour; begin a new one.
                seen.name, seen.count = self._new_name(obj["metadata"]), 1
            else:
                return
        ref = ObjectRef.of(obj)
        event = {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {"namespace": seen.name.namespace, "name": seen.name.name},
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
        await self._client.create(event)
