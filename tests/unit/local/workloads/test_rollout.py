import pytest

from apirule.local.workloads.rollout import Limits, Size, limits_of, next_sizes, template_hash


@pytest.mark.parametrize(
    ("replicas", "rolling", "expected"),
    [
        (1, {}, Limits(1, 1, 0)),
        (10, {}, Limits(10, 3, 2)),
        (4, {"maxSurge": 0, "maxUnavailable": 1}, Limits(4, 0, 1)),
        (3, {"maxSurge": "0%", "maxUnavailable": "10%"}, Limits(3, 0, 1)),
        (2, {"maxSurge": "50%", "maxUnavailable": 5}, Limits(2, 1, 2)),
    ],
    ids=["one Pod", "shares are rounded to the safe side", "numbers", "never both zero", "capped"],
)
def test_limits(replicas: int, rolling: dict[str, int | str], expected: Limits) -> None:
    assert limits_of({"replicas": replicas, "strategy": {"rollingUpdate": rolling}}) == expected


def settle(limits: Limits, new: Size, old: list[Size]) -> list[tuple[int, int]]:
    """Play a rollout in which every Pod is available as soon as it is asked for."""
    seen: list[tuple[int, int]] = []
    for _ in range(100):
        sizes = next_sizes(limits, new, old)
        if not sizes:
            return seen
        resized = [_sized(size, sizes) for size in (new, *old)]
        new, *old = resized
        total = sum(s.wanted for s in resized)
        available = sum(s.available for s in resized)
        seen.append((total, available))
    raise AssertionError("it never ends")


def _sized(size: Size, sizes: dict[str, int]) -> Size:
    wanted = sizes.get(size.name, size.wanted)
    return Size(size.name, wanted, wanted, wanted)


@pytest.mark.parametrize("replicas", [1, 2, 3, 7, 10])
@pytest.mark.parametrize(("surge", "unavailable"), [(1, 0), (0, 1), (3, 2), (10, 10)])
def test_a_rollout_ends_and_stays_within_its_limits(
    replicas: int, surge: int, unavailable: int
) -> None:
    limits = Limits(replicas, surge, min(unavailable, replicas))
    old = [Size("a", replicas, replicas, replicas)]

    seen = settle(limits, Size("b", 0, 0, 0), old)

    assert seen[-1] == (replicas, replicas)
    assert max(total for total, _ in seen) <= replicas + surge


def test_no_old_pod_goes_before_a_new_one_is_available() -> None:
    limits = Limits(2, 1, 0)

    assert next_sizes(limits, Size("b", 1, 1, 0), [Size("a", 2, 2, 2)]) == {}
    assert next_sizes(limits, Size("b", 1, 1, 1), [Size("a", 2, 2, 2)]) == {"a": 1}


def test_old_pods_that_serve_nobody_go_first() -> None:
    sizes = next_sizes(
        Limits(3, 1, 0), Size("c", 1, 1, 1), [Size("a", 2, 2, 2), Size("b", 1, 1, 0)]
    )

    assert sizes["b"] == 0
    assert "a" not in sizes


def test_recreate_waits_until_the_old_pods_are_gone() -> None:
    limits = Limits(2, 0, 2, recreate=True)
    new = Size("b", 0, 0, 0)

    assert next_sizes(limits, new, [Size("a", 2, 2, 2)]) == {"a": 0}
    assert next_sizes(limits, new, [Size("a", 0, 1, 0)]) == {}
    assert next_sizes(limits, new, [Size("a", 0, 0, 0)]) == {"b": 2}


def test_scaling_is_a_rollout_to_the_same_template() -> None:
    assert next_sizes(Limits(5, 2, 1), Size("a", 2, 2, 2), []) == {"a": 5}
    assert next_sizes(Limits(1, 1, 0), Size("a", 5, 5, 5), []) == {"a": 1}
    assert next_sizes(Limits(0, 0, 1), Size("a", 5, 5, 5), []) == {"a": 0}


def test_the_hash_depends_on_nothing_but_the_content() -> None:
    assert template_hash({"a": 1, "b": 2}) == template_hash({"b": 2, "a": 1})
    assert template_hash({"a": 1}) != template_hash({"a": 2})
