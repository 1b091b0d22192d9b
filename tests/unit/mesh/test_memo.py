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
