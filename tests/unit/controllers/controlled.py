"""An APIRule controller that runs, with a shop that it serves and an engine that reports."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio
from tests.unit.controllers.fake_cluster import FakeCluster
from tests.unit.controllers.scenario import Engine, Shop

from apirule.apis.meta import Object
from apirule.controllers import apirule as module
from apirule.controllers.apirule import APIRuleController
from apirule.kube.client import Client
from apirule.kube.informer import Informers
from apirule.ownership import OWNER_NAME


@dataclass
class Running:
    cluster: FakeCluster
    shop: Shop
    engine: Engine


@asynccontextmanager
async def running(
    cluster: FakeCluster,
    objects: list[Object],
    *,
    engine_reports: bool = True,
    settling_s: float = module.SETTLING_S,
) -> AsyncIterator[Running]:
    async with Client(cluster.config) as client, anyio.create_task_group() as tasks:
        for obj in objects:
            await client.create(obj)
        cluster.writes.clear()
        informers = Informers(client)
        controller = APIRuleController(
            client,
            informers,
            now=lambda: datetime(2026, 1, 2, tzinfo=UTC),
            engine_reports=engine_reports,
            settling_s=settling_s,
            base_delay_s=0.01,
        )
        shop, engine = Shop(client, informers), Engine(client, informers)
        await tasks.start(informers.run)
        await tasks.start(controller.run)
        tasks.start_soon(engine.run)
        yield Running(cluster, shop, engine)
        tasks.cancel_scope.cancel()


def conditions(obj: Object) -> dict[str, tuple[str, str]]:
    return {one["type"]: (one["status"], one["reason"]) for one in obj["status"]["conditions"]}


def writes(cluster: FakeCluster, *verbs: str) -> list[str]:
    """Return the plurals of the Istio objects that were written, in order."""
    return [
        plural
        for verb, plural, _ in cluster.writes
        if verb in verbs and "/" not in plural and plural not in ("apirules", "events")
    ]


def refusal(code: int, reason: str, message: str) -> Object:
    return {"kind": "Status", "code": code, "reason": reason, "message": message}


def routes_of(cluster: FakeCluster, name: str) -> list[Object]:
    labelled = cluster.of("virtualservices")
    return [one for one in labelled if one["metadata"]["labels"][OWNER_NAME] == name]
