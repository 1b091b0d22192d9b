"""What `apirule token` says of a token."""

from datetime import UTC, datetime

import pytest

from apirule.cli.token import in_words

NOW = datetime(2026, 5, 1, 12, 0, 0, 400_000, tzinfo=UTC)
SECOND = int(NOW.timestamp())


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (SECOND + 300, "in 5 min 0 s"),
        (SECOND + 299, "in 4 min 59 s"),
        (SECOND + 60, "in 1 min 0 s"),
        (SECOND + 7267, "in 2 h 1 min 7 s"),
        (SECOND, "in 0 s"),
        (SECOND - 1, "1 s ago"),
        (SECOND - 3600, "1 h 0 s ago"),
    ],
)
def test_a_time_is_told_by_its_distance(moment: float, words: str) -> None:
    assert in_words(moment, NOW) == words
