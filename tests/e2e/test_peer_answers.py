"""The answers of the peer, where a switch of `apirule up` asks for them."""

from collections.abc import Iterator

import pytest
from instance import Instance, running
from tests.e2e.gateway import ask, kubectl, token


@pytest.fixture(scope="module")
def peer() -> Iterator[Instance]:
    with running("--demo", "--missing-token-status", "403", "--host-with-port", "refused") as one:
        kubectl(one, "wait", "apirule/httpbin", "--for=jsonpath={.status.state}=Ready")
        yield one


def host(text: str) -> tuple[str, str]:
    return ("-H", f"Host: {text}")


def test_a_missing_token_and_one_that_lacks_something_are_403(peer: Instance) -> None:
    literal = host(f"httpbin.{peer.domain}")

    missing = ask(peer, "httpbin", "/headers", *literal)
    bad = ask(peer, "httpbin", "/headers", *literal, token="not.a.token")
    good = ask(peer, "httpbin", "/headers", *literal, token=token(peer))

    assert (missing.status, missing.body) == (403, "RBAC: access denied")
    assert "www-authenticate" not in missing.headers
    assert (bad.status, good.status) == (401, 200)


def test_a_port_in_host_is_not_the_host_of_a_policy(peer: Instance) -> None:
    good = token(peer)

    with_port = ask(peer, "httpbin", token=good)
    with_dot = ask(peer, "httpbin", "/headers", *host(f"httpbin.{peer.domain}."), token=good)
    in_capitals = ask(peer, "httpbin", "/headers", *host(f"HTTPBIN.{peer.domain}"), token=good)

    assert (with_port.status, with_dot.status, in_capitals.status) == (403, 404, 200)
