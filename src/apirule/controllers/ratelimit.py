"""The RateLimit controller: one EnvoyFilter of the same name for each RateLimit.

Pods, other RateLimits, the APIGateway and the EnvoyFilter itself are watched, so nothing is asked
again by the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TypeVar

import anyio
import msgspec
import structlog
from anyio.abc import TaskStatus

from apirule.apis import core, operator, scheme
from apirule.apis.envoy_filter import EnvoyFilter
from apirule.apis.gateway.v1alpha1 import RateLimit, RateLimitStatus
from apirule.apis.meta import Object, Resource
from apirule.controllers.triggers import NAMESPACE, namespace_index
from apirule.kube.client import Client
from apirule.kube.controller import DONE, Controller, ControllerMetrics, Result, Source
from apirule.kube.events import EventRecorder
from apirule.kube.informer import Delta, Informers, name_of
from apirule.names import ObjectName
from apirule.translate import api_gateway, rate_limit
from apirule.translate.status import NOT_REPORTED, State, enforcement

log = structlog.get_logger(__name__)

R = TypeVar("R", bound=Resource)

CRD = "envoyfilters.networking.istio.io"


class RateLimitController:
    """Hand ``informers`` the same set that other controllers use; run it beside them."""

    def __init__(
        self,
        client: Client,
        informers: Informers,
        *,
        now: Callable[[], datetime],
        engine_reports: bool = True,
        metrics: ControllerMetrics | None = None,
    ) -> None:
        """``engine_reports``: the engine says on its objects what its proxies have (ours does)."""
        self._client = client
        self._engine_reports = engine_reports
        self._events = EventRecorder(client, "apirule-controller", now=now)
        self._limits = informers.of(RateLimit.gvk)
        self._filters = informers.of(EnvoyFilter.gvk)
        self._gateways = informers.of(operator.APIGateway.gvk)
        self._pods = informers.of(core.Pod.gvk)
        self._limits.add_index(NAMESPACE, namespace_index)
        self._pods.add_index(NAMESPACE, namespace_index)
        self._filters.on_state_change(self._look_at_all)
        self._controller = Controller(
            "ratelimit",
            self.reconcile,
            [
                # Two that select the same Pods are in each other's way.
                Source(self._limits, self._neighbours),
                Source(self._pods, self._neighbours),
                Source(self._gateways, self._everybody),
                Source(self._filters),
            ],
            metrics=metrics,
        )

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Reconcile for ever. The informers must be run by somebody else."""
        await self._controller.run(task_status=task_status)

    async def reconcile(self, name: ObjectName) -> Result:
        """Make the cluster match one RateLimit. Raises ApiError; the work queue comes back."""
        obj = self._limits.get(name)
        if obj is None or obj["metadata"].get("deletionTimestamp"):
            # What it owns goes with it.
            return DONE
        try:
            limit = scheme.decode(obj, RateLimit)
        except msgspec.ValidationError as error:
            await self._report(obj, rate_limit.failed(str(error)))
            return DONE
        await self._report(obj, await self._make(limit))
        return DONE

    async def _make(self, limit: RateLimit) -> RateLimitStatus:
        """Write what it asks for; return what has become of it."""
        if self._filters.missing:
            return rate_limit.missing_dependency(CRD)
        waiting = rate_limit.awaited_gateway(self._gateway())
        if waiting is not None:
            return waiting
        namespace = limit.metadata.namespace
        pods = _decoded(self._pods.by_index(NAMESPACE, namespace), core.Pod)
        others = _decoded(self._limits.by_index(NAMESPACE, namespace), RateLimit)
        outcome = rate_limit.translate(limit, pods, others)
        enforced = NOT_REPORTED
        if outcome.resource is not None:
            written = await self._write(limit, outcome.resource)
            if written is None:
                return rate_limit.failed(
                    f"EnvoyFilter {limit.object_name} exists and does not belong to this RateLimit"
                )
            if self._engine_reports:
                enforced = enforcement([written])
        return rate_limit.status_of(outcome, enforced)

    async def _write(self, limit: RateLimit, wanted: EnvoyFilter) -> Object | None:
        """Return the EnvoyFilter as it is now; None if somebody else's has its name."""
        obj = scheme.encode(wanted)
        actual = self._filters.get(limit.object_name)
        if actual is None:
            log.info("change applied", rule=str(limit.object_name), change="Create EnvoyFilter")
            return await self._client.create(obj)
        owners = actual["metadata"].get("ownerReferences") or []
        if limit.metadata.uid not in {one.get("uid") for one in owners}:
            return None
        if actual.get("spec") == obj["spec"]:
            return actual
        log.info("change applied", rule=str(limit.object_name), change="Update EnvoyFilter")
        return await self._client.update({**actual, "spec": obj["spec"]})

    async def _report(self, obj: Object, status: RateLimitStatus) -> None:
        before = obj.get("status") or {}
        if (before.get("state"), before.get("description")) == (status.state, status.description):
            return
        body = {"state": str(status.state), "description": status.description}
        await self._client.patch_status(RateLimit.gvk, name_of(obj), body)
        log.info("status changed", rule=str(name_of(obj)), state=body["state"])
        if status.state == State.READY:
            await self._events.normal(obj, "Reconciled", status.description)
        elif status.state != State.PROCESSING:
            await self._events.warning(obj, str(status.state), status.description)

    def _gateway(self) -> operator.APIGateway | None:
        """Return the APIGateway that counts: the oldest one."""
        return api_gateway.oldest(_decoded(list(self._gateways), operator.APIGateway))

    def _neighbours(self, delta: Delta) -> Iterator[ObjectName]:
        if delta.old is None or delta.new is None or _content(delta.old) != _content(delta.new):
            namespace = name_of(delta.current).namespace
            yield from (name_of(one) for one in self._limits.by_index(NAMESPACE, namespace))

    def _everybody(self, _: Delta) -> Iterator[ObjectName]:
        yield from (name_of(one) for one in self._limits)

    def _look_at_all(self) -> None:
        for one in self._limits:
            self._controller.queue.add(name_of(one))


def _content(obj: Object) -> object:
    meta = obj["metadata"]
    return obj.get("spec"), meta.get("labels"), meta.get("deletionTimestamp")


def _decoded(objects: list[Object], kind: type[R]) -> list[R]:
    found = []
    for obj in objects:
        try:
            found.append(scheme.decode(obj, kind))
        except msgspec.ValidationError as error:
            log.warning("object not read", name=str(name_of(obj)), error=str(error))
    return found
