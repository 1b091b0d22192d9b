"""Which policies hold for a workload, and which of them close it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.mesh.policies_given import WEB, resource

from apirule.mesh import security
from apirule.mesh.policies import MTLSMode, mtls_mode, policies_for
from apirule.mesh.snapshot import Snapshot

OPEN: dict[str, Any] = {"rules": [{}]}


def names(spec: dict[str, Any], **metadata: Any) -> list[str]:
    snapshot = Snapshot.of([resource("AuthorizationPolicy", "ap", spec, **metadata)])
    return [policy.metadata.name for policy in policies_for(snapshot, WEB).allow]


@pytest.mark.parametrize(
    ("labels", "namespace", "selected"),
    [
        (None, "shop", True),
        ({}, "shop", True),
        ({"app": "web"}, "shop", True),
        ({"app": "other"}, "shop", False),
        ({"app": "web", "tier": "x"}, "shop", False),
        (None, "other", False),
        (None, "istio-system", True),
        ({"app": "web"}, "istio-system", True),
        ({"app": "other"}, "istio-system", False),
    ],
)
def test_a_policy_holds_where_its_selector_fits(
    labels: dict[str, str] | None, namespace: str, *, selected: bool
) -> None:
    selector = {} if labels is None else {"selector": {"matchLabels": labels}}

    assert bool(names(OPEN | selector, namespace=namespace)) == selected


def test_policies_come_root_first_and_oldest_first() -> None:
    snapshot = Snapshot.of(
        resource("AuthorizationPolicy", name, OPEN, namespace=ns, creationTimestamp=created)
        for name, ns, created in (
            ("young", "shop", "2026-01-03T00:00:00Z"),
            ("b", "shop", "2026-01-01T00:00:00Z"),
            ("a", "shop", "2026-01-01T00:00:00Z"),
            ("root", "istio-system", "2026-01-09T00:00:00Z"),
        )
    )

    found = [policy.metadata.name for policy in policies_for(snapshot, WEB).allow]

    assert found == ["root", "a", "b", "young"]


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("AuthorizationPolicy", OPEN),
        ("RequestAuthentication", {"jwtRules": [{"issuer": "https://a.example"}]}),
        ("PeerAuthentication", {"mtls": {"mode": "PERMISSIVE"}}),
    ],
)
def test_a_policy_envoy_refused_closes_the_workload_and_says_why(
    kind: str, spec: dict[str, Any]
) -> None:
    policy = resource(kind, "bad", spec)
    snapshot = Snapshot.of([policy], rejected={policy.ref: "Provider 'x' is invalid"})

    found = policies_for(snapshot, WEB)

    assert found.closed == (policy.ref,)
    assert (found.authentications, found.allow) == ((), ())
    assert "Provider 'x' is invalid" in found.problems[policy.ref][0].message


@pytest.mark.parametrize("action", ["CUSTOM", "allow", "SOMETHING", ""])
def test_an_action_we_do_not_know_closes_the_workload(action: str) -> None:
    policy = resource("AuthorizationPolicy", "ap", {"action": action, "rules": [{}]})

    found = policies_for(Snapshot.of([policy]), WEB)

    assert found.closed == (policy.ref,)


def test_a_policy_that_selects_somebody_else_closes_nothing() -> None:
    spec = {"selector": {"matchLabels": {"app": "other"}}, "action": "CUSTOM"}

    found = policies_for(Snapshot.of([resource("AuthorizationPolicy", "ap", spec)]), WEB)

    assert found.closed == ()


@pytest.mark.parametrize(
    ("mesh", "home", "workload", "ports", "mode"),
    [
        (None, None, None, {}, "PERMISSIVE"),
        ("STRICT", None, None, {}, "STRICT"),
        ("STRICT", "DISABLE", None, {}, "DISABLE"),
        ("STRICT", "UNSET", None, {}, "STRICT"),
        ("STRICT", "DISABLE", "PERMISSIVE", {}, "PERMISSIVE"),
        ("STRICT", "DISABLE", "UNSET", {}, "DISABLE"),
        ("STRICT", "DISABLE", "PERMISSIVE", {"80": "STRICT"}, "STRICT"),
        ("STRICT", "DISABLE", "PERMISSIVE", {"81": "STRICT"}, "PERMISSIVE"),
        ("STRICT", "DISABLE", "PERMISSIVE", {"80": "UNSET"}, "PERMISSIVE"),
        (None, None, "SOMETHING", {}, "STRICT"),
    ],
)
def test_the_nearest_peer_authentication_decides(
    mesh: str | None, home: str | None, workload: str | None, ports: dict[str, str], mode: str
) -> None:
    selector = {"selector": {"matchLabels": {"app": "web"}}}
    of_ports = {"portLevelMtls": {port: {"mode": value} for port, value in ports.items()}}
    given: tuple[tuple[str, str | None, dict[str, Any]], ...] = (
        ("istio-system", mesh, {}),
        ("shop", home, {}),
        ("shop", workload, selector | (of_ports if ports else {})),
    )
    snapshot = Snapshot.of(
        resource(
            "PeerAuthentication",
            f"pa-{index}",
            {"mtls": {"mode": value}, **spec},
            namespace=namespace,
        )
        for index, (namespace, value, spec) in enumerate(given)
        if value is not None
    )

    assert mtls_mode(snapshot, WEB, 80) == MTLSMode(mode)


def test_the_oldest_of_a_scope_counts() -> None:
    snapshot = Snapshot.of(
        resource("PeerAuthentication", name, {"mtls": {"mode": mode}}, creationTimestamp=created)
        for name, mode, created in (
            ("a", "DISABLE", "2026-01-02T00:00:00Z"),
            ("b", "STRICT", "2026-01-01T00:00:00Z"),
        )
    )

    assert mtls_mode(snapshot, WEB, 80) is MTLSMode.STRICT


def test_what_a_namespace_says_of_its_workload_outweighs_the_root_namespace() -> None:
    selector = {"selector": {"matchLabels": {"app": "web"}}}
    snapshot = Snapshot.of(
        resource("PeerAuthentication", name, {"mtls": {"mode": mode}, **selector}, namespace=ns)
        for name, mode, ns in (("a", "DISABLE", "istio-system"), ("b", "STRICT", "shop"))
    )

    assert mtls_mode(snapshot, WEB, 80) is MTLSMode.STRICT


def test_what_cannot_be_tried_only_closes_the_workload() -> None:
    policy = resource(
        "AuthorizationPolicy",
        "ap",
        {**OPEN, "action": "AUDIT"},
        annotations={"istio.io/dry-run": "true"},
    )

    found = policies_for(Snapshot.of([policy]), WEB)

    assert found.closed == (policy.ref,)
    assert "cannot be tried only" in found.problems[policy.ref][0].message


def test_every_filter_of_every_port_has_its_resource() -> None:
    snapshot = Snapshot.of([])

    extensions = security.extensions(snapshot, WEB)

    wanted = [part for port in (80, 81) for part in security.http_filters(WEB, port)]
    assert [part.name for part in wanted] == list(extensions)
    for part in wanted:
        type_url = extensions[part.name].typed_config.type_url
        assert type_url in part.config_discovery.type_urls
        assert not part.config_discovery.HasField("default_config")
    assert set(security.sources(snapshot, WEB)) == set(extensions)


def test_the_same_policies_give_the_same_bytes_in_any_order() -> None:
    policies = [
        resource(
            "AuthorizationPolicy", name, {"rules": [{"to": [{"operation": {"paths": ["/a"]}}]}]}
        )
        for name in ("a", "b", "c")
    ]

    one = security.extensions(Snapshot.of(policies), WEB)
    other = security.extensions(Snapshot.of(reversed(policies)), WEB)

    assert one == other


@pytest.mark.parametrize(
    "rule",
    [
        {"to": [{"operation": {"ports": ["80"]}}]},
        {"to": [{"operation": {"notPorts": ["81"]}}]},
        {"when": [{"key": "destination.port", "values": ["80"]}]},
        {"when": [{"key": "destination.port", "notValues": ["81"]}]},
    ],
)
@pytest.mark.parametrize("action", ["ALLOW", "DENY", "AUDIT"])
def test_a_rule_for_one_port_is_not_enforced_on_another(action: str, rule: dict[str, Any]) -> None:
    snapshot = Snapshot.of(
        [resource("AuthorizationPolicy", "ap", {"action": action, "rules": [rule]})]
    )

    extensions = security.extensions(snapshot, WEB)

    guard = action.lower()
    one, other = (extensions[f"shop/web/{port}/{guard}"].typed_config for port in (80, 81))
    assert one != other
