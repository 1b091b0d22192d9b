"""How gateways get into a workload that no ALLOW policy guards."""

from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from tests.unit.mesh.objects import GATEWAY_POD, decode, endpoints, pod, virtual_service

from apirule.apis.meta import Resource
from apirule.mesh.build import build
from apirule.mesh.config import MeshSettings, ProxyConfig, TypeUrl
from apirule.mesh.entrance import entrance
from apirule.mesh.snapshot import Snapshot
from apirule.names import ObjectName

GATEWAYS = {
    "spiffe://cluster.local/ns/istio-system/sa/default",
    "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account",
}
WORKLOAD = pod("a", sidecar=3) + endpoints("a", 3)
OTHER = """
---
apiVersion: v1
kind: Service
metadata: {name: other, namespace: web}
spec: {selector: {app: other}, ports: [{name: http, port: 80}]}
"""
LISTED = """
---
apiVersion: v1
kind: Service
metadata: {name: listed, namespace: web}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: listed, namespace: web, labels: {kubernetes.io/service-name: listed}}
ports: [{name: http, port: 3}]
endpoints: [{addresses: [127.0.0.1], targetRef: {kind: Pod, name: a}}]
"""
POLICY = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: policy, namespace: web%s}
spec: {rules: [{to: [{operation: {paths: [/a]}}]}]}
"""
TRIED = ", annotations: {istio.io/dry-run: 'true'}"
OF_RULE = (
    ", labels: {apirule.gateway.kyma-project.io/name: r,"
    " apirule.gateway.kyma-project.io/namespace: web}"
)
ENTRY = """
---
apiVersion: networking.istio.io/v1beta1
kind: ServiceEntry
metadata: {name: entry, namespace: elsewhere}
spec:
  hosts: [gone.web.svc.cluster.local]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.9}]
"""


def built(text: str, more: list[Resource], name: ObjectName) -> ProxyConfig:
    snapshot = Snapshot.of([*decode(GATEWAY_POD + WORKLOAD + text), *more])
    proxy = snapshot.proxy(name)
    assert proxy is not None
    return build(snapshot, proxy)


def allow(text: str = "", *more: Resource) -> dict[str, Any]:
    """Return the policies of the sidecar's ALLOW filter; empty if everybody passes."""
    config = built(text, list(more), ObjectName("web", "a"))
    extension = MessageToDict(config.resources[TypeUrl.EXTENSION]["web/a/80/allow"])
    rules: dict[str, Any] = extension["typedConfig"].get("rules", {})
    return dict(rules.get("policies", {}))


def hosts(policies: dict[str, Any]) -> set[str]:
    """Return the hosts under which gateways get in."""
    permissions = policies.get("routes-without-an-apirule", {}).get("permissions", [])
    return {
        text
        for permission in permissions
        for kind, text in permission["header"]["stringMatch"].items()
        if kind == "exact"
    }


def places(text: str, *more: Resource) -> list[int]:
    """Return the ports the gateway may call of Service ``shop``."""
    config = built(text, list(more), ObjectName("istio-system", "gw"))
    name = "outbound|80||shop.web.svc.cluster.local"
    groups = MessageToDict(config.resources[TypeUrl.ENDPOINT][name]).get("endpoints", [])
    return [
        endpoint["endpoint"]["address"]["socketAddress"]["portValue"]
        for group in groups
        for endpoint in group["lbEndpoints"]
    ]


def test_without_policies_and_routes_no_gateway_gets_in() -> None:
    policies = allow()

    (inside,) = policies.values()
    ids = inside["principals"][0]["notId"]["orIds"]["ids"]
    assert {one["authenticated"]["principalName"]["exact"] for one in ids} == GATEWAYS
    assert inside["permissions"] == [{"any": True}]


def test_a_gateway_is_one_under_every_name_of_the_mesh() -> None:
    resources = decode(GATEWAY_POD + WORKLOAD)
    settings = MeshSettings(trust_domain_aliases=("old.mesh",))
    snapshot = Snapshot.of(resources, settings=settings)
    proxy = snapshot.proxy(ObjectName("web", "a"))
    assert proxy is not None

    door = entrance(snapshot, proxy)

    assert door is not None
    assert set(door.gateways) == GATEWAYS | {
        gateway.replace("cluster.local", "old.mesh") for gateway in GATEWAYS
    }


