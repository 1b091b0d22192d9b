import pytest

from apirule.mesh import checks


@pytest.mark.parametrize(
    ("value", "escaped"),
    [
        ("plain", "plain"),
        ("100%", "100%%"),
        ("%REQ(:AUTHORITY)%", "%REQ(:AUTHORITY)%"),
        ("%REQ(:authority)%", "%%REQ(:authority)%%"),
        ("50% of %REQ(:AUTHORITY)%", "50%% of %REQ(:AUTHORITY)%"),
        ("%REQ(AUTHORIZATION)%", "%%REQ(AUTHORIZATION)%%"),
    ],
)
def test_only_the_authority_is_ever_expanded(value: str, escaped: str) -> None:
    assert checks.escape_header_value(value) == escaped


@pytest.mark.parametrize("name", [":path", ":authority", "Host", "x y", "x\r\ny", ""])
def test_a_route_cannot_change_these_headers(name: str) -> None:
    assert checks.header_change(name) is not None


def test_a_header_value_carries_no_line_break() -> None:
    assert checks.header_value("a\r\nx-evil: 1") is not None
    assert checks.header_value("a\tb ü") is None


@pytest.mark.parametrize(
    ("pattern", "rewrite", "is_fine"),
    [
        ("^/v([0-9]+)/", r"/\1/", True),
        ("^/v[0-9]+/", r"/\1/", False),
        ("^/(?:a)(b)", r"\1", True),
        ("^/(?:a)(b)", r"\2", False),
        ("a", "\\", False),
        ("a", r"\\", True),
        ("a", r"\n", False),
    ],
)
def test_a_rewrite_names_only_groups_there_are(pattern: str, rewrite: str, is_fine: bool) -> None:
    assert (checks.substitution(pattern, rewrite) is None) == is_fine


def test_what_is_too_long_for_envoy_is_named() -> None:
    assert checks.header_value("x" * 16384) is None
    assert checks.header_value("x" * 16385) is not None
    assert checks.parameter_name("x" * 1024) is None
    assert checks.parameter_name("é" * 600) is not None
