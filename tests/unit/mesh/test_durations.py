from datetime import timedelta

import pytest

from apirule.mesh import durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("180s", 180),
        ("1h2m3.5s", 3723.5),
        ("100ms", 0.1),
        ("0", 0),
        ("0s", 0),
        ("1.s", 1),
        (".5m", 30),
    ],
)
def test_a_duration_is_read_as_go_writes_it(text: str, seconds: float) -> None:
    assert durations.parse(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5", "-1s", "1d", "1s ", "s", "1s2", "999999999h", "1e3s"])
def test_anything_else_is_no_duration(text: str) -> None:
    assert durations.parse(text) is None
