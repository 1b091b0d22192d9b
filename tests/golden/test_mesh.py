"""Golden pairs of the mesh: resources in, what each proxy of them is told out.

``NAME.in.yaml`` gives one ``NAME.POD.out.yaml`` for each proxy. A first line ``# shows: ROUTE
CLUSTER`` limits the output to these types. Filters that come by reference have their own pairs.
``pytest --update-golden`` writes the outputs and removes stale ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.json_format import MessageToJson

from apirule.apis import scheme
from apirule.apis.meta import GroupVersionKind, Resource
from apirule.mesh.build import build
from apirule.mesh.config import MeshSettings, ProxyConfig, TypeUrl
from apirule.mesh.snapshot import Snapshot

HERE = Path(__file__).parent / "mesh"
INPUTS = sorted(HERE.glob("*.in.yaml"))
SETTINGS = MeshSettings(system_roots="/etc/ssl/roots.pem")
ALL = (TypeUrl.LISTENER, TypeUrl.ROUTE, TypeUrl.CLUSTER, TypeUrl.ENDPOINT, TypeUrl.SECRET)


def load(text: str) -> list[Resource]:
    decoded = []
    for obj in yaml.load_all(text, Loader=yaml.CSafeLoader):
        kind = scheme.type_of(GroupVersionKind.of(obj))
        assert kind is not None, f"no type for {obj['kind']}"
        assert list(scheme.unknown_fields(obj, kind)) == []
        decoded.append(scheme.decode(obj, kind))
    return decoded


def _shown(text: str) -> tuple[TypeUrl, ...]:
    first = text.partition("\n")[0]
    _, marked, kinds = first.partition("# shows:")
    return tuple(TypeUrl[kind] for kind in kinds.split()) if marked else ALL


def _dump(config: ProxyConfig, shown: tuple[TypeUrl, ...]) -> str:
    document: dict[str, Any] = {
        url.name.lower(): [
            _own(json.loads(MessageToJson(m))) for m in config.resources[url].values()
        ]
        for url in shown
        if config.resources[url]
    }
    problems = [
        f"{ref}: {problem.severity} {problem.reason} {problem}"
        for ref, found in config.problems.items()
        for problem in found
    ]
    if problems:
        document["problems"] = problems
    text = yaml.dump(document, Dumper=_NoAliases, sort_keys=False, width=100, allow_unicode=True)
    return text.replace("type.googleapis.com/", "")


def _own(value: Any) -> Any:
    """Leave out what has tests of its own and would be repeated in every listener."""
    if isinstance(value, list):
        return [_own(item) for item in value]
    if isinstance(value, dict):
        kept = (key for key in value if key not in ("accessLog", "localReplyConfig"))
        own = {key: _own(value[key]) for key in kept}
        # A map has no order of its own.
        return {k: dict(sorted(v.items())) if k == "policies" else v for k, v in own.items()}
    return value


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


@pytest.mark.parametrize("case", INPUTS, ids=lambda p: p.name.removesuffix(".in.yaml"))
def test_mesh(case: Path, pytestconfig: pytest.Config) -> None:
    text = case.read_text()
    name = case.name.removesuffix(".in.yaml")
    snapshot = Snapshot.of(load(text), settings=SETTINGS)

    actual = {
        f"{name}.{proxy.name.name}.out.yaml": _dump(build(snapshot, proxy), _shown(text))
        for proxy in snapshot.proxies()
    }

    existing = {path.name for path in HERE.glob(f"{name}.*.out.yaml")}
    if pytestconfig.getoption("--update-golden"):
        for path, content in actual.items():
            (HERE / path).write_text(content)
        for stale in existing - actual.keys():
            (HERE / stale).unlink()
        existing = set(actual)
    assert existing == actual.keys()
    for path, content in actual.items():
        assert content == (HERE / path).read_text()


def test_every_output_has_an_input() -> None:
    names = {path.name.removesuffix(".in.yaml") for path in INPUTS}

    assert {path.name.partition(".")[0] for path in HERE.glob("*.out.yaml")} == names