def test_the_routes_of_an_apirule_let_no_gateway_in() -> None:
    assert hosts(allow("", *virtual_service("vs", rule="r"))) == set()


def test_routes_of_ones_own_let_gateways_in_under_their_hosts() -> None:
    assert hosts(allow("", *virtual_service("vs", hosts=("Shop.example.com",)))) == {
        "shop.example.com"
    }


def test_routes_to_another_workload_do_not() -> None:
    routes = virtual_service("vs", http="[{route: [{destination: {host: other}}]}]")

    assert hosts(allow(OTHER, *routes)) == set()


def test_routes_to_a_namesake_in_another_namespace_do_not() -> None:
    elsewhere = OTHER.replace("namespace: web", "namespace: else").replace(
        "app: other", "app: shop"
    )
    destination = "other.else.svc.cluster.local"
    http = f"[{{route: [{{destination: {{host: {destination}}}}}]}}]"

    assert not hosts(allow(elsewhere, *virtual_service("own", http=http)))


@pytest.mark.parametrize(
    "http",
    [
        "[{route: [{destination: {host: other}}], mirror: {host: shop}}]",
        "[{route: [{destination: {host: shop.web.svc.cluster.local}}]}]",
        "[{route: [{destination: {host: listed}}]}]",
    ],
    ids=["copies", "the full name", "a Service whose endpoints somebody lists"],
)
def test_every_way_to_the_workload_counts(http: str) -> None:
    routes = virtual_service("vs", http=http)

    assert hosts(allow(OTHER + LISTED, *routes)) == {"shop.example.com"}


@pytest.mark.parametrize(
    "http",
    [
        "[{rewrite: {authority: new.test}, route: [{destination: {host: shop}}]}]",
        "[{headers: {request: {set: {Host: new.test}}}, route: [{destination: {host: shop}}]}]",
        "[{route: [{destination: {host: shop}, headers: {request: {set: {host: new.test}}}}]}]",
    ],
    ids=["rewrite", "header", "header of a destination"],
)
def test_a_request_that_gets_another_host_on_its_way_comes_in_under_that(http: str) -> None:
    assert "new.test" in hosts(allow("", *virtual_service("vs", http=http)))


def test_routes_for_every_host_are_istios_way() -> None:
    assert allow("", *virtual_service("vs", hosts=("*",))) == {}


def test_routes_inside_the_mesh_say_nothing_about_gateways() -> None:
    routes = virtual_service("vs", hosts=("shop",), gateways="[mesh]")

    assert hosts(allow("", *routes)) == set()


def test_an_allow_policy_takes_the_place_of_it() -> None:
    assert set(allow(POLICY % "")) == {"ns[web]-policy[policy]-rule[0]"}


def test_a_policy_that_is_only_tried_does_not() -> None:
    assert set(allow(POLICY % TRIED)) == {"inside-the-mesh"}


def test_what_was_made_from_an_apirule_cannot_be_only_tried() -> None:
    assert set(allow(POLICY % (TRIED + OF_RULE))) == {"ns[web]-policy[policy]-rule[0]"}


def test_of_a_service_that_an_apirule_exposes_only_sidecars_are_called() -> None:
    bare = pod("bare") + endpoints("bare", 8)

    assert places(bare, *virtual_service("vs", rule="r")) == [3]
    assert places(bare, *virtual_service("vs")) == [3, 8]


def test_an_endpoint_of_no_pod_is_not_called_for_an_apirule() -> None:
    stray = endpoints("stray", 9)

    assert places(stray, *virtual_service("vs", rule="r")) == [3]


def test_a_service_entry_does_not_take_the_place_of_an_exposed_service() -> None:
    http = "[{route: [{destination: {host: gone.web.svc.cluster.local, port: {number: 80}}}]}]"
    gateway = ObjectName("istio-system", "gw")

    ours = built(ENTRY, virtual_service("vs", rule="r", http=http), gateway)
    theirs = built(ENTRY, virtual_service("vs", http=http), gateway)

    name = "outbound|80||gone.web.svc.cluster.local"
    assert name not in ours.resources.get(TypeUrl.CLUSTER, {})
    assert name in theirs.resources[TypeUrl.CLUSTER]
