"""Which server listens where, and which of two that cannot both be served stays."""

import pytest
from tests.unit.mesh.objects import GATEWAY_POD, decode

from apirule.mesh import gateways, server_tls
from apirule.mesh.gateways import Servers
from apirule.mesh.snapshot import Snapshot
from apirule.names import ObjectName

TLS = "tls: {mode: SIMPLE, credentialName: c}"


def servers(*listed: str, name: str = "g", created: str = "2026-01-01T00:00:00Z") -> str:
    return f"""
---
apiVersion: networking.istio.io/v1beta1
kind: Gateway
metadata: {{name: {name}, namespace: web, creationTimestamp: "{created}"}}
spec: {{servers: [{", ".join(listed)}]}}
"""


def server(
    port: int, hosts: str, *, protocol: str = "HTTPS", tls: str = TLS, name: str = "s"
) -> str:
    return (
        f"{{port: {{number: {port}, name: {name}, protocol: {protocol}}}, hosts: [{hosts}], {tls}}}"
    )


def bind(text: str) -> Servers:
    base = "---".join(part for part in GATEWAY_POD.split("---") if "kind: Gateway" not in part)
    snapshot = Snapshot.of(decode(base + text))
    proxy = snapshot.proxy(ObjectName("istio-system", "gw"))
    assert proxy is not None
    return gateways.servers_of(snapshot, proxy)


def reasons(found: Servers) -> list[str]:
    return [str(problem.reason) for group in found.problems.values() for problem in group]


def test_a_server_port_is_looked_up_through_the_service() -> None:
    found = bind(servers(server(443, "a.com"), server(80, "a.com", protocol="HTTP", tls="")))

    assert [(s.listen, s.container_port) for s in found.bound] == [(18443, 8443), (18080, 8080)]
    assert reasons(found) == []


def test_the_https_port_of_a_redirect_is_the_one_that_really_listens() -> None:
    found = bind(servers(server(443, "'*.a.com'")))
    gateway = found.bound[0].gateway

    assert found.https_port("x.a.com", gateway) == 18443
    assert found.https_port("x.b.com", gateway) == 443


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (server(9999, "a.com"), "NotFound"),
        (server(443, "a.com", protocol="TLS"), "NotImplemented"),
        (server(443, "a.com", tls="tls: {mode: PASSTHROUGH}"), "NotImplemented"),
        (server(443, "a.com", tls=""), "FieldValueRequired"),
        (server(443, "a.com", tls="tls: {mode: SIMPLE}"), "FieldValueRequired"),
        (server(80, "a.com", protocol="HTTP"), "FieldValueInvalid"),
        (server(443, "'a*.com'"), "FieldValueInvalid"),
    ],
    ids=[
        "unknown port",
        "TLS",
        "passthrough",
        "no tls",
        "no certificate",
        "tls on http",
        "bad host",
    ],
)
def test_what_cannot_be_served_is_reported_and_the_rest_is_served(text: str, reason: str) -> None:
    found = bind(servers(text, server(443, "good.com", name="good")))

    assert set(reasons(found)) == {reason}
    assert [s.hosts for s in found.bound] == [("good.com",)]


def test_the_older_gateway_keeps_a_host() -> None:
    older = servers(server(443, "a.com"), name="older", created="2026-01-01T00:00:00Z")
    younger = servers(server(443, "a.com, b.com"), name="younger", created="2026-01-02T00:00:00Z")

    found = bind(younger + older)

    assert [(s.gateway.metadata.name, s.hosts) for s in found.bound] == [
        ("older", ("a.com",)),
        ("younger", ("b.com",)),
    ]
    assert reasons(found) == ["Conflict"]


def test_servers_of_one_name_have_their_own_route_tables() -> None:
    found = bind(servers(server(443, "a.com"), server(443, "b.com")))

    assert len({s.route_name for s in found.bound}) == 2


def test_a_host_belongs_to_the_closest_server() -> None:
    found = bind(
        servers(
            server(443, "'*'"), server(443, "'*.a.com'", name="t"), server(443, "x.a.com", name="u")
        )
    )
    everything, wide, exact = found.bound

    assert found.is_closest([exact], "x.a.com")
    assert not found.is_closest([wide], "x.a.com")
    assert found.is_closest([wide], "y.a.com")
    assert not found.is_closest([everything], "y.a.com")
    assert found.is_closest([everything], "b.com")


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ("credentialNames: []", "credentialName"),
        ("credentialName: a, credentialNames: [b]", "credentialNames"),
        ("credentialName: a, minProtocolVersion: '1.2'", "minProtocolVersion"),
        (
            "credentialName: a, minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2",
            "maxProtocolVersion",
        ),
        ("credentialName: a, cipherSuites: [ROT13]", "cipherSuites[0]"),
        ("credentialName: a, minProtocolVersion: TLSV1_1", "minProtocolVersion"),
        ("credentialName: a, minProtocolVersion: TLS_AUTO, maxProtocolVersion: TLSV1_2", None),
        ("credentialNames: [a, b], cipherSuites: [AES128-SHA, AES128-SHA]", None),
    ],
)
def test_settings_of_a_certificate_are_checked(settings: str, place: str | None) -> None:
    found = bind(servers(server(443, "a.com", tls=f"tls: {{mode: SIMPLE, {settings}}}")))

    places = [str(problem.field) for group in found.problems.values() for problem in group]
    assert places == ([f"spec.servers[0].tls.{place}"] if place else [])


def test_an_old_version_is_served_with_advice() -> None:
    tls = "tls: {mode: SIMPLE, credentialName: c, maxProtocolVersion: TLSV1_1}"
    found = bind(servers(server(443, "a.com", tls=tls)))

    (bound,) = found.bound
    assert reasons(found) == ["Insecure"]
    assert bound.server.tls is not None
    parameters = server_tls.parameters(bound.server.tls)
    assert parameters.tls_minimum_protocol_version == parameters.tls_maximum_protocol_version
