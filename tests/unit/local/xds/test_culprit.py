import pytest

from apirule.apis.meta import ObjectRef
from apirule.local.xds.culprit import find_culprits


def ref(name: str) -> ObjectRef:
    return ObjectRef("networking.istio.io", "VirtualService", "default", name)


NAMES = [ref(f"v{n}") for n in range(9)]


class FakeProxy:
    """Refuses whatever lets in a bad object, or two that clash."""

    def __init__(self, *bad: ObjectRef, clash: frozenset[ObjectRef] = frozenset()) -> None:
        self.bad = set(bad)
        self.clash = clash
        self.attempts = 0
        self.hopeless = False
        self.silent_after = 1000

    async def attempt(self, held: frozenset[ObjectRef]) -> str | None:
        self.attempts += 1
        if self.attempts > self.silent_after:
            return None
        let_in = set(NAMES) - held
        found = sorted(self.bad & let_in)
        if self.clash and self.clash <= let_in:
            found.append(max(self.clash))
        if self.hopeless:
            return "something else is bad"
        return " ".join(f"{r.name} is bad" for r in found)


@pytest.mark.parametrize("bad", NAMES, ids=lambda r: r.name)
async def test_one_bad_object_is_found_wherever_it_is(bad: ObjectRef) -> None:
    proxy = FakeProxy(bad)

    assert await find_culprits(NAMES, proxy.attempt) == {bad: f"{bad.name} is bad"}
    assert proxy.attempts <= 9


async def test_all_bad_objects_are_found_at_once() -> None:
    proxy = FakeProxy(NAMES[0], NAMES[4], NAMES[5])

    assert set(await find_culprits(NAMES, proxy.attempt)) == {NAMES[0], NAMES[4], NAMES[5]}


async def test_of_two_that_clash_the_newer_one_goes() -> None:
    proxy = FakeProxy(clash=frozenset({NAMES[1], NAMES[7]}))

    assert set(await find_culprits(NAMES, proxy.attempt)) == {NAMES[7]}


async def test_nobody_is_blamed_for_what_no_object_causes() -> None:
    proxy = FakeProxy()
    proxy.hopeless = True

    assert await find_culprits(NAMES, proxy.attempt) == {}


async def test_nobody_is_blamed_when_the_proxy_falls_silent() -> None:
    proxy = FakeProxy(NAMES[3])
    proxy.silent_after = 2

    assert await find_culprits(NAMES, proxy.attempt) == {}
