import time

import anyio

from apirule.local.xds.gathering import Gathering

COST_S = 0.05


def busy(gathering: Gathering) -> None:
    """Do a round that costs something."""
    until = time.monotonic() + COST_S
    with gathering.working():
        while time.monotonic() < until:
            pass


async def test_changes_that_come_together_are_waited_for() -> None:
    gathering, noted = Gathering(), []
    busy(gathering)

    async def change() -> None:
        for number in range(3):
            gathering.note_change()
            noted.append(number)
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(change)
        await gathering.until_quiet()
        assert noted == [0, 1, 2]


async def test_changes_without_end_do_not_keep_a_round_from_coming() -> None:
    gathering = Gathering()
    busy(gathering)

    async def change() -> None:
        while True:
            gathering.note_change()
            await anyio.lowlevel.checkpoint()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(change)
            await gathering.until_quiet()
            tasks.cancel_scope.cancel()


async def test_after_a_round_that_cost_nothing_nobody_waits() -> None:
    gathering = Gathering()

    async def change() -> None:
        while True:
            gathering.note_change()
            await anyio.lowlevel.checkpoint()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(change)
            await gathering.until_quiet()
            tasks.cancel_scope.cancel()
