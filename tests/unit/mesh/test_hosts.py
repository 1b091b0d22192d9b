import pytest

from apirule.mesh import hosts
from apirule.names import ObjectName


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("*", "a.example.com", "a.example.com"),
        ("*.example.com", "a.example.com", "a.example.com"),
        ("a.example.com", "*.example.com", "a.example.com"),
        ("*.example.com", "*.b.example.com", "*.b.example.com"),
        ("*.example.com", "*", "*.example.com"),
        ("A.Example.com", "a.example.COM", "a.example.com"),
        ("*.example.com", "example.com", None),
        ("*.example.com", "badexample.com", None),
        ("a.example.com", "b.example.com", None),
        ("*.a.example.com", "*.b.example.com", None),
    ],
)
def test_the_intersection_is_what_both_match(one: str, other: str, expected: str | None) -> None:
    assert hosts.intersection(one, other) == expected
    assert hosts.intersection(other, one) == expected


@pytest.mark.parametrize("host", ["*", "*.example.com", "example.com", "a", "A.example.com"])
def test_a_name_with_at_most_a_whole_first_wildcard_is_a_host(host: str) -> None:
    assert hosts.is_valid(host)


@pytest.mark.parametrize(
    "host",
    ["", "*.", "a*.example.com", "*a.com", "a.*.com", "a_b.com", "a..b", "a b", "a\n", "*.*"],
)
def test_anything_else_is_not_a_host(host: str) -> None:
    assert not hosts.is_valid(host)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.com", (None, "a.com")),
        ("*/a.com", (None, "a.com")),
        ("./a.com", (".", "a.com")),
        ("web/a.com", ("web", "a.com")),
    ],
)
def test_a_server_host_may_name_a_namespace(text: str, expected: tuple[str | None, str]) -> None:
    assert hosts.split_namespace(text) == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("shop.web.svc.cluster.local", ObjectName("web", "shop")),
        ("shop.web.svc", None),
        ("shop.web", None),
        ("a.shop.web.svc.cluster.local", None),
        (".svc.cluster.local", None),
    ],
)
def test_only_a_full_name_is_a_service(host: str, expected: ObjectName | None) -> None:
    assert hosts.service_of(host) == expected


def test_only_neighbours_may_use_the_bare_name_of_a_service() -> None:
    service = ObjectName("web", "shop")

    assert "shop" in hosts.aliases(service, seen_from="web")
    assert "shop" not in hosts.aliases(service, seen_from="other")
