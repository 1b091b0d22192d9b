"""What is wrong with an object is said although no proxy is concerned with it."""

import pytest
from tests.unit.mesh.objects import GATEWAY_POD, decode, virtual_service
from tests.unit.mesh.policies_given import resource

from apirule.apis.meta import Resource
from apirule.mesh.snapshot import Snapshot
from apirule.mesh.soundness import Soundness
from apirule.problem import Reason, Severity

NOBODY = {"selector": {"matchLabels": {"app": "nobody"}}}


def places(*resources: Resource) -> list[str]:
    found = Soundness().problems(Snapshot.of(resources))
    return [str(problem.field) for problems in found.values() for problem in problems]


def gateway(server: str) -> list[Resource]:
    return decode(
        "{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: g, namespace: web},"
        f" spec: {{selector: {{gateway: nobody}}, servers: [{server}]}}}}"
    )


@pytest.mark.parametrize(
    ("kind", "spec", "place"),
    [
        ("AuthorizationPolicy", {"action": "PERMIT"}, "spec.action"),
        ("RequestAuthentication", {"jwtRules": [{"issuer": ""}]}, "spec.jwtRules[0].issuer"),
        ("PeerAuthentication", {"mtls": {"mode": "MAYBE"}}, "spec.mtls.mode"),
    ],
)
def test_a_policy_that_selects_nobody_is_looked_at(
    kind: str, spec: dict[str, object], place: str
) -> None:
    assert places(resource(kind, "bad", {**NOBODY, **spec})) == [place]


def test_a_gateway_that_nobody_serves_is_looked_at() -> None:
    tcp = "{port: {number: 1, protocol: TCP}, hosts: ['*']}"
    bare = "{port: {number: 443, protocol: HTTPS}, tls: {mode: SIMPLE}, hosts: ['a*.b']}"

    assert places(*gateway(tcp)) == ["spec.servers[0].port.protocol"]
    assert places(*gateway(bare)) == [
        "spec.servers[0].tls.credentialName",
        "spec.servers[0].hosts[0]",
    ]


@pytest.mark.parametrize(
    ("http", "place"),
    [
        (
            "[{match: [{uri: {regex: '/a('}}], redirect: {uri: /}}]",
            "spec.http[0].match[0].uri.regex",
        ),
        ("[{timeout: soon, route: [{destination: {host: a}}]}]", "spec.http[0].timeout"),
        ("[{}]", "spec.http[0]"),
    ],
)
def test_a_rule_that_nobody_serves_is_looked_at(http: str, place: str) -> None:
    gone = "spec.gateways[0]"
    assert places(*virtual_service("v", gateways="[gone/gone]", http=http)) == [place, gone]
    assert places(*virtual_service("v", hosts=("a*.b",), gateways="[gone/gone]")) == [
        "spec.hosts[0]",
        gone,
    ]


@pytest.mark.parametrize(
    ("hosts", "reason"),
    [
        (("shop.web.svc.cluster.local",), Reason.CONFLICT),
        (("SHOP.web.svc.cluster.local",), Reason.CONFLICT),
        (("shop.web",), Reason.INVALID),
        (("shop.web.svc",), Reason.INVALID),
        (("*",), Reason.INVALID),
        (("news",), None),
        (("*.web.svc.cluster.local",), None),
    ],
)
def test_a_host_that_is_ruled_already_or_means_nothing_inside_is_told(
    hosts: tuple[str, ...], reason: Reason | None
) -> None:
    first = virtual_service("first", hosts=("shop",), gateways="[mesh]")
    late = virtual_service(
        "late", hosts=hosts, gateways="[]", created="2026-02-01T00:00:00Z", namespace="web"
    )
    snapshot = Snapshot.of(decode(GATEWAY_POD) + first + late)

    found = Soundness().problems(snapshot)

    assert found.keys() == ({late[0].ref} if reason else set())
    assert [p.reason for p in found.get(late[0].ref, ())] == ([reason] if reason else [])


def test_a_gateway_that_is_not_there_is_told_and_one_out_of_order_is_there() -> None:
    rule = virtual_service("v", gateways="[edge, web/gone, mesh]", hosts=("new.example",))
    everything = decode(GATEWAY_POD) + rule
    edge = next(r.ref for r in everything if r.gvk.kind == "Gateway")

    for rejected in ({}, {edge: "why"}):
        snapshot = Snapshot.of(everything, rejected=rejected)
        (problem,) = Soundness().problems(snapshot)[rule[0].ref]

        assert str(problem.field) == "spec.gateways[1]"
        assert problem.severity is Severity.WARNING


def test_what_is_sound_is_not_mentioned() -> None:
    fine = resource("AuthorizationPolicy", "fine", NOBODY)
    everything = [fine, *decode(GATEWAY_POD), *virtual_service("v")]

    assert Soundness().problems(Snapshot.of(everything)) == {}
