"""The APIGateway controller: the default Gateway is there if it is wanted, and goes only unused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import anyio
import msgspec
import structlog
from anyio.abc import TaskStatus

from apirule.apis import networking, scheme
from apirule.apis.gateway import v1alpha1, v2
from apirule.apis.meta import GroupVersionKind, Object, ObjectRef
from apirule.apis.operator import APIGateway, APIGatewayStatus
from apirule.kube.client import Client
from apirule.kube.controller import DONE, Controller, ControllerMetrics, Result, Source
from apirule.kube.errors import NotFound
from apirule.kube.events import EventRecorder
from apirule.kube.informer import Delta, Informers, name_of
from apirule.names import ObjectName
from apirule.translate import api_gateway
from apirule.translate.status import State

log = structlog.get_logger(__name__)

FINALIZER = "gateways.operator.kyma-project.io/api-gateway"
GATEWAY_FINALIZER = "gateways.operator.kyma-project.io/kyma-gateway"


class APIGatewayController:
    """``objects`` is what a default Gateway consists of: the Gateway and its VirtualService."""

    def __init__(
        self,
        client: Client,
        informers: Informers,
        *,
        objects: Sequence[Object],
        now: Callable[[], datetime],
        metrics: ControllerMetrics | None = None,
    ) -> None:
        self._client = client
        self._objects = objects
        self._now = now
        self._events = EventRecorder(client, "apirule-controller", now=now)
        self._gateways = informers.of(APIGateway.gvk)
        self._rules = informers.of(v2.APIRule.gvk)
        self._limits = informers.of(v1alpha1.RateLimit.gvk)
        self._routes = informers.of(networking.VirtualService.gvk)
        self._made = informers.of(networking.Gateway.gvk)
        made = frozenset(ObjectRef.of(obj) for obj in objects)

        def of_made(delta: Delta) -> Iterator[ObjectName]:
            if ObjectRef.of(delta.current) in made and _specs_differ(delta):
                yield from self._everybody()

        def of_gateway(delta: Delta) -> Iterator[ObjectName]:
            if _specs_differ(delta):
                yield from self._everybody()

        def of_user(delta: Delta) -> Iterator[ObjectName]:
            if _specs_differ(delta):
                yield from self._in_question()

        self._controller = Controller(
            "apigateway",
            self.reconcile,
            [
                # Whichever is the oldest counts, so each concerns all.
                Source(self._gateways, of_gateway),
                Source(self._rules, of_user),
                Source(self._limits, of_user),
                Source(self._routes, of_user),
                Source(self._routes, of_made),
                Source(self._made, of_made),
            ],
            workers=1,
            metrics=metrics,
        )

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Reconcile for ever. The informers must be run by somebody else."""
        await self._controller.run(task_status=task_status)

    async def reconcile(self, name: ObjectName) -> Result:
        """Make the cluster match one APIGateway. Raises ApiError; the work queue comes back."""
        obj = self._gateways.get(name)
        if obj is None:
            return DONE
        gateway = scheme.decode(obj, APIGateway)
        first = api_gateway.oldest(scheme.decode(one, APIGateway) for one in self._gateways)
        deleted = gateway.metadata.deletion_timestamp is not None
        if first is None or first.metadata.name != name.name:
            if deleted:
                await self._set_finalizers(obj, ())
                return DONE
            older = first.metadata.name if first is not None else ""
            await self._report(obj, api_gateway.not_the_oldest(gateway, older, self._now()))
        elif deleted:
            await self._delete(obj, gateway)
        elif gateway.spec.enable_kyma_gateway:
            obj = await self._set_finalizers(obj, (FINALIZER, GATEWAY_FINALIZER))
            for one in self._objects:
                if not self._stands(one):
                    await self._client.apply(one)
            await self._report(obj, api_gateway.ready(gateway, self._now()))
        else:
            await self._switch_off(obj, gateway)
        return DONE

    async def _switch_off(self, obj: Object, gateway: APIGateway) -> None:
        users = list(api_gateway.users(self._rules, self._routes))
        if users:
            await self._report(obj, api_gateway.kept(gateway, users, self._now()))
            return
        await self._take_away()
        obj = await self._set_finalizers(obj, (FINALIZER,))
        await self._report(obj, api_gateway.ready(gateway, self._now()))

    async def _delete(self, obj: Object, gateway: APIGateway) -> None:
        blockers = {
            *(ObjectRef.of(one) for informer in (self._rules, self._limits) for one in informer),
            *api_gateway.users(self._rules, self._routes),
        }
        if blockers:
            status = api_gateway.undeleted(gateway, sorted(blockers), self._now())
            await self._report(obj, status)
            return
        await self._take_away()
        await self._set_finalizers(obj, ())

    async def _take_away(self) -> None:
        for one in reversed(self._objects):
            try:
                await self._client.delete(GroupVersionKind.of(one), name_of(one))
            except NotFound:
                log.debug("already deleted", name=str(ObjectRef.of(one)))

    async def _set_finalizers(self, obj: Object, names: Sequence[str]) -> Object:
        """Leave exactly these of our finalizers; those of others stay."""
        meta = obj["metadata"]
        before = meta.get("finalizers") or []
        others = [one for one in before if one not in (FINALIZER, GATEWAY_FINALIZER)]
        wanted = [*others, *names]
        if before == wanted:
            return obj
        patch = {"metadata": {"finalizers": wanted, "resourceVersion": meta["resourceVersion"]}}
        return await self._client.patch(APIGateway.gvk, name_of(obj), patch)

    async def _report(self, obj: Object, status: APIGatewayStatus) -> None:
        # By way of JSON, so that tuples come out as the lists that the server hands back.
        body: Any = msgspec.json.decode(msgspec.json.encode(status))
        if _without_times(obj.get("status") or {}) == _without_times(body):
            return
        await self._client.patch_status(APIGateway.gvk, name_of(obj), body)
        log.info("status changed", name=str(name_of(obj)), state=status.state)
        reason = status.conditions[0].reason
        if status.state == State.READY:
            await self._events.normal(obj, reason, status.description)
        else:
            await self._events.warning(obj, reason, status.description)

    def _stands(self, wanted: Object) -> bool:
        """Say whether an object of ours is there, and as we want it."""
        gvk = GroupVersionKind.of(wanted)
        cache = self._made if gvk.kind == networking.Gateway.gvk.kind else self._routes
        actual = cache.get(name_of(wanted))
        return actual is not None and actual.get("spec") == wanted["spec"]

    def _everybody(self) -> Iterator[ObjectName]:
        return (name_of(one) for one in self._gateways)

    def _in_question(self) -> Iterator[ObjectName]:
        """Yield those that are to go or to be switched off: who uses the Gateway decides that."""
        for one in self._gateways:
            leaving = one["metadata"].get("deletionTimestamp")
            if leaving or not (one.get("spec") or {}).get("enableKymaGateway"):
                yield name_of(one)


def _specs_differ(delta: Delta) -> bool:
    old, new = delta.old, delta.new
    if old is None or new is None:
        return True
    return bool(_content(old) != _content(new))


def _content(obj: Object) -> object:
    return obj.get("spec"), obj["metadata"].get("deletionTimestamp")


def _without_times(status: Object) -> Object:
    """Return a status without when it came to be: the same again is no news."""
    conditions = [
        {key: value for key, value in one.items() if key != "lastTransitionTime"}
        for one in status.get("conditions") or []
    ]
    return {**status, "conditions": conditions}
