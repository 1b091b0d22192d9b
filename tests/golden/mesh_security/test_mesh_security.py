"""Golden pairs of the security filters: policies in, what one workload enforces out.

The workload is Pod ``shop/web`` with the label ``app: web`` and the port 80. An output holds every
filter that is not empty, the objects it was made of, the mTLS mode, and the problems.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format

from apirule.apis import scheme
from apirule.apis.core import ConfigMap
from apirule.apis.meta import GroupVersionKind, Resource
from apirule.keysets import from_config_map
from apirule.mesh import policies, security
from apirule.mesh.proxy import InboundPort, Proxy, Role
from apirule.mesh.snapshot import Snapshot
from apirule.names import ObjectName

HERE = Path(__file__).parent
INPUTS = sorted(HERE.glob("*.in.yaml"))
WEB = Proxy(
    ObjectName("shop", "web"),
    Role.SIDECAR,
    "default",
    {"app": "web"},
    inbound=(InboundPort(80, "127.0.0.1:5000", 6000),),
)


def _resources(text: str) -> list[Resource]:
    decoded = []
    for obj in yaml.load_all(text, Loader=yaml.CSafeLoader):
        kind = scheme.type_of(GroupVersionKind.of(obj))
        assert kind is not None, f"no type for {obj['kind']}"
        assert list(scheme.unknown_fields(obj, kind)) == []
        decoded.append(scheme.decode(obj, kind))
    return decoded


def _enforced(text: str) -> str:
    resources = _resources(text)
    found = [from_config_map(r) for r in resources if isinstance(r, ConfigMap)]
    key_sets = {(keys.issuer, keys.jwks_uri): keys for keys in found if keys}
    snapshot = Snapshot.of(resources, key_sets=key_sets)
    sources = security.sources(snapshot, WEB)
    output: dict[str, Any] = {"mtls": str(policies.mtls_mode(snapshot, WEB, 80)), "filters": {}}
    for name, extension in security.extensions(snapshot, WEB).items():
        config = json.loads(json_format.MessageToJson(extension))["typedConfig"]
        if sources[name]:
            made_of = sorted(str(ref) for ref in sources[name])
            output["filters"][name] = {"sources": made_of, "config": config}
    output["problems"] = {
        str(ref): [f"{p.severity} {p.reason} {p}" for p in problems]
        for ref, problems in security.problems(snapshot, WEB).items()
    }
    return yaml.dump(output, Dumper=yaml.CSafeDumper, sort_keys=True, width=100)


@pytest.mark.parametrize("case", INPUTS, ids=lambda path: path.name.removesuffix(".in.yaml"))
def test_policies_give_exactly_these_filters(case: Path, pytestconfig: pytest.Config) -> None:
    expected = case.with_name(case.name.replace(".in.", ".out."))

    actual = _enforced(case.read_text())

    if pytestconfig.getoption("--update-golden"):
        expected.write_text(actual)
    assert actual == expected.read_text()


def test_every_output_of_a_filter_has_an_input() -> None:
    outputs = {path.name.replace(".out.", ".in.") for path in HERE.glob("*.out.yaml")}

    assert outputs == {path.name for path in INPUTS}
