from apirule.local.processes.vigil import LOOKS, Vigil


def test_who_says_nothing_for_long_is_found_out() -> None:
    vigil = Vigil(30, now=0)

    found = [vigil.look(now) for now in range(3, 33, 3)]

    assert found == [False] * (LOOKS - 1) + [True]


def test_who_speaks_is_well() -> None:
    vigil = Vigil(30, now=0)

    for now in range(3, 300, 3):
        assert not vigil.look(now)
        vigil.hear()


def test_a_machine_that_slept_is_no_reason() -> None:
    vigil = Vigil(30, now=0)
    vigil.look(3)

    assert not vigil.look(3600)
    vigil.hear()
    assert not vigil.look(3603)


def test_a_machine_that_wakes_us_late_is_no_reason() -> None:
    vigil = Vigil(30, now=0)

    assert not any(vigil.look(now) for now in range(7, 700, 7))
