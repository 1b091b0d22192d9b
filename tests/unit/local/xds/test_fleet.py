"""Proxies that come, fall silent, refuse and come back, on both sides of the fleet."""

from collections.abc import Sequence

import anyio
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse
from tests.unit.local.xds.test_ads import CDS, ECDS, FULL, LDS, ack, ask, bundle, nack, said

from apirule.local.xds.fleet import Connection, Fleet

NODE = "default/app"


def sent(connection: Connection) -> list[DeltaDiscoveryResponse]:
    """Return what has been sent since the last look."""
    found = []
    while connection.outbox.statistics().current_buffer_used:
        found.append(connection.outbox.receive_nowait())
    return found


def names(responses: Sequence[DeltaDiscoveryResponse]) -> list[tuple[str, list[str]]]:
    return [(url.name, held) for url, held, _ in said(responses)]


async def test_who_waits_for_a_cold_cluster_is_released_after_the_time() -> None:
    fleet = Fleet()
    fleet.assign(NODE, bundle(**FULL))
    with fleet.connection(NODE) as connection:
        fleet.receive(connection, ask(CDS))
        fleet.receive(connection, ask(LDS))
        cold = names(sent(connection))

        await fleet.settle([NODE], within_s=0.01)

        assert cold == [("CLUSTER", ["a"])]
        assert names(sent(connection)) == [("LISTENER", ["l"])]


async def test_who_has_answered_everything_is_not_waited_for() -> None:
    fleet = Fleet()
    fleet.assign(NODE, bundle(CLUSTER={"a": 1}))
    with fleet.connection(NODE) as connection:
        fleet.receive(connection, ask(CDS))
        fleet.receive(connection, ask(LDS))
        for response in sent(connection):
            fleet.receive(connection, ack(response))

        with anyio.fail_after(30):
            await fleet.settle([NODE], within_s=1000)
            await fleet.settle(["default/absent"], within_s=1000)


async def test_who_is_expected_is_waited_for_until_it_has_answered() -> None:
    fleet = Fleet()
    fleet.assign(NODE, bundle())
    settled = anyio.Event()

    async def settle() -> None:
        await fleet.settle([NODE], within_s=1000, expected=[NODE])
        settled.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(settle)
        await anyio.wait_all_tasks_blocked()
        before = settled.is_set()
        with fleet.connection(NODE) as connection:
            fleet.receive(connection, ask(CDS))
            fleet.receive(connection, ask(LDS))
            with anyio.fail_after(30):
                await settled.wait()

    assert not before


async def test_a_proxy_that_comes_back_is_not_asked_again_for_a_filter_it_refused() -> None:
    fleet = Fleet()
    fleet.assign(NODE, bundle(EXTENSION={"jwt": 1}))
    with fleet.connection(NODE) as first:
        fleet.receive(first, ask(ECDS, "jwt"))
        (filters,) = sent(first)
        fleet.receive(first, nack(filters, "no"))

    with fleet.connection(NODE) as second:
        fleet.receive(second, ask(ECDS, "jwt"))
        again = sent(second)
        said_no = [refusal.message for refusal in fleet.standing(NODE).refusals]

    assert again == []
    assert said_no == ["no"]


async def test_a_proxy_of_another_pod_of_that_name_is_asked_afresh() -> None:
    fleet = Fleet()
    fleet.assign(NODE, bundle(EXTENSION={"jwt": 1}))
    with fleet.connection(NODE) as first:
        fleet.receive(first, ask(ECDS, "jwt"))
        (filters,) = sent(first)
        fleet.receive(first, nack(filters, "no"))

    fleet.drop(NODE)
    fleet.assign(NODE, bundle(EXTENSION={"jwt": 1}))

    with fleet.connection(NODE) as second:
        fleet.receive(second, ask(ECDS, "jwt"))
        assert names(sent(second)) == [("EXTENSION", ["jwt"])]
