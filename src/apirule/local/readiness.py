"""What is ready at a start: what only an earlier life was, and when a request gets its answer.

After `apirule down`, or a power cut, Pods are stored as Ready though nothing of them runs. Nobody
must act on that: not whoever waits for them, not the engine, not a Service.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime

import anyio
import structlog

from apirule.apis import core
from apirule.apis.meta import Object
from apirule.kube.client import Client
from apirule.kube.informer import Delta, Informer, Informers, name_of
from apirule.local.processes.client import SupervisorClient
from apirule.local.processes.containers import process_name
from apirule.local.processes.pod_status import is_ready, without_readiness
from apirule.local.xds.engine import Engine
from apirule.names import ObjectName

log = structlog.get_logger(__name__)

POD = core.Pod.gvk


async def withdraw(
    client: Client, supervisor: SupervisorClient, *, now: Callable[[], datetime]
) -> frozenset[ObjectName]:
    """Take Ready from all Pods whose programs do not run. Returns those it was taken from."""
    running = {
        (process["name"], process["meta"]["uid"])
        for process in await supervisor.list()
        if process["state"] == "running" and "pod" in process.get("meta", {})
    }
    withdrawn = set()
    for pod in (await client.list(POD)).items:
        if is_ready(pod) and not _runs(pod, running):
            await client.patch_status(POD, name_of(pod), without_readiness(pod, now()))
            withdrawn.add(name_of(pod))
    return frozenset(withdrawn)


async def until(informer: Informer, holds: Callable[[], bool], *, within_s: float) -> bool:
    """Wait until a condition on the objects of an informer holds. False: it did not in time."""
    met, waiting = anyio.Event(), False

    def look(_: Delta) -> None:
        if waiting and holds():
            met.set()

    informer.add_handler(look)
    waiting = not holds()
    with anyio.move_on_after(within_s):
        if waiting:
            await met.wait()
    # Handlers stay for ever; this one has nothing to do any more.
    found, waiting = met.is_set() or not waiting, False
    return found


async def until_back(
    names: Collection[ObjectName], informers: Informers, engine: Engine, *, within_s: float
) -> None:
    """Wait until Pods that were ready before are so again, and get requests.

    Without it the first requests after a start would find nobody behind the gateway. Who runs into
    trouble is not waited for.
    """
    pods = informers.of(POD)

    def all_back() -> bool:
        return all(pod is None or is_ready(pod) for pod in map(pods.get, names))

    if not await until(pods, all_back, within_s=within_s):
        log.warning("workloads not ready again", waited_s=within_s)
    await until_served(names, informers, engine, within_s=within_s)


async def until_served(
    names: Collection[ObjectName], informers: Informers, engine: Engine, *, within_s: float
) -> None:
    """Wait until the gateways send requests to those of the Pods that are ready."""
    pods, slices = informers.of(POD), informers.of(core.EndpointSlice.gvk)

    def of_them() -> list[Object]:
        ready = {name for name in names if (pod := pods.get(name)) and is_ready(pod)}
        return [piece for piece in slices if _targets(piece) & ready]

    def all_told() -> bool:
        return all(e["conditions"]["ready"] for piece in of_them() for e in piece["endpoints"])

    with anyio.move_on_after(within_s):
        await until(slices, all_told, within_s=within_s)
        revisions = (int(piece["metadata"]["resourceVersion"]) for piece in of_them())
        await engine.until_gateways_hold(max(revisions, default=0))
        return
    log.warning("gateway not told of all workloads", waited_s=within_s)


def _runs(pod: Object, running: Collection[tuple[str, str]]) -> bool:
    containers = (pod.get("spec") or {}).get("containers") or []
    name, uid = name_of(pod), pod["metadata"]["uid"]
    return all((process_name(name, c.get("name", "")), uid) in running for c in containers)


def _targets(piece: Object) -> set[ObjectName]:
    found = (endpoint.get("targetRef") or {} for endpoint in piece.get("endpoints") or [])
    return {ObjectName(one.get("namespace", ""), one.get("name", "")) for one in found}
