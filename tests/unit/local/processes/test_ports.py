from pathlib import Path
from typing import Any

import pytest

from apirule.apis import core
from apirule.apis.scheme import decode
from apirule.local.processes.ports import FIRST, LAST, Allocator, Place, Placement, place, read
from apirule.mesh.proxy import proxy_of
from apirule.problem import SetupError

RUN = Path("/run/x")
SIDECAR = {"name": "istio-proxy", "image": "istio/proxyv2"}


def pod(*containers: dict[str, Any], annotations: dict[str, str] | None = None) -> core.Pod:
    metadata = {"name": "web", "namespace": "shop", "uid": "u1", "annotations": annotations or {}}
    return decode({"metadata": metadata, "spec": {"containers": list(containers)}}, core.Pod)


def app(*ports: dict[str, Any], name: str = "app") -> dict[str, Any]:
    return {"name": name, "ports": list(ports)}


def free() -> Allocator:
    return Allocator(is_free=lambda _: True)


def test_each_port_and_its_sidecar_get_a_port_of_their_own() -> None:
    placed = place(
        pod(app({"containerPort": 80}, {"containerPort": 81}), SIDECAR),
        RUN,
        free(),
        on_sockets=(),
    )

    numbers = [p.sidecar for p in placed.places] + [placed.outbound]
    numbers += [int(p.app.rpartition(":")[2]) for p in placed.places]
    assert len(set(numbers)) == 5
    assert all(FIRST <= number < LAST for number in numbers)
    assert placed.admin.startswith("unix:/run/x/a/")


def test_a_host_port_is_where_the_program_listens() -> None:
    placed = place(pod(app({"containerPort": 80, "hostPort": 9000})), RUN, free(), on_sockets=())

    assert placed == Placement((Place(80, "127.0.0.1:9000"),))


def test_a_program_that_can_gets_a_short_socket() -> None:
    placed = place(pod(app({"containerPort": 80})), RUN, free(), on_sockets=("app",))

    assert placed.places[0].app.startswith("unix:/run/x/a/")
    assert len(placed.places[0].app) == len("unix:/run/x/a/.sock") + 10


def test_a_gateway_listens_where_its_host_ports_are() -> None:
    gateway = {**SIDECAR, "ports": [{"containerPort": 8443, "hostPort": 9443}]}

    placed = place(pod(gateway), RUN, free(), on_sockets=())

    assert placed.places == (Place(8443, "127.0.0.1:9443"),)
    assert (placed.outbound, bool(placed.admin)) == (0, True)


def test_udp_is_not_served() -> None:
    placed = place(pod(app({"containerPort": 53, "protocol": "UDP"})), RUN, free(), on_sockets=())

    assert placed.places == ()


def test_a_pod_is_found_where_it_was_put() -> None:
    containers = (app({"containerPort": 80}), SIDECAR)
    placed = place(pod(*containers), RUN, free(), on_sockets=())

    again = read(pod(*containers, annotations=placed.annotations()))

    assert again == placed


def test_the_engine_reads_the_same_from_the_annotations() -> None:
    containers = (app({"containerPort": 80}), SIDECAR)
    placed = place(pod(*containers), RUN, free(), on_sockets=())

    proxy = proxy_of(pod(*containers, annotations=placed.annotations()))

    assert proxy is not None
    assert proxy.outbound_port == placed.outbound
    assert [(p.port, p.app, p.listen) for p in proxy.inbound] == [
        (p.port, p.app, p.sidecar) for p in placed.places
    ]


@pytest.mark.parametrize(
    "annotations",
    [
        {},
        {"apirule.local/ports": "nonsense"},
        {"apirule.local/ports": "[]"},
        {"apirule.local/ports": '[{"port": 80, "app": "127.0.0.1:1"}]'},
    ],
    ids=["absent", "no JSON", "another port", "a sidecar came later"],
)
def test_annotations_that_do_not_fit_are_not_believed(annotations: dict[str, str]) -> None:
    assert read(pod(app({"containerPort": 80}), SIDECAR, annotations=annotations)) is None


def test_no_port_is_given_twice() -> None:
    allocator = free()

    taken = [allocator.take() for _ in range(500)]

    assert len(set(taken)) == 500


def test_no_free_port_is_said() -> None:
    with pytest.raises(SetupError, match="No loopback port"):
        Allocator(is_free=lambda _: False).take()


def test_only_a_released_port_can_be_had_again() -> None:
    allocator = Allocator(is_free=lambda port: port % 8 == 0)
    placement = Placement(tuple(Place(n, f"127.0.0.1:{n}") for n in range(FIRST, LAST, 8)))
    allocator.keep(placement)
    with pytest.raises(SetupError):
        allocator.take()

    allocator.release(placement)

    assert allocator.take() in placement.allocated
