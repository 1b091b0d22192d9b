from apirule.apis.core import Namespace
from apirule.mesh.memo import Memo


def test_what_was_made_is_not_made_again() -> None:
    memo, made = Memo(), []

    for _ in range(2):
        memo("key", lambda: made.append(1))

    assert made == [1]


def test_the_least_used_is_forgotten_first() -> None:
    memo = Memo(entries=2)
    memo("a", lambda: 1)
    memo("b", lambda: 1)
    memo("a", lambda: 2)
    memo("c", lambda: 1)

    assert memo("a", lambda: 2) == 1
    assert memo("b", lambda: 2) == 2


def test_what_was_made_of_an_object_is_made_anew_of_another_one() -> None:
    memo = Memo()
    one, other = Namespace(), Namespace()

    made = [memo.of(resource, "key", object) for resource in (one, one, other)]

    assert made[0] is made[1]
    assert made[0] is not made[2]


def test_a_choice_knows_the_last_one() -> None:
    memo = Memo()
    seen: list[int | None] = []

    def choose(before: int | None) -> int:
        seen.append(before)
        return len(seen)

    for _ in range(3):
        memo.going_on("key", choose)

    assert seen == [None, 1, 2]


def test_a_slot_holds_only_what_was_made_last() -> None:
    memo = Memo()
    made = [memo.latest("slot", key, object) for key in ("a", "a", "b", "a")]

    assert made[0] is made[1]
    assert len({id(one) for one in made}) == 3
