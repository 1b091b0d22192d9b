"""One proxy's configuration: isolation, order, memory of what was built, and who it was made of."""

import random
from typing import Any

from google.protobuf.json_format import MessageToDict
from tests.unit.mesh.objects import GATEWAY_POD, decode, endpoints, pod, virtual_service

from apirule.apis.meta import ObjectRef, Resource
from apirule.mesh.build import build
from apirule.mesh.config import ProxyConfig, TypeUrl
from apirule.mesh.memo import Memo
from apirule.mesh.snapshot import Snapshot
from apirule.names import ObjectName

TABLE = "http.18080"


def gateway_of(
    resources: list[Resource],
    memo: Memo | None = None,
    rejected: dict[ObjectRef, str] | None = None,
) -> ProxyConfig:
    snapshot = Snapshot.of(resources, rejected=rejected)
    proxy = snapshot.proxy(ObjectName("istio-system", "gw"))
    assert proxy is not None
    return build(snapshot, proxy, memo)


def hosts_of(config: ProxyConfig) -> dict[str, list[dict[str, Any]]]:
    table = MessageToDict(config.resources[TypeUrl.ROUTE][TABLE])
    return {host["domains"][0]: host.get("routes", []) for host in table["virtualHosts"]}


def serialized(config: ProxyConfig) -> list[tuple[str, str, bytes]]:
    return [
        (url, name, message.SerializeToString(deterministic=True))
        for url, group in config.resources.items()
        for name, message in group.items()
    ]


def test_a_gateway_without_rules_answers_404_for_every_host() -> None:
    assert hosts_of(gateway_of(decode(GATEWAY_POD))) == {"*": []}


def test_the_order_in_which_resources_arrive_changes_nothing() -> None:
    resources = decode(GATEWAY_POD + pod("a", sidecar=5) + endpoints("a", 5))
    for index in range(5):
        resources += virtual_service(f"vs{index}", hosts=[f"h{index % 2}.example.com"])
    shuffled = random.Random(1).sample(resources, len(resources))  # noqa: S311 - not a secret

    assert serialized(gateway_of(resources)) == serialized(gateway_of(shuffled))


def test_remembering_changes_nothing_but_the_time() -> None:
    memo = Memo()
    resources = decode(GATEWAY_POD) + virtual_service("vs")
    gateway_of(resources, memo)
    changed = [r for r in resources if r.metadata.name != "vs"] + virtual_service(
        "vs", http="[{directResponse: {status: 204}}]", generation=2
    )

    assert serialized(gateway_of(changed, memo)) == serialized(gateway_of(changed))
    assert serialized(gateway_of(changed, memo)) != serialized(gateway_of(resources, memo))


def test_a_service_that_appears_mends_a_route_of_an_unchanged_rule() -> None:
    memo = Memo()
    late = virtual_service("vs", http="[{route: [{destination: {host: late}}]}]")
    before = gateway_of(decode(GATEWAY_POD) + late, memo)
    service = decode(
        "{apiVersion: v1, kind: Service, metadata: {name: late, namespace: web},"
        " spec: {ports: [{port: 80}]}}"
    )

    after = gateway_of(decode(GATEWAY_POD) + late + service, memo)

    assert [p.reason for p in before.problems[late[0].ref]] == ["NotFound"]
    assert late[0].ref not in after.problems
    assert "outbound|80||late.web.svc.cluster.local" in after.resources[TypeUrl.CLUSTER]


def test_a_rule_in_error_leaves_the_others_alone() -> None:
    good = virtual_service("good", hosts=["good.example.com"])
    bad = virtual_service("bad", hosts=["bad.example.com"], http="[{match: [{uri: {regex: '('}}]}]")

    config = gateway_of(decode(GATEWAY_POD) + good + bad)

    assert set(hosts_of(config)) == {"*", "good.example.com"}
    assert bad[0].ref in config.problems
    assert good[0].ref not in config.problems


def test_a_match_in_error_does_not_widen_the_routes_after_it() -> None:
    rule = virtual_service(
        "vs",
        http="[{match: [{uri: {regex: '('}}], directResponse: {status: 403}},"
        " {route: [{destination: {host: shop}}]}]",
    )

    assert set(hosts_of(gateway_of(decode(GATEWAY_POD) + rule))) == {"*"}


def test_a_rejected_rule_is_served_no_more() -> None:
    rule = virtual_service("vs")

    config = gateway_of(decode(GATEWAY_POD) + rule, rejected={rule[0].ref: "because"})

    assert set(hosts_of(config)) == {"*"}


def test_a_catch_all_stands_behind_the_routes_of_younger_rules() -> None:
    older = virtual_service("older", http="[{directResponse: {status: 200}}]")
    younger = virtual_service(
        "younger",
        http="[{match: [{uri: {prefix: /a}}], directResponse: {status: 201}},"
        " {match: [{uri: {prefix: /}}], directResponse: {status: 202}}]",
        created="2026-02-01T00:00:00Z",
    )

    routes = hosts_of(gateway_of(decode(GATEWAY_POD) + younger + older))["shop.example.com"]

    assert [route["name"] for route in routes] == ["web/younger/0", "web/older/0", "web/younger/1"]


