import pytest
from tests.unit.mesh.objects import GATEWAY_POD, decode, endpoints, pod, virtual_service

from apirule.apis import core, networking
from apirule.mesh.snapshot import Snapshot
from apirule.names import ObjectName


@pytest.mark.parametrize(
    ("host", "namespace", "found"),
    [
        ("shop", "web", True),
        ("shop", "other", False),
        ("shop.web.svc.cluster.local", "other", True),
        ("shop.web", "other", False),
    ],
)
def test_a_service_is_found_as_istio_finds_it(host: str, namespace: str, found: bool) -> None:
    service = Snapshot.of(decode(GATEWAY_POD)).service(host, namespace)

    assert (service is not None) == found


def test_the_oldest_comes_first_and_names_decide_between_equals() -> None:
    resources = (
        virtual_service("b", created="2026-01-02T00:00:00Z")
        + virtual_service("z", created="2026-01-01T00:00:00Z")
        + virtual_service("a", created="2026-01-02T00:00:00Z")
    )

    found = Snapshot.of(resources).of_kind(networking.VirtualService, "web")

    assert [service.metadata.name for service in found] == ["z", "a", "b"]


def test_a_rule_without_gateways_is_for_the_mesh() -> None:
    snapshot = Snapshot.of(
        virtual_service("inside", gateways="[]") + virtual_service("both", gateways="[mesh, edge]")
    )

    inside = {service.metadata.name for service in snapshot.mesh_virtual_services}
    edge = {s.metadata.name for s in snapshot.virtual_services(ObjectName("web", "edge"))}

    assert (inside, edge) == ({"inside", "both"}, {"both"})


def test_an_endpoint_knows_its_pod_its_sidecar_and_the_port_policies_name() -> None:
    snapshot = Snapshot.of(decode(GATEWAY_POD + pod("a", sidecar=5) + endpoints("a", 5)))
    service = snapshot.services[ObjectName("web", "shop")]

    (endpoint,) = snapshot.endpoints(service, service.spec.ports[0])

    assert (endpoint.address, endpoint.port, endpoint.workload_port) == ("127.0.0.1", 5, 80)
    assert endpoint.pod is not None
    assert endpoint.proxy is not None
    assert endpoint.proxy.name == ObjectName("web", "a")


def test_endpoints_of_other_ports_and_services_do_not_count() -> None:
    text = pod("a") + endpoints("a", 5, service="other")
    text += endpoints("b", 6).replace("name: http", "name: admin")
    snapshot = Snapshot.of(decode(GATEWAY_POD + text))
    service = snapshot.services[ObjectName("web", "shop")]

    assert snapshot.endpoints(service, service.spec.ports[0]) == ()


def test_pods_are_selected_by_all_labels() -> None:
    text = pod("a", labels="{app: shop, v: one}") + pod("b", labels="{app: shop, v: two}")
    snapshot = Snapshot.of(decode(GATEWAY_POD + text))

    def names(selector: dict[str, str]) -> list[str]:
        return [p.metadata.name for p in snapshot.pods_selected("web", selector)]

    assert names({"app": "shop"}) == ["a", "b"]
    assert names({"app": "shop", "v": "two"}) == ["b"]
    assert names({"app": "shop", "v": "three"}) == []
    assert names({}) == ["a", "b"]


def test_refused_routes_are_left_out_and_refused_policies_are_kept() -> None:
    policy = decode(
        "{apiVersion: security.istio.io/v1beta1, kind: AuthorizationPolicy,"
        " metadata: {name: p, namespace: web}}"
    )
    rule = virtual_service("vs")

    snapshot = Snapshot.of(rule + policy, rejected={rule[0].ref: "no", policy[0].ref: "no"})

    assert snapshot.of_kind(networking.VirtualService) == ()
    assert len(snapshot.authorization_policies("web")) == 1


def test_a_gateway_pod_is_no_sidecar() -> None:
    snapshot = Snapshot.of(decode(GATEWAY_POD + pod("a", sidecar=5) + pod("b")))

    roles = {proxy.name.name: str(proxy.role) for proxy in snapshot.proxies()}

    assert roles == {"gw": "gateway", "a": "sidecar"}
    assert [snapshot.sidecar(p) is not None for p in snapshot.of_kind(core.Pod)] == [
        True,
        False,
        False,
    ]


def test_spoiled_annotations_take_one_pod_out_and_no_other() -> None:
    good = pod("good", sidecar=5) + endpoints("good", 5)
    bad = pod("bad", sidecar=6).replace('[{"port"', "[{port") + endpoints("bad", 6)
    snapshot = Snapshot.of(decode(GATEWAY_POD + good + bad))
    service = snapshot.services[ObjectName("web", "shop")]

    proxies = {proxy.name.name for proxy in snapshot.proxies()}
    ports = [endpoint.port for endpoint in snapshot.endpoints(service, service.spec.ports[0])]

    assert proxies == {"gw", "good"}
    assert ports == [5]


def test_an_endpoint_whose_pod_is_not_known_is_not_called_in_plain_text() -> None:
    elsewhere = endpoints("outside", 7)
    elsewhere = elsewhere[: elsewhere.index("    targetRef")]
    snapshot = Snapshot.of(decode(GATEWAY_POD + endpoints("gone", 5) + elsewhere))
    service = snapshot.services[ObjectName("web", "shop")]

    ports = [endpoint.port for endpoint in snapshot.endpoints(service, service.spec.ports[0])]

    assert ports == [7]
