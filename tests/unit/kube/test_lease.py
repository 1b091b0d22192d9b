from datetime import UTC, datetime

import anyio
import pytest
from tests.unit.kube.fake_api import FakeApi

from apirule.kube.client import Client
from apirule.kube.lease import LeaderElection
from apirule.names import ObjectName

NAME = ObjectName("kyma-system", "apirule")
KEY = ("leases", "kyma-system", "apirule")


def now() -> datetime:
    return datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


def election(
    client: Client,
    identity: str,
    *,
    lease_duration_s: float = 0.3,
    renew_deadline_s: float = 0.2,
    retry_period_s: float = 0.01,
) -> LeaderElection:
    return LeaderElection(
        client,
        NAME,
        identity,
        now=now,
        lease_duration_s=lease_duration_s,
        renew_deadline_s=renew_deadline_s,
        retry_period_s=retry_period_s,
    )


def patient(client: Client, identity: str) -> LeaderElection:
    """One that loses nothing because the machine is busy."""
    return election(
        client, identity, lease_duration_s=29.5, renew_deadline_s=20, retry_period_s=0.2
    )


async def test_the_first_one_takes_the_lease_and_gives_it_back(
    api: FakeApi, client: Client
) -> None:
    held: list[str] = []

    async def work() -> None:
        held.append(api.objects[KEY]["spec"]["holderIdentity"])

    with anyio.fail_after(10):
        await patient(client, "one").run(work)

    assert held == ["one"]
    assert api.objects[KEY]["spec"]["holderIdentity"] == ""
    assert api.objects[KEY]["spec"]["renewTime"] == "2026-01-02T03:04:05.000678Z"
    assert api.objects[KEY]["spec"]["leaseDurationSeconds"] == 30


async def test_the_second_one_waits_until_the_first_is_done(api: FakeApi, client: Client) -> None:
    order: list[str] = []
    release = anyio.Event()

    async def first() -> None:
        order.append("first")
        await release.wait()
        order.append("first done")

    async def second() -> None:
        order.append("second")

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            one = patient(client, "one")
            tasks.start_soon(one.run, first)
            while not order:
                await anyio.wait_all_tasks_blocked()
            tasks.start_soon(patient(client, "two").run, second)
            reads = len(api.requests)
            while len(api.requests) < reads + 8:
                await anyio.wait_all_tasks_blocked()
            release.set()

    assert order == ["first", "first done", "second"]
    assert api.objects[KEY]["spec"]["leaseTransitions"] == 1


async def test_a_lease_nobody_renews_is_taken_over(api: FakeApi, client: Client) -> None:
    api.put(
        *KEY,
        spec={"holderIdentity": "dead", "renewTime": "2026-01-01T00:00:00.000000Z"},
    )
    led: list[str] = []

    async def work() -> None:
        led.append(api.objects[KEY]["spec"]["holderIdentity"])

    with anyio.fail_after(10):
        await election(client, "one").run(work)

    assert led == ["one"]


async def test_work_stops_when_somebody_else_has_the_lease(api: FakeApi, client: Client) -> None:
    started = anyio.Event()
    stopped = anyio.Event()

    async def work() -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(election(client, "one").run, work)
            await started.wait()
            api.put(*KEY, spec={"holderIdentity": "two", "renewTime": "x"})
            await stopped.wait()

    assert api.objects[KEY]["spec"]["holderIdentity"] == "two"


async def test_work_stops_when_the_lease_cannot_be_renewed_in_time(
    api: FakeApi, client: Client
) -> None:
    started = anyio.Event()
    stopped = anyio.Event()

    async def work() -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(election(client, "one").run, work)
            await started.wait()
            for _ in range(1000):
                api.refuse(500, "InternalError")
            await stopped.wait()

    assert stopped.is_set()


async def test_periods_that_make_no_sense_are_refused(client: Client) -> None:
    with pytest.raises(ValueError, match="renew deadline"):
        LeaderElection(client, NAME, "one", now=now, lease_duration_s=5.0)
