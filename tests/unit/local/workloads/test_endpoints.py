from typing import Any

from apirule.apis import core
from apirule.apis.scheme import decode
from apirule.local.workloads.endpoints import endpoints_of, slice_of
from apirule.mesh.snapshot import Snapshot


def service(*ports: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop", "uid": "s1"},
        "spec": {"selector": {"app": "web"}, "ports": list(ports), **spec},
    }


def pod(annotation: str, *ports: dict[str, Any], ready: bool = True, **meta: Any) -> dict[str, Any]:
    state = {"type": "Ready", "status": str(ready), "lastTransitionTime": "2026-01-02T03:04:05Z"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "web-1",
            "namespace": "shop",
            "uid": "p1",
            "labels": {"app": "web"},
            "annotations": {"apirule.local/ports": annotation},
            **meta,
        },
        "spec": {"containers": [{"name": "app", "ports": list(ports)}]},
        "status": {"conditions": [state]},
    }


HTTP = {"name": "http", "port": 80, "targetPort": "web"}
WEB = {"name": "web", "containerPort": 8080}
PLACED = '[{"port": 8080, "app": "127.0.0.1:20001"}]'


def made(service_: dict[str, Any], pod_: dict[str, Any]) -> dict[str, Any]:
    found = slice_of(service_, pod_)
    assert found is not None
    return found


def test_a_named_port_is_looked_up_in_the_pod() -> None:
    assert made(service(HTTP), pod(PLACED, WEB))["ports"] == [
        {"name": "http", "port": 20001, "protocol": "TCP"}
    ]


def test_a_port_that_the_pod_has_not_is_left_out() -> None:
    other = {"name": "admin", "port": 81, "targetPort": 9999}

    ports = made(service(HTTP, other), pod(PLACED, WEB))["ports"]

    assert [port["name"] for port in ports] == ["http"]


def test_readiness_and_the_end_are_told() -> None:
    for ready, meta, expected in (
        (True, {}, (True, True, False)),
        (False, {}, (False, False, False)),
        (True, {"deletionTimestamp": "2026-01-02T03:04:05Z"}, (False, True, True)),
    ):
        piece = made(service(HTTP), pod(PLACED, WEB, ready=ready, **meta))

        conditions = piece["endpoints"][0]["conditions"]
        assert tuple(conditions[k] for k in ("ready", "serving", "terminating")) == expected


def test_a_service_may_want_pods_that_are_not_ready() -> None:
    piece = made(service(HTTP, publishNotReadyAddresses=True), pod(PLACED, WEB, ready=False))

    assert piece["endpoints"][0]["conditions"]["ready"]


def test_a_pod_without_a_place_has_no_slice() -> None:
    assert slice_of(service(HTTP), pod("[]", WEB)) is None


def test_the_engine_finds_an_application_on_a_socket() -> None:
    placed = '[{"port": 8080, "app": "unix:/run/a.sock"}]'
    piece, behind = made(service(HTTP), pod(placed, WEB)), pod(placed, WEB)
    typed = decode(service(HTTP), core.Service)
    snapshot = Snapshot.of([typed, decode(behind, core.Pod), decode(piece, core.EndpointSlice)])

    (endpoint,) = snapshot.endpoints(typed, typed.spec.ports[0])

    assert endpoint.address == "unix:/run/a.sock"


def test_old_clients_read_the_same_from_one_object() -> None:
    ready = made(service(HTTP), pod(PLACED, WEB))
    waiting = made(service(HTTP), pod(PLACED, WEB, ready=False))

    subsets = endpoints_of(service(HTTP), [ready, waiting])["subsets"]

    assert [list(subset) for subset in subsets] == [
        ["addresses", "ports"],
        ["notReadyAddresses", "ports"],
    ]
