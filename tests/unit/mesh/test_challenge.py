"""Which requests are asked for a token."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.rbac.v3.rbac_pb2 import RBAC, Principal
from tests.unit.mesh.policies_given import authorization

from apirule.mesh import challenge
from apirule.mesh.config import MeshSettings

INGRESS = "cluster.local/ns/istio-system/sa/gw"
BY_TOKEN = {"source": {"requestPrincipals": ["https://a.example/*"], "principals": [INGRESS]}}
CLAIM = {"key": "request.auth.claims[scope]", "values": ["read"]}
TO = [{"operation": {"paths": ["/a"]}}]


def marker(*rules: dict[str, Any]) -> RBAC | None:
    policy = authorization({"rules": list(rules)})
    return challenge.marker([policy], MeshSettings(), 80)


@pytest.mark.parametrize(
    ("rule", "marked"),
    [
        ({"from": [BY_TOKEN]}, True),
        ({"when": [CLAIM]}, True),
        ({"when": [{"key": "request.auth.principal", "values": ["*"]}]}, True),
        ({}, False),
        ({"from": [{"source": {"principals": [INGRESS]}}]}, False),
        ({"from": [{"source": {"notRequestPrincipals": ["*"]}}]}, False),
        ({"when": [{"key": CLAIM["key"], "notValues": ["read"]}]}, False),
        ({"when": [{"key": "request.headers[x]", "values": ["read"]}]}, False),
    ],
)
def test_a_rule_is_marked_when_only_a_token_meets_it(rule: dict[str, Any], *, marked: bool) -> None:
    assert (marker(rule | {"to": TO}) is not None) == marked


def test_a_mark_keeps_all_that_is_not_of_the_token() -> None:
    header = {"key": "request.headers[x]", "values": ["y"]}

    mark = marker({"from": [BY_TOKEN], "to": TO, "when": [CLAIM, header]})

    assert mark is not None
    (policy,) = mark.policies.values()
    caller, team = policy.principals[0].and_ids.ids
    assert caller.authenticated.principal_name.exact == f"spiffe://{INGRESS}"
    assert team.header.name == "x"
    assert policy.permissions[0].url_path.path.exact == "/a"


def test_sources_no_token_is_asked_of_are_not_in_the_mark() -> None:
    internal = {"source": {"namespaces": ["a"]}}
    by_token_alone = {"source": {"requestPrincipals": ["*"]}}

    mark = marker({"from": [internal, by_token_alone], "to": TO})

    assert mark is not None
    (policy,) = mark.policies.values()
    assert list(policy.principals) == [Principal(any=True)]


def test_a_mark_never_says_deny() -> None:
    mark = marker({"from": [BY_TOKEN]})

    assert mark is not None
    assert mark.action == RBAC.ALLOW


@pytest.mark.parametrize(("status", "mappers"), [(401, 3), (403, 1)])
def test_the_realm_is_kept_clean_in_both_modes(status: int, mappers: int) -> None:
    reply = challenge.local_reply(MeshSettings(missing_token_status=status))

    assert len(reply.mappers) == mappers
    assert 'error="invalid_token"' in reply.mappers[0].headers_to_add[0].header.value
