from dataclasses import replace

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
