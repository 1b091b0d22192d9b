from dataclasses import replace

import msgspec
from tests.unit.mesh.policies_given import authorization

from apirule.apis import core
from apirule.apis.meta import ObjectMeta
from apirule.local.xds.view import View
from apirule.local.xds.world import World
from apirule.mesh.config import MeshSettings


def test_other_names_of_the_mesh_come_from_its_configuration() -> None:
    meta = ObjectMeta(namespace="istio-system", name="istio")
    config = core.ConfigMap(metadata=meta, data={"mesh": "trustDomainAliases: [old.mesh]"})
    moment = replace(World().moment(), resources={config.ref: config})

    with_config = View(moment, {}).snapshot(MeshSettings())
    without = View(World().moment(), {}).snapshot(MeshSettings())

    assert with_config.settings.trust_domains == ("cluster.local", "old.mesh")
    assert without.settings.trust_domains == ("cluster.local",)


def test_a_guard_that_lingers_is_a_difference_like_any_other() -> None:
    here, gone = (authorization({}, namespace="shop", name=name) for name in ("here", "gone"))
    world = World().moment()
    before = View(replace(world, resources={here.ref: here, gone.ref: gone}, until=0), {})
    lingering = View(replace(world, resources={here.ref: here}, journal=[]), {}, {gone.ref: gone})
    after = msgspec.structs.replace(lingering, lingering={})

    assert lingering.differs_only_by_objects(after)
    assert list(after.differences(lingering)) == [gone]
    assert list(lingering.differences(lingering)) == []
    assert list(before.differences(after)) == [gone]
