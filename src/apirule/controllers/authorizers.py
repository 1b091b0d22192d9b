"""The controller of Kyma's Istio resource: puts its authorizers into the mesh configuration.

There is one ConfigMap to write and all Istio resources decide what it holds, so there is one name
in the queue. A pass looks at everything there is; nothing is to be done when a resource goes but
to look again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import anyio
import msgspec
import structlog
from anyio.abc import TaskStatus

from apirule import providers
from apirule.apis import scheme
from apirule.apis.meta import Condition, Object
from apirule.apis.operator import Authorizer, Istio, IstioStatus
from apirule.controllers.cluster import mesh_config
from apirule.kube.client import Client
from apirule.kube.controller import DONE, Controller, ControllerMetrics, Result, Source
from apirule.kube.informer import Delta, Informers, name_of
from apirule.names import ObjectName
from apirule.problem import ROOT, Problem, Reason
from apirule.translate.mesh_config import NAMESPACE, fill, leading, unknown_fields

log = structlog.get_logger(__name__)

READY, WARNING, ERROR = "Ready", "Warning", "Error"


class AuthorizerController:
    """Hand ``informers`` the same set that other controllers use; run it beside them."""

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
        self._istios = informers.of(Istio.gvk)
        self._config_maps = mesh_config(informers)
        self._controller = Controller(
            "authorizers",
            self.reconcile,
            [Source(self._istios, _the_one), Source(self._config_maps, _the_one)],
            workers=1,
            metrics=metrics,
        )

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Reconcile for ever. The informers must be run by somebody else."""
        await self._controller.run(task_status=task_status)

    async def reconcile(self, name: ObjectName) -> Result:
        """Make the ConfigMap hold the authorizers. Raises ApiError; the work queue comes back."""
        objects = {name_of(obj): obj for obj in self._istios if not _is_going(obj)}
        read = {key: _read(obj) for key, obj in objects.items()}
        first = leading([istio for istio, _ in read.values()])
        for key, (istio, broken) in read.items():
            if first is None or istio.object_name != first.object_name:
                await self._report(objects[key], istio, WARNING, _other(first))
            elif broken is not None:
                await self._report(objects[key], istio, ERROR, str(broken))
            else:
                await self._fill(name, objects[key], istio)
        if first is None:
            await self._write(name, ())
        return DONE

    async def _fill(self, name: ObjectName, obj: Object, istio: Istio) -> None:
        wanted = istio.spec.config.authorizers if istio.spec.config else ()
        problems = await self._write(name, wanted)
        if problems:
            await self._report(obj, istio, ERROR, _text(problems))
            return
        unknown = tuple(unknown_fields(obj))
        if unknown:
            await self._report(obj, istio, WARNING, _text(unknown))
        else:
            await self._report(obj, istio, READY, "Reconciled successfully")

    async def _write(self, name: ObjectName, wanted: Sequence[Authorizer]) -> tuple[Problem, ...]:
        existing = self._config_maps.get(name)
        if existing is None and not wanted:
            return ()
        filled = fill(existing, wanted)
        if filled.config_map is not None:
            if existing is None:
                await self._client.create(filled.config_map)
            else:
                await self._client.update(filled.config_map)
            log.info("authorizers written", name=str(name), count=len(wanted))
        return filled.problems

    async def _report(self, obj: Object, istio: Istio, state: str, description: str) -> None:
        """Write the status if it says anything new."""
        before = istio.status
        last = next(iter(before.conditions), None)
        verdict = "True" if state == READY else "False"
        now = self._now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        same = last is not None and last.status == verdict
        status = IstioStatus(
            state=state,
            description=description,
            observed_generation=istio.metadata.generation,
            conditions=(
                Condition(
                    type="Ready",
                    status=verdict,
                    reason="Reconciled" if state == READY else state,
                    message=description,
                    observed_generation=istio.metadata.generation,
                    last_transition_time=last.last_transition_time if last and same else now,
                ),
            ),
        )
        if status == before:
            return
        body: Any = msgspec.to_builtins(status)
        version = obj["metadata"]["resourceVersion"]
        patch = {"metadata": {"resourceVersion": version}, "status": body}
        await self._client.patch(Istio.gvk, name_of(obj), patch, subresource="status")
        log.info("status changed", name=str(name_of(obj)), state=state)


def _the_one(_: Delta) -> Iterable[ObjectName]:
    return (providers.CONFIG_MAP,)


def _is_going(obj: Object) -> bool:
    return bool(obj["metadata"].get("deletionTimestamp"))


def _read(obj: Object) -> tuple[Istio, Problem | None]:
    try:
        return scheme.decode(obj, Istio), None
    except msgspec.ValidationError as error:
        keys = ("namespace", "name", "generation", "creationTimestamp")
        meta = {key: obj["metadata"][key] for key in keys if key in obj["metadata"]}
        fix = "Give the field the type that the CRD says."
        return scheme.decode({"metadata": meta}, Istio), Problem(
            ROOT, Reason.TYPE_INVALID, str(error), fix
        )


def _other(first: Istio | None) -> str:
    if first is None:
        return f"An Istio resource counts in the namespace {NAMESPACE} only."
    return f"Istio {first.object_name} is older, and only one resource counts."


def _text(problems: Sequence[Problem]) -> str:
    return "\n".join(f"{problem}. {problem.fix}" for problem in problems)
