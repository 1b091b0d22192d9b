"""What a real Envoy lets in and refuses, for the fields of AuthorizationPolicies one by one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.shells.security_envoy import Engine, Mtls, Workload, engine
from tests.shells.security_given import (
    JWT_A,
    KEY_A,
    KEYS,
    STRANGER,
    A,
    Authority,
    authentication,
    bearer,
    manifests,
    policy,
    token,
)

from apirule.mesh.config import MeshSettings

pytestmark = pytest.mark.envoy

FOREIGN = json.dumps({"keys": [STRANGER.as_dict(private=False)]})


def deny(rule: str) -> str:
    return manifests(policy(f"{{action: DENY, rules: [{rule}]}}"))


def paths(*given: str) -> str:
    return f"{{to: [{{operation: {{paths: {json.dumps(given)}}}}}]}}"


CA = Authority.make()


def mutual() -> Mtls:
    certificate, key = CA.issue("spiffe://cluster.local/ns/shop/sa/default")
    return Mtls(certificate, key, CA.pem)


WORKLOADS = (
    Workload(
        "aliases",
        manifests(policy("{rules: [{from: [{source: {principals: [old.mesh/ns/a/sa/b]}}]}]}")),
        settings=MeshSettings(trust_domain_aliases=("old.mesh",)),
        mtls=mutual(),
    ),
    Workload("deny-rest", deny(paths("/admin/{**}"))),
    Workload("deny-one", deny(paths("/admin/{*}"))),
    Workload("deny-inner", deny(paths("/{*}/admin/{**}"))),
    Workload("deny-root", deny(paths("/"))),
    Workload(
        "deny-but",
        deny('{to: [{operation: {methods: [POST], notPaths: ["/ok/{**}"]}}]}'),
    ),
    Workload(
        "two-sources",
        manifests(
            authentication(JWT_A),
            authentication(f"{{issuer: '{A}', jwks: '{FOREIGN}'}}", "second"),
            policy(
                f"{{rules: [{{from: [{{source: {{requestPrincipals: ['{A}/*']}}}}]}},"
                " {to: [{operation: {paths: [/open]}}]}]}"
            ),
        ),
        KEYS,
    ),
)


@pytest.fixture(scope="module")
def envoy() -> Iterator[Engine]:
    with (
        tempfile.TemporaryDirectory(prefix="ap", dir="/tmp") as folder,
        engine(Path(folder), WORKLOADS) as running,
    ):
        yield running


@pytest.mark.parametrize(
    "path",
    [
        "/admin/1",
        "/admin/[1]",
        "/admin/a|b",
        '/admin/a"b',
        "/admin/{x}",
        "/admin/a^b",
        "/admin/a`b",
        "/admin/<x>",
        "/admin/%5b1%5d",
        "/admin/a*b",
        "/admin/a?[",
    ],
)
@pytest.mark.parametrize("workload", ["deny-rest", "deny-one"])
def test_what_is_denied_by_a_template_is_denied_with_any_character(
    envoy: Engine, workload: str, path: str
) -> None:
    assert envoy.send(workload, path).status == 403


@pytest.mark.parametrize(
    ("workload", "path", "status"),
    [
        ("deny-rest", "/admin/[1]/[2]", 403),
        ("deny-rest", "/admin", 200),
        ("deny-rest", "/administration", 200),
        ("deny-one", "/admin/1/2", 200),
        ("deny-one", "/admin/", 200),
        ("deny-inner", "/[x]/admin/[1]", 403),
        ("deny-inner", "/x/y/admin/1", 200),
        ("deny-root", "//", 403),
        ("deny-root", "/x", 200),
    ],
)
def test_a_template_denies_nothing_beyond_its_segments(
    envoy: Engine, workload: str, path: str, status: int
) -> None:
    assert envoy.send(workload, path).status == status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/x", 403),
        ("POST", "/ok/x", 200),
        ("POST", "/ok/[x]", 403),
        ("GET", "/x", 200),
    ],
)
def test_what_a_denial_excepts_is_read_narrowly(
    envoy: Engine, method: str, path: str, status: int
) -> None:
    assert envoy.send("deny-but", path, method=method).status == status


def test_a_second_source_of_keys_lets_nobody_in(envoy: Engine) -> None:
    foreign, own = bearer(token(key=STRANGER)), bearer(token(key=KEY_A))

    answers = [envoy.send("two-sources", "/x", header).status for header in (foreign, own)]

    assert answers == [401, 401]
    assert envoy.send("two-sources", "/open").status == 200


@pytest.mark.parametrize(
    ("caller", "status"),
    [
        ("cluster.local/ns/a/sa/b", 200),
        ("old.mesh/ns/a/sa/b", 200),
        ("other.mesh/ns/a/sa/b", 403),
        ("old.mesh/ns/a/sa/c", 403),
    ],
)
def test_a_principal_of_an_older_name_of_the_mesh_is_one_of_this_mesh(
    envoy: Engine, tmp_path: Path, caller: str, status: int
) -> None:
    assert envoy.send("aliases", tls=CA.client(tmp_path, caller)).status == status
