"""What is said not to matter to a proxy makes no difference to its configuration."""

from pathlib import Path

import pytest
from tests.golden.test_mesh import load
from tests.unit.mesh.policies_given import authorization

from apirule.mesh.build import build
from apirule.mesh.config import MeshSettings
from apirule.mesh.proxy import Proxy
from apirule.mesh.relevance import matters, same_for
from apirule.mesh.snapshot import Snapshot

GOLDEN = Path(__file__).parents[2] / "golden"
INPUTS = sorted(
    [*(GOLDEN / "mesh").glob("*.in.yaml"), *(GOLDEN / "mesh_security").glob("*.in.yaml")]
)
SETTINGS = MeshSettings()


@pytest.mark.parametrize("case", INPUTS, ids=lambda path: path.name)
def test_leaving_out_what_does_not_matter_changes_nothing(case: Path) -> None:
    resources = load(case.read_text())
    whole = Snapshot.of(resources)

    for proxy in whole.proxies():
        kept = [r for r in resources if matters(r, proxy, SETTINGS)]
        config = build(Snapshot.of(kept), proxy)

        assert config.resources == build(whole, proxy).resources


def _proxy() -> Proxy:
    text = next(case for case in INPUTS if case.parent.name == "mesh").read_text()
    return next(iter(Snapshot.of(load(text)).proxies()))


def test_a_policy_that_comes_to_select_a_proxy_matters_to_it() -> None:
    proxy = _proxy()
    namespace = proxy.name.namespace
    elsewhere = authorization({"selector": {"matchLabels": {"app": "nobody"}}}, namespace=namespace)
    here = authorization({"selector": {"matchLabels": dict(proxy.labels)}}, namespace=namespace)

    assert same_for(proxy, [elsewhere], SETTINGS)
    assert not same_for(proxy, [elsewhere, here], SETTINGS)
