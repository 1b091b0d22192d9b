"""Statuses are worked out again only where something changed, and come out as if all had been."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from apirule.apis.meta import Object, ObjectRef
from apirule.local.xds.ads import Refusal
from apirule.local.xds.fleet import ABSENT, Standing
from apirule.local.xds.reconciled import Statuses, Told
from apirule.local.xds.statuses import Wanted
from apirule.local.xds.world import World
from apirule.mesh.config import MeshSettings, ProxyConfig, TypeUrl
from apirule.mesh.proxy import Proxy, Role
from apirule.names import ObjectName
from apirule.problem import SPEC, Problem, Reason, Severity

UP = Standing(connected=True, settled=True, synced=True)
SILENT = Standing(connected=True, settled=False, synced=False)
REFUSING = Standing(
    connected=True,
    settled=True,
    synced=False,
    refusals=(Refusal(TypeUrl.ROUTE, "routes", "1", "no"),),
)
PROXIES = [
    Proxy(ObjectName("istio-system", "ingress"), Role.GATEWAY, "", {}),
    Proxy(ObjectName("shop", "one"), Role.SIDECAR, "", {"app": "one"}),
    Proxy(ObjectName("shop", "two"), Role.SIDECAR, "", {"app": "two"}),
]
NAMES = ["a", "b", "c", "d"]
PROBLEM = Problem(SPEC, Reason.INVALID, "It is wrong.", "Mend it.")
ADVICE = Problem(SPEC, Reason.MISLEADING, "It is unwise.", severity=Severity.WARNING)


@dataclass
class Change:
    object: Object
    type: str
    revision: int


def istio(kind: str, name: str, **more: Any) -> Object:
    group = "networking" if kind == "VirtualService" else "security"
    spec = {"hosts": ["h"], "gateways": ["g"]} if kind == "VirtualService" else {}
    meta = {"namespace": "shop", "name": name, "uid": f"u-{name}"}
    api = f"{group}.istio.io/v1"
    return {
        "apiVersion": api,
        "kind": kind,
        "metadata": meta | more.pop("metadata", {}),
        **more,
    } | {"spec": spec | more.get("spec", {})}


@dataclass
class Course:
    """A world, and proxies in it, to which one thing after the other happens."""

    chance: Random
    world: World = field(default_factory=World)
    told: dict[str, Told] = field(default_factory=dict)
    standings: dict[str, Standing] = field(default_factory=dict)
    rejected: dict[ObjectRef, str] = field(default_factory=dict)
    own: dict[ObjectRef, tuple[Problem, ...]] = field(default_factory=dict)
    generation: int = 0

    def step(self) -> None:
        self.generation += 1
        self.chance.choice([self._object, self._status, self._tell, self._stand, self._judge])()

    def _some(self) -> Object:
        kind = self.chance.choice(["VirtualService", "AuthorizationPolicy"])
        return istio(kind, self.chance.choice(NAMES))

    def _object(self) -> None:
        obj = self._some()
        obj["metadata"]["generation"] = self.generation
        if self.chance.random() < 0.2:
            obj["spec"]["unheard"] = "of"
        kind = "DELETED" if self.chance.random() < 0.3 else "MODIFIED"
        self.world.apply([Change(obj, kind, self.generation)])

    def _status(self) -> None:
        """As when somebody writes the status of an object, and nothing else of it."""
        ref = ObjectRef.of(self._some())
        resource = self.world.moment().resources.get(ref)
        if resource is not None and ref not in self.world.moment().faults:
            obj = istio(ref.kind, ref.name, status={"observedGeneration": self.generation})
            obj["metadata"]["generation"] = resource.metadata.generation
            self.world.apply([Change(obj, "MODIFIED", self.generation)])

    def _tell(self) -> None:
        proxy = self.chance.choice(PROXIES)
        node, moment = proxy.node_id, self.world.moment()
        self.standings.setdefault(node, UP)
        if self.chance.random() < 0.1:
            self.told.pop(node, None)
            return
        config = None
        if self.chance.random() < 0.9:
            refs = [ref for ref in moment.resources if self.chance.random() < 0.6]
            problems = {ref: (self.chance.choice([PROBLEM, ADVICE]),) for ref in refs[:1]}
            config = ProxyConfig({}, {(TypeUrl.ROUTE, "routes"): frozenset(refs)}, problems)
        self.told[node] = Told.of(proxy, config, moment, self.told.get(node))

    def _stand(self) -> None:
        if self.told:
            node = self.chance.choice(sorted(self.told))
            self.standings[node] = self.chance.choice([UP, SILENT, REFUSING, ABSENT])

    def _judge(self) -> None:
        ref = ObjectRef.of(self._some())
        if self.chance.random() < 0.5:
            self.rejected = {} if ref in self.rejected else {ref: "It was refused."}
        else:
            self.own = {} if ref in self.own else {ref: (PROBLEM,)}

    def ask(self, statuses: Statuses) -> Mapping[ObjectRef, Wanted | None]:
        return statuses.wanted(
            self.world.moment(),
            told=self.told,
            standings=self.standings,
            rejected=self.rejected,
            settings=MeshSettings(),
            own_problems=self.own,
            touched=self.world.touched(),
            actual=self.world.status,
        )


@pytest.mark.parametrize("seed", range(25))
def test_what_is_told_bit_by_bit_adds_up_to_the_whole(seed: int) -> None:
    course, statuses = Course(Random(seed)), Statuses()  # noqa: S311 - a course of events
    added_up: dict[ObjectRef, Wanted] = {}
    for _ in range(120):
        course.step()
        if course.chance.random() < 0.3:
            continue  # several things happen before anybody asks
        for ref, want in course.ask(statuses).items():
            if want is None:
                del added_up[ref]
            else:
                added_up[ref] = want

        assert added_up == course.ask(Statuses())


def test_what_did_not_change_is_not_told_again() -> None:
    course, statuses = Course(Random(0)), Statuses()  # noqa: S311 - as above
    for name in NAMES:
        course.world.apply([Change(istio("VirtualService", name), "ADDED", 1)])
    course._tell()

    assert len(course.ask(statuses)) == len(NAMES)
    assert course.ask(statuses) == {}
    course.world.apply([Change(istio("VirtualService", "a", spec={"hosts": ["x"]}), "MODIFIED", 2)])
    assert course.ask(statuses) == {}, "its status says the same"
    changed = istio("VirtualService", "a", metadata={"generation": 2})
    course.world.apply([Change(changed, "MODIFIED", 3)])
    assert [ref.name for ref in course.ask(statuses)] == ["a"]
