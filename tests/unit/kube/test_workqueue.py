import anyio
import pytest

from apirule.kube.workqueue import WorkQueue


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> WorkQueue[str]:
    return WorkQueue(now=clock)


async def take(queue: WorkQueue[str]) -> str | None:
    """Take what is ready; None when nothing is."""
    with anyio.move_on_after(0.01):
        return await queue.get()
    return None


async def test_a_name_added_twice_is_handed_out_once(queue: WorkQueue[str]) -> None:
    queue.add("a")
    queue.add("b")
    queue.add("a")

    taken = [await take(queue), await take(queue), await take(queue)]

    assert taken == ["a", "b", None]


async def test_a_name_changed_during_its_pass_is_handed_out_again_after_it(
    queue: WorkQueue[str],
) -> None:
    queue.add("a")
    await queue.get()

    queue.add("a")
    while_busy = await take(queue)
    queue.done("a")
    afterwards = await take(queue)

    assert (while_busy, afterwards) == (None, "a")


async def test_a_waiting_worker_is_woken(queue: WorkQueue[str]) -> None:
    taken: list[str | None] = []

    async def work() -> None:
        taken.append(await queue.get())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await anyio.wait_all_tasks_blocked()
        queue.add("a")

    assert taken == ["a"]


async def test_a_delayed_name_comes_when_it_is_due(clock: Clock, queue: WorkQueue[str]) -> None:
    queue.add_after("a", 30.0)
    early = await take(queue)

    clock.now += 30.0

    assert (early, await take(queue)) == (None, "a")


async def test_the_earliest_of_several_dates_counts_once(
    clock: Clock, queue: WorkQueue[str]
) -> None:
    queue.add_after("a", 50.0)
    queue.add_after("a", 10.0)
    queue.add_after("a", 70.0)

    clock.now += 10.0
    first = await take(queue)
    queue.done("a")
    clock.now += 100.0

    assert (first, await take(queue)) == ("a", None)


async def test_a_change_replaces_a_date(clock: Clock, queue: WorkQueue[str]) -> None:
    queue.add_after("a", 10.0)
    queue.add("a")
    await queue.get()
    queue.done("a")

    clock.now += 20.0

    assert await take(queue) is None


def test_failures_double_the_delay_up_to_the_limit(queue: WorkQueue[str]) -> None:
    delays = [queue.retry("a") for _ in range(12)]

    assert delays == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 1000]


def test_each_name_has_its_own_delay_and_success_resets_it(queue: WorkQueue[str]) -> None:
    queue.retry("a")
    queue.retry("a")
    other = queue.retry("b")
    queue.forget("a")

    assert (other, queue.retry("a")) == (1.0, 1.0)


def test_a_thousand_failures_do_not_overflow(queue: WorkQueue[str]) -> None:
    delays = [queue.retry("a") for _ in range(2000)]

    assert delays[-1] == 1000.0


async def test_a_closed_queue_lets_everybody_go(queue: WorkQueue[str]) -> None:
    taken: list[str | None] = []

    async def work() -> None:
        taken.append(await queue.get())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await anyio.wait_all_tasks_blocked()
        queue.close()
    queue.add("a")

    assert taken == [None]
    assert len(queue) == 0