def test_a_catch_all_with_a_condition_keeps_its_place() -> None:
    rule = virtual_service(
        "vs",
        http="[{match: [{method: {exact: GET}}], directResponse: {status: 200}},"
        " {match: [{uri: {exact: /a}}], directResponse: {status: 201}}]",
    )

    routes = hosts_of(gateway_of(decode(GATEWAY_POD) + rule))["shop.example.com"]

    assert [route["name"] for route in routes] == ["web/vs/0", "web/vs/1"]


def test_a_rule_of_another_namespace_names_the_gateway_in_full() -> None:
    short = virtual_service("short", hosts=["a.example.com"], namespace="other")
    full = virtual_service(
        "full",
        hosts=["b.example.com"],
        gateways="[web/edge]",
        http="[{directResponse: {status: 200}}]",
        namespace="other",
    )

    assert set(hosts_of(gateway_of(decode(GATEWAY_POD) + short + full))) == {"*", "b.example.com"}


def test_a_host_no_server_accepts_is_reported() -> None:
    rule = virtual_service("vs", hosts=["shop.example.org"])

    config = gateway_of(decode(GATEWAY_POD) + rule)

    (problem,) = config.problems[rule[0].ref]
    assert (str(problem.field), problem.severity) == ("spec.hosts[0]", "warning")


def test_a_gateway_is_told_only_of_services_its_rules_name() -> None:
    other = decode(
        "{apiVersion: v1, kind: Service, metadata: {name: other, namespace: web},"
        " spec: {ports: [{port: 80}]}}"
    )

    config = gateway_of(decode(GATEWAY_POD) + other + virtual_service("vs"))

    assert list(config.resources[TypeUrl.CLUSTER]) == ["outbound|80||shop.web.svc.cluster.local"]


def test_every_resource_names_the_objects_it_was_made_of() -> None:
    rule = virtual_service("vs")

    config = gateway_of(decode(GATEWAY_POD + pod("a") + endpoints("a", 5)) + rule)

    gateway = ObjectRef("networking.istio.io", "Gateway", "web", "edge")
    assert config.sources[TypeUrl.ROUTE, TABLE] == {gateway, rule[0].ref}
    assert config.sources[TypeUrl.LISTENER, "gateway_18080"] == {gateway}
    assert {
        str(ref)
        for ref in config.sources[TypeUrl.ENDPOINT, "outbound|80||shop.web.svc.cluster.local"]
    } == {"Service web/shop", "EndpointSlice web/a"}
    named = {(url, name) for url, group in config.resources.items() for name in group}
    assert named == config.sources.keys()


def test_all_that_is_referenced_is_delivered() -> None:
    resources = decode(GATEWAY_POD + pod("a", sidecar=5) + endpoints("a", 5)) + virtual_service("v")
    config = gateway_of(resources)

    listener = str(MessageToDict(config.resources[TypeUrl.LISTENER]["gateway_18080"]))

    assert all(
        f"'routeConfigName': '{name}'" in listener for name in config.resources[TypeUrl.ROUTE]
    )
    for name in config.resources[TypeUrl.EXTENSION]:
        assert not name.startswith("istio-system/gw/8080/") or f"'name': '{name}'" in listener
    assert config.resources[TypeUrl.CLUSTER].keys() == config.resources[TypeUrl.ENDPOINT].keys()


def test_a_redirect_between_the_usual_ports_names_none() -> None:
    usual = GATEWAY_POD.replace("hostPort: 18443", "hostPort: 443").replace(
        "hostPort: 18080", "hostPort: 80"
    )
    redirecting = """
---
apiVersion: networking.istio.io/v1beta1
kind: Gateway
metadata: {name: r, namespace: a}
spec:
  servers:
    - {port: {number: 80, protocol: HTTP}, hosts: ["r.example.com"], tls: {httpsRedirect: true}}
"""

    config = gateway_of(decode(usual + redirecting))

    table = MessageToDict(config.resources[TypeUrl.ROUTE]["http.80"])
    (host,) = (h for h in table["virtualHosts"] if h["domains"] == ["r.example.com"])
    assert host["routes"][0]["redirect"] == {"httpsRedirect": True}


def test_a_gateway_without_its_certificate_opens_nothing_and_tells_its_rules() -> None:
    tls = """
---
apiVersion: networking.istio.io/v1beta1
kind: Gateway
metadata: {name: secure, namespace: web}
spec:
  servers:
    - port: {number: 443, name: https, protocol: HTTPS}
      hosts: ["*.example.com"]
      tls: {mode: SIMPLE, credentialName: missing}
"""
    rule = virtual_service("vs", gateways="[secure]")

    config = gateway_of(decode(GATEWAY_POD + tls) + rule)

    assert list(config.resources[TypeUrl.LISTENER]) == ["gateway_18080"]
    assert list(config.resources[TypeUrl.ROUTE]) == [TABLE]
    assert [str(p.field) for p in config.problems[rule[0].ref]] == ["spec.hosts[0]"]
    gateway = ObjectRef("networking.istio.io", "Gateway", "web", "secure")
    assert "There is no Secret istio-system/missing" in str(config.problems[gateway][0])
