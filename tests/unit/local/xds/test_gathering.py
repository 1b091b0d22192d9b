import time

import anyio
import anyio.lowlevel
import pytest

from apirule.local.xds.gathering import Gathering

COST_S = 0.05


def busy(gathering: Gathering) -> None:
    """Do a round that costs something."""
    until = time.monotonic() + COST_S
    with gathering.working():
        while time.monotonic() < until:
            pass


async def test_changes_that_come_together_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apirule.local.xds.gathering.LONGEST", 100.0)
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


@pytest.mark.parametrize("rounds", [0, 1], ids=["after nothing that cost", "after a round"])
async def test_changes_without_end_do_not_keep_a_round_from_coming(rounds: int) -> None:
    gathering = Gathering()
    for _ in range(rounds):
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
