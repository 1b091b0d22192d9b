"""AuthorizationPolicies: what is refused, and what ports and trust domains become."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.rbac.v3.rbac_pb2 import Permission
from tests.unit.mesh.policies_given import authorization

from apirule.mesh import rbac
from apirule.mesh.attributes import NEVER
from apirule.mesh.config import MeshSettings
from apirule.problem import Reason

SETTINGS = MeshSettings()


def problems_of(rule: dict[str, Any]) -> list[str]:
    found = rbac.problems(authorization({"rules": [rule]}), SETTINGS)
    return [str(problem.field) for problem in found]


def source(**fields: list[str]) -> dict[str, Any]:
    return {"from": [{"source": fields}]}


def operation(**fields: list[str]) -> dict[str, Any]:
    return {"to": [{"operation": fields}]}


def when(key: str, **values: list[str]) -> dict[str, Any]:
    return {"when": [{"key": key, **values}]}


@pytest.mark.parametrize(
    ("rule", "place"),
    [
        (source(principals=["spiffe://a/ns/b/sa/c"]), "from[0].source.principals[0]"),
        (source(notPrincipals=["a", ""]), "from[0].source.notPrincipals[1]"),
        (source(namespaces=["a\n"]), "from[0].source.namespaces[0]"),
        (source(serviceAccounts=["a/b/c"]), "from[0].source.serviceAccounts[0]"),
        (source(serviceAccounts=["a/"]), "from[0].source.serviceAccounts[0]"),
        (source(serviceAccounts=["*"]), "from[0].source.serviceAccounts[0]"),
        (source(trustDomains=["a/b"]), "from[0].source.trustDomains[0]"),
        (source(ipBlocks=["10.0.0.0/99"]), "from[0].source.ipBlocks[0]"),
        (source(notRemoteIpBlocks=["here"]), "from[0].source.notRemoteIpBlocks[0]"),
        (source(requestPrincipals=[""]), "from[0].source.requestPrincipals[0]"),
        (source(), "from[0].source"),
        (operation(hosts=[""]), "to[0].operation.hosts[0]"),
        (operation(methods=["GE\tT"]), "to[0].operation.methods[0]"),
        (operation(notPaths=["/a{*}"]), "to[0].operation.notPaths[0]"),
        (operation(ports=["65536"]), "to[0].operation.ports[0]"),
        (operation(notPorts=["\uff18\uff10"]), "to[0].operation.notPorts[0]"),
        (operation(), "to[0].operation"),
        (when("source.ip", values=["x"]), "when[0].values[0]"),
        (when("source.ip", notValues=["x"]), "when[0].notValues[0]"),
        (when("source.ip"), "when[0]"),
        (when("request.auth.claims", values=["x"]), "when[0].key"),
        (when("request.auth.claims[]", values=["x"]), "when[0].key"),
        (when("request.auth.claims[a]b", values=["x"]), "when[0].key"),
        (when("request.headers[:path]", values=["x"]), "when[0].key"),
        (when("request.headers[]", values=["x"]), "when[0].key"),
        (when("experimental.envoy.filters.x[y]", values=["10.0.0.1"]), "when[0].key"),
        (when("experimental.envoy.filters.a[b]", values=["x"]), "when[0].key"),
        (when("Source.IP", values=["10.0.0.1"]), "when[0].key"),
    ],
)
def test_what_cannot_be_enforced_is_named(rule: dict[str, Any], place: str) -> None:
    assert problems_of(rule) == [f"spec.rules[0].{place}"]


def test_every_mistake_is_named_at_once() -> None:
    assert len(problems_of(source(principals=["", "spiffe://x"]) | operation(ports=["x"]))) == 3


@pytest.mark.parametrize(
    ("spec", "places"),
    [
        ({"provider": {"name": "opa"}, "rules": [operation(paths=["/a"])]}, []),
        ({"rules": [operation(paths=["/a"])]}, ["spec.provider.name"]),
        ({"provider": {"name": ""}}, ["spec.provider.name"]),
        (
            {"provider": {"name": "opa"}, "rules": [source(requestPrincipals=["*"])]},
            ["spec.rules[0].from[0].source.requestPrincipals"],
        ),
        (
            {"provider": {"name": "opa"}, "rules": [source(notRequestPrincipals=["*"])]},
            ["spec.rules[0].from[0].source.notRequestPrincipals"],
        ),
        (
            {
                "provider": {"name": "opa"},
                "rules": [when("request.auth.claims[a]", notValues=["b"])],
            },
            ["spec.rules[0].when[0].key"],
        ),
    ],
)
def test_custom_names_its_authorizer_and_asks_for_no_token(
    spec: dict[str, Any], places: list[str]
) -> None:
    found = rbac.problems(authorization({"action": "CUSTOM", **spec}), SETTINGS)

    assert [str(problem.field) for problem in found] == places


def test_an_unknown_action_names_what_is_known() -> None:
    (problem,) = rbac.problems(authorization({"action": "ASK"}), SETTINGS)

    assert problem.reason is Reason.NOT_IMPLEMENTED
    assert "ALLOW, DENY, AUDIT, CUSTOM" in problem.fix


@pytest.mark.parametrize(
    ("fields", "permission"),
    [
        ({"ports": ["80"]}, Permission(any=True)),
        ({"ports": ["81"]}, NEVER),
        ({"notPorts": ["80"]}, Permission(not_rule=Permission(any=True))),
        ({"notPorts": ["81"]}, Permission(not_rule=NEVER)),
    ],
)
def test_ports_are_compared_when_the_filter_is_built(
    fields: dict[str, list[str]], permission: Permission
) -> None:
    policy = authorization({"rules": [operation(**fields)]})

    (built,) = rbac.policies(policy, SETTINGS, 80).values()

    assert list(built.permissions) == [permission]


@pytest.mark.parametrize(
    ("written", "identity"),
    [
        ("cluster.local/ns/a/sa/b", "spiffe://my.mesh/ns/a/sa/b"),
        ("my.mesh/ns/a/sa/b", "spiffe://my.mesh/ns/a/sa/b"),
        ("other.mesh/ns/a/sa/b", "spiffe://other.mesh/ns/a/sa/b"),
        ("cluster.local/a", "spiffe://cluster.local/a"),
    ],
)
def test_cluster_local_means_this_mesh(written: str, identity: str) -> None:
    policy = authorization({"rules": [source(principals=[written])]})

    (built,) = rbac.policies(policy, MeshSettings(trust_domain="my.mesh"), 80).values()

    assert built.principals[0].authenticated.principal_name.exact == identity


@pytest.mark.parametrize(
    ("written", "domains"),
    [
        ("cluster.local/ns/a/sa/b", ["cluster.local", "old.mesh", "older"]),
        ("older/ns/a/sa/b", ["cluster.local", "old.mesh", "older"]),
        ("other.mesh/ns/a/sa/b", ["other.mesh"]),
    ],
)
def test_a_name_of_this_mesh_means_all_of_them(written: str, domains: list[str]) -> None:
    policy = authorization({"rules": [source(principals=[written])]})
    settings = MeshSettings(trust_domain_aliases=("old.mesh", "older"))

    (built,) = rbac.policies(policy, settings, 80).values()

    (principal,) = built.principals
    found = principal.or_ids.ids or [principal]
    assert [one.authenticated.principal_name.exact for one in found] == [
        f"spiffe://{domain}/ns/a/sa/b" for domain in domains
    ]


def test_rules_are_named_as_istio_names_them() -> None:
    policy = authorization({"rules": [{}, {}]}, "orders")

    built = rbac.policies(policy, SETTINGS, 80)

    assert list(built) == [
        "ns[shop]-policy[orders]-rule[0]",
        "ns[shop]-policy[orders]-rule[1]",
    ]


def test_conditions_join_every_source_and_every_operation() -> None:
    rule = {
        "from": [{"source": {"namespaces": ["a"]}}, {"source": {"namespaces": ["b"]}}],
        "to": [{"operation": {"methods": ["GET"]}}, {"operation": {"methods": ["PUT"]}}],
        "when": [
            {"key": "request.auth.claims[x]", "values": ["y"]},
            {"key": "connection.sni", "values": ["z"]},
        ],
    }

    (built,) = rbac.policies(authorization({"rules": [rule]}), SETTINGS, 80).values()

    assert [len(part.and_ids.ids) for part in built.principals] == [2, 2]
    assert [len(part.and_rules.rules) for part in built.permissions] == [2, 2]
