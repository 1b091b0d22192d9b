"""A gateway certificate is checked before a proxy sees it."""

import base64

import pytest
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from tests.shells.mesh_run import Authority

from apirule.apis.core import Secret
from apirule.apis.meta import ObjectMeta
from apirule.mesh import tls

AUTHORITY = Authority()
PAIR, OTHER = AUTHORITY.identity("spiffe://a"), AUTHORITY.identity("spiffe://b")


def secret(**data: bytes) -> Secret:
    encoded = {key.replace("_", "."): base64.b64encode(v).decode() for key, v in data.items()}
    return Secret(metadata=ObjectMeta(name="c", namespace="n"), data=encoded)


def test_a_certificate_and_its_key_are_passed_on() -> None:
    found = tls.certificate("name", secret(tls_crt=PAIR.certificate, tls_key=PAIR.key))

    assert found.name == "name"
    assert found.tls_certificate.certificate_chain.inline_bytes == PAIR.certificate


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (secret(tls_key=PAIR.key), "it has no tls.crt"),
        (secret(tls_crt=PAIR.certificate), "it has no tls.key"),
        (secret(tls_crt=PAIR.certificate, tls_key=OTHER.key), "does not belong"),
        (secret(tls_crt=b"x", tls_key=PAIR.key), "tls.crt is not a PEM certificate"),
        (secret(tls_crt=PAIR.certificate, tls_key=b"x"), "tls.key is not a PEM private key"),
        (
            Secret(metadata=ObjectMeta(name="c", namespace="n"), data={"tls.crt": "!"}),
            "tls.crt is not Base64",
        ),
    ],
)
def test_a_secret_envoy_would_refuse_is_refused_here(given: Secret, reason: str) -> None:
    with pytest.raises(tls.CredentialError, match=rf"Secret n/c cannot be used: .*{reason}"):
        tls.certificate("name", given)


def test_the_authority_of_clients_must_be_a_certificate() -> None:
    assert tls.client_authorities("ca", secret(ca_crt=AUTHORITY.pem)).name == "ca"
    with pytest.raises(tls.CredentialError):
        tls.client_authorities("ca", secret(ca_crt=b"x"))


def test_callers_of_every_name_of_the_mesh_are_let_in() -> None:
    socket = tls.from_proxies(["cluster.local", "old.mesh"])
    context = tls_pb2.DownstreamTlsContext.FromString(socket.typed_config.value)

    combined = context.common_tls_context.combined_validation_context
    matchers = combined.default_validation_context.match_typed_subject_alt_names
    prefixes = [one.matcher.prefix for one in matchers]
    assert prefixes == ["spiffe://cluster.local/", "spiffe://old.mesh/"]
