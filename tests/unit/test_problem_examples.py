"""docs/problems.md: an example causes what its section is about, and the next one mends it."""

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from apirule import manifest
from apirule.apis import scheme
from apirule.apis.meta import GroupVersionKind
from apirule.cli import checking
from apirule.facts import Facts
from apirule.mesh.config import MeshSettings
from apirule.problem import Reason

PAGE = (Path(__file__).parents[2] / "docs/problems.md").read_text()
BLOCK = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
BASE: dict[str, Any] = yaml.safe_load(next(BLOCK.finditer(PAGE))[1])
OPEN = {"path": "/orders", "methods": ["GET"], "noAuth": True}
NOT_IN_A_MANIFEST = (Reason.KEYS_UNAVAILABLE, Reason.REJECTED)
"""Whoever fetches a key set finds the one, a proxy the other."""

CLUSTER = """
apiVersion: v1
kind: Namespace
metadata: {name: web, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: web}
spec: {selector: {app: shop}, ports: [{port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: kyma-gateway, namespace: kyma-system}
spec:
  servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: ["*.kyma.localhost"]}]
"""
TAKEN = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop-x, namespace: other}
spec: {hosts: [shop.kyma.localhost]}
"""


class Example(NamedTuple):
    reason: Reason
    number: int
    bad: str
    good: str

    def __str__(self) -> str:
        return f"{self.reason}-{self.number}"


def examples() -> Iterator[Example]:
    for section in PAGE.split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        blocks = BLOCK.findall(text)
        for number, (bad, good) in enumerate(list(pairwise(blocks))[::2], 1):
            yield Example(Reason(title), number, bad, good)


def whole(fragment: str) -> str:
    """Put an example into what the page says stands around it."""
    given = yaml.safe_load(fragment)
    if "kind" in given:
        group = "security" if given["kind"] == "AuthorizationPolicy" else "networking"
        around = {"apiVersion": f"{group}.istio.io/v1", "metadata": {"name": "shop"}}
        rest = {"hosts": ["shop.kyma.localhost"]} if group == "networking" else {}
        route = [{"route": [{"destination": {"host": "shop"}}], **one} for one in _http(given)]
        spec = {**rest, **given["spec"], **({"http": route} if route else {})}
        return yaml.safe_dump({**around, **given, "spec": spec})
    spec = {**BASE["spec"], "rules": [OPEN], **given.get("spec", {})}
    if "rules" in given:
        spec["rules"] = given["rules"]
    of_rule = {key: given[key] for key in ("jwt", "methods") if key in given}
    if of_rule:
        access = {} if "jwt" in of_rule else {"noAuth": True}
        spec["rules"] = [{"path": "/orders", "methods": ["GET"], **access, **of_rule}]
    metadata = {**BASE["metadata"], **given.get("metadata", {})}
    return yaml.safe_dump({**BASE, "metadata": metadata, "spec": spec})


def _http(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = given["spec"].get("http", [])
    return found


def reasons(text: str, *, around: str) -> set[Reason]:
    """Return the reasons of everything that is wrong with a manifest."""
    loaded = manifest.load(text)
    found = {finding.problem.reason for finding in loaded.findings}
    facts = Facts.of(
        scheme.decode(obj, kind)
        for obj in manifest.load(around).objects
        if (kind := scheme.type_of(GroupVersionKind.of(obj))) is not None
    )
    for obj in loaded.objects:
        problems = checking.problems(obj, facts, checking.served(), mesh=MeshSettings())
        found |= {problem.reason for problem in problems}
    return found


def cluster(example: Example, fragment: str) -> str:
    """Return what exists besides."""
    if example.reason is not Reason.SIDECAR_MISSING:
        pod = {"containers": [{"name": "shop"}, {"name": "istio-proxy"}]}
    else:
        labels = yaml.safe_load(fragment)["metadata"].get("labels", {})
        has_sidecar = labels.get("istio-injection") == "enabled"
        pod = {"containers": [{"name": "shop"}, *([{"name": "istio-proxy"}] * has_sidecar)]}
    meta = {"name": "shop-1", "namespace": "web", "labels": {"app": "shop"}}
    shop = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod}
    taken = TAKEN if example.reason is Reason.HOST_TAKEN else ""
    return "\n---\n".join([CLUSTER, yaml.safe_dump(shop), *([taken] if taken else [])])


def judged(example: Example, fragment: str) -> set[Reason]:
    around = cluster(example, fragment)
    if example.reason is Reason.SIDECAR_MISSING:
        fragment = "rules: [{path: /orders, methods: [GET], noAuth: true}]"
    # What is malformed cannot be put into anything.
    text = fragment if example.reason is Reason.MALFORMED else whole(fragment)
    return reasons(text, around=around)


SHOWN = [one for one in examples() if one.reason not in NOT_IN_A_MANIFEST]


@pytest.mark.parametrize("example", SHOWN, ids=str)
def test_an_example_causes_what_its_section_is_about(example: Example) -> None:
    assert example.reason in judged(example, example.bad)


@pytest.mark.parametrize("example", SHOWN, ids=str)
def test_what_follows_an_example_mends_it(example: Example) -> None:
    assert example.reason not in judged(example, example.good)


def test_every_reason_has_an_example() -> None:
    assert {one.reason for one in examples()} == set(Reason) - {Reason.REJECTED}
