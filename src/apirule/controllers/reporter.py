"""Tells how an APIRule stands: in its status, and in Events when that is something new."""

from __future__ import annotations

from typing import Any

import msgspec
import structlog

from apirule.apis.gateway import v2
from apirule.apis.meta import Condition, Object
from apirule.kube.ahead import Ahead
from apirule.kube.client import Client
from apirule.kube.events import EventRecorder
from apirule.names import ObjectName
from apirule.translate.status import ADVICE, State

log = structlog.get_logger(__name__)


class Reporter:
    """``ahead`` learns what is written, before the watch tells it."""

    def __init__(self, client: Client, ahead: Ahead, events: EventRecorder) -> None:
        self._client = client
        self._ahead = ahead
        self._events = events
        self._written: dict[ObjectName, v2.APIRuleStatus] = {}

    async def report(self, obj: Object, rule: v2.APIRule, status: v2.APIRuleStatus) -> None:
        """Write the status if it says anything new; the time alone is nothing new. ApiError."""
        name, before = rule.object_name, rule.status
        same_time = msgspec.structs.replace(status, last_processed_time=before.last_processed_time)
        if same_time == before:
            self._written[name] = before
            return
        # Noted before it is written: the watch may tell of it first.
        self._written[name] = status
        body: Any = msgspec.to_builtins(status)
        version = obj["metadata"]["resourceVersion"]
        patch = {"metadata": {"resourceVersion": version}, "status": body}
        written = await self._client.patch(v2.APIRule.gvk, name, patch, subresource="status")
        self._ahead.wrote(name, obj, written)
        log.info("status changed", rule=str(name), state=status.state)
        await self._tell(obj, before, status)

    def wrote(self, rule: v2.APIRule) -> bool:
        """Say whether the status of a rule is what we have written, or are about to write."""
        return self._written.get(rule.object_name) == rule.status

    def forget(self, name: ObjectName) -> None:
        self._written.pop(name, None)

    async def _tell(self, obj: Object, before: v2.APIRuleStatus, status: v2.APIRuleStatus) -> None:
        enforced = _enforced(status)
        if (status.state, status.description) == (before.state, before.description):
            if enforced.message != _enforced(before).message:
                await self._advise(obj, enforced)
            return
        match status.state:
            case State.READY:
                await self._events.normal(obj, "Reconciled", status.description)
                await self._advise(obj, enforced)
            case State.WARNING | State.ERROR:
                await self._events.warning(obj, enforced.reason, status.description)
            case _:
                pass  # it is being worked on

    async def _advise(self, obj: Object, enforced: Condition) -> None:
        """Tell what the engine has to say of a rule that it serves all the same."""
        if enforced.reason == ADVICE:
            await self._events.warning(obj, enforced.reason, enforced.message)


def _enforced(status: v2.APIRuleStatus) -> Condition:
    empty = Condition(type="Enforced", status="")
    return next((one for one in status.conditions if one.type == empty.type), empty)
