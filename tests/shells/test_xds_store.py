"""The engine on the real store and the real list of kinds."""

import json
from pathlib import Path

import anyio
import yaml
from tests.shells.xds_run import (
    Feed,
    Statuses,
    clock,
    eventually,
    gateway_objects,
    route,
    workload_objects,
)

from apirule import schema
from apirule.apis.meta import ObjectRef
from apirule.local.ca import CertificateAuthority
from apirule.local.store import Store
from apirule.local.xds.engine import Engine
from apirule.local.xds.world import FOLLOWED, KINDS
from apirule.names import ObjectName

CRDS = Path(schema.__file__).parent / "crds"
BUILTIN = {"namespaces", "services", "secrets", "configmaps", "pods"}


def plural(kind: str) -> str:
    return kind.lower()[:-1] + "ies" if kind.endswith("y") else kind.lower() + "s"


def test_engine_follows_resources_under_the_names_the_api_server_stores_them_by() -> None:
    crds = {yaml.safe_load(file.read_text())["metadata"]["name"] for file in CRDS.glob("*.yaml")}

    assert FOLLOWED - BUILTIN - {"endpointslices.discovery.k8s.io"} <= crds


async def test_engine_reads_what_is_in_the_store_and_what_comes_into_it(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "api.db")
    for obj in gateway_objects(18080):
        store.create(resource_of(obj), json.loads(json.dumps(obj)))
    authority = CertificateAuthority.open(tmp_path / "pki", clock=clock)
    engine = Engine(store, authority, Statuses(Feed()), clock=clock)
    async with anyio.create_task_group() as tasks:
        await tasks.start(engine.run)
        await eventually(lambda: len(engine.configs()) == 1)

        for obj in [*workload_objects("app", app=1, sidecar=2), route("r", "h", "app")]:
            store.create(resource_of(obj), json.loads(json.dumps(obj)))
        await eventually(lambda: len(engine.configs()) == 2)
        store.delete("pods", ObjectName("default", "app"))

        await eventually(lambda: len(engine.configs()) == 1)
        tasks.cancel_scope.cancel()
    store.close()


def resource_of(obj: dict[str, object]) -> str:
    ref = ObjectRef.of(obj)
    assert (ref.group, ref.kind) in KINDS
    return f"{plural(ref.kind)}.{ref.group}" if ref.group else plural(ref.kind)
