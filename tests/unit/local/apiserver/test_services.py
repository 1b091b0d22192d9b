"""Services: their addresses and node ports, and what they lose with their type."""

from typing import Any

import pytest

from apirule.apis.meta import Object
from apirule.local.apiserver import services
from apirule.local.apiserver.services import Taken


def service(name: str = "s", **spec: Any) -> Object:
    return {
        "metadata": {"namespace": "n", "name": name},
        "spec": {"ports": [{"port": 80}], **spec},
    }


def complete(obj: Object, old: Object | None = None, *others: Object) -> Any:
    return services.complete(obj, old, Taken.of(others))["spec"]


def test_an_address_depends_on_the_name_until_another_service_has_it() -> None:
    first, again, other = (complete(service(name)) for name in ("s", "s", "t"))

    shifted = complete(service(), None, {"spec": first})

    assert first["clusterIP"].startswith("10.96.")
    assert first["clusterIP"] == again["clusterIP"] != other["clusterIP"]
    assert shifted["clusterIP"] not in (first["clusterIP"], "")
    assert shifted["clusterIPs"] == [shifted["clusterIP"]]


def test_a_service_keeps_the_address_and_the_ports_it_has() -> None:
    old = {**service(), "spec": complete(service(type="NodePort", clusterIP="10.0.0.1"))}

    changed = complete(service(type="NodePort", ports=[{"port": 80}, {"port": 81}]), old)

    kept, new = (port["nodePort"] for port in changed["ports"])
    assert changed["clusterIP"] == "10.0.0.1"
    assert kept == old["spec"]["ports"][0]["nodePort"] != new


@pytest.mark.parametrize("kind", ["NodePort", "LoadBalancer"])
def test_each_port_gets_a_node_port_of_its_own(kind: str) -> None:
    ports = [{"port": 80, "nodePort": 30001}, {"port": 81}, {"port": 81, "protocol": "UDP"}]
    wanted = complete(service(type=kind, ports=ports))
    taken = wanted["ports"][1]["nodePort"]
    other = {"spec": {"ports": [{"nodePort": taken}]}}

    moved = complete(service(type=kind, ports=ports), None, other)

    numbers = [port["nodePort"] for port in moved["ports"]]
    assert numbers[0] == 30001
    assert len({*numbers, taken}) == 4
    assert all(30000 <= number <= 32767 for number in numbers)
    assert wanted["externalTrafficPolicy"] == "Cluster"


def test_a_load_balancer_may_do_without_node_ports() -> None:
    spec = complete(service(type="LoadBalancer", allocateLoadBalancerNodePorts=False))

    assert "nodePort" not in spec["ports"][0]


def test_other_types_get_no_node_ports_and_a_name_no_address() -> None:
    plain, named = complete(service()), complete(service(type="ExternalName", externalName="a.b"))

    assert "nodePort" not in plain["ports"][0]
    assert "clusterIP" not in named


def test_what_is_asked_for_and_taken_is_refused() -> None:
    obj = service(clusterIP="10.96.0.9", ports=[{"port": 80, "nodePort": 30001}])
    other = {"spec": {"clusterIP": "10.96.0.9", "ports": [{"nodePort": 30001}]}}

    found = [str(p) for p in services.check(obj, None, Taken.of([other]))]

    assert found == [
        (
            'spec.clusterIPs: Invalid value: ["10.96.0.9"]: failed to allocate IP 10.96.0.9:'
            " provided IP is already allocated"
        ),
        "spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated",
    ]
    # It was so before: that is no reason to freeze it.
    assert list(services.check(obj, obj, Taken.of([other]))) == []


def test_headless_services_share_nothing() -> None:
    headless = service(clusterIP="None")

    assert list(services.check(headless, None, Taken.of([headless]))) == []
    assert complete(headless)["clusterIP"] == "None"


def test_a_change_of_type_takes_along_what_only_the_old_type_had() -> None:
    old = {**service(), "spec": complete(service(type="NodePort"))}
    to_name = {**old, "spec": {**old["spec"], "type": "ExternalName", "externalName": "a.b"}}
    to_cluster = {**old, "spec": {**old["spec"], "type": "ClusterIP"}}

    named = services.without_old_type(to_name, old)["spec"]
    plain = services.without_old_type(to_cluster, old)["spec"]

    assert not {"clusterIP", "clusterIPs", "ipFamilies", "externalTrafficPolicy"} & named.keys()
    for spec in (named, plain):
        assert spec["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]
    assert plain["clusterIP"] == old["spec"]["clusterIP"]


def test_what_a_client_asks_of_the_new_type_is_not_taken_from_it() -> None:
    old = {**service(), "spec": complete(service(type="NodePort"))}
    asked = [{"port": 80, "nodePort": 30005}]

    kept = services.without_old_type(service(type="ClusterIP", ports=asked), old)["spec"]

    # Admission refuses it and says why.
    assert kept["ports"] == asked


@pytest.mark.parametrize("spec", [None, [], "x", {"ports": 5}, {"ports": ["x", {"nodePort": []}]}])
def test_what_is_no_service_is_left_to_admission(spec: Any) -> None:
    old = {**service(), "spec": complete(service(type="NodePort"))}
    obj = {"metadata": {}, "spec": spec}

    assert services.without_old_type(obj, old)["spec"] == spec
