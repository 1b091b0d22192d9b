"""What is wrong with an object is said although no proxy is concerned with it."""

import pytest
from tests.unit.mesh.objects import decode, virtual_service
from tests.unit.mesh.policies_given import resource

from apirule.apis.meta import Resource
from apirule.mesh.snapshot import Snapshot
from apirule.mesh.soundness import Soundness

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
        ("[{timeout: soon, redirect: {uri: /}}]", "spec.http[0].timeout"),
        ("[{}]", "spec.http[0]"),
    ],
)
def test_a_rule_that_nobody_serves_is_looked_at(http: str, place: str) -> None:
    assert places(*virtual_service("v", gateways="[gone/gone]", http=http)) == [place]
    assert places(*virtual_service("v", hosts=("a*.b",), gateways="[gone/gone]")) == [
        "spec.hosts[0]"
    ]


def test_what_is_sound_is_not_mentioned() -> None:
    fine = resource("AuthorizationPolicy", "fine", NOBODY)

    assert Soundness().problems(Snapshot.of([fine, *virtual_service("v")])) == {}
