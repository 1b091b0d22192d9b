import pytest

from apirule import re2


@pytest.mark.parametrize(
    "pattern", ["^(GET|POST)$", "/a/[^/]+", "(?i)x", "(?P<n>x)", "[[:alpha:]]"]
)
def test_what_re2_takes_is_taken(pattern: str) -> None:
    assert re2.fault(pattern) is None


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("/a(", "missing )"),
        ("(?=x)a", "invalid perl operator"),
        (r"(a)\1", "invalid escape sequence"),
        ("a{1001}", "invalid repetition size"),
        ("a\0", "NUL"),
    ],
)
def test_what_re2_refuses_is_refused_in_its_words(pattern: str, reason: str) -> None:
    assert reason in (re2.fault(pattern) or "")
