"""TLS: what proxies show each other, what the gateway shows to clients, and where it comes from.

Between proxies both sides show a certificate of the mesh CA and name the identity they accept;
``default`` and ``ROOTCA`` are the secrets the control plane adds for that. A gateway certificate
is checked here before it is sent, because a bad one would stop the whole listener.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf.wrappers_pb2 import BoolValue

from apirule.apis import core
from apirule.apis.traffic import ClientTLSSettings
from apirule.mesh.packing import ads, pack

IDENTITY = "default"
ROOT_CA = "ROOTCA"
MESH_ALPN = "istio"
"""What tells a connection between proxies from TLS that an application speaks itself."""

_TLS_SOCKET = "envoy.transport_sockets.tls"
_URI = common_pb2.SubjectAltNameMatcher.URI
_TLS_1_2 = common_pb2.TlsParameters.TLSv1_2
_TLS_1_3 = common_pb2.TlsParameters.TLSv1_3
_TRUE = BoolValue(value=True)


class CredentialError(Exception):
    """There is no usable certificate. The message is a sentence about the Secret."""


def between_proxies(
    *, identities: Iterable[str], sni: str, protocols: Sequence[str]
) -> base_pb2.TransportSocket:
    """Return the caller's side: only a callee with one of the identities is talked to."""
    matchers = [_san(string_pb2.StringMatcher(exact=identity)) for identity in identities]
    context = tls_pb2.UpstreamTlsContext(
        common_tls_context=_mesh_context(matchers, (MESH_ALPN, *protocols)), sni=sni
    )
    return base_pb2.TransportSocket(name=_TLS_SOCKET, typed_config=pack(context))


def to_server(
    settings: ClientTLSSettings, *, protocols: Sequence[str], system_roots: str
) -> base_pb2.TransportSocket:
    """Return the caller's side towards a server that is no proxy.

    Without a CA of its own the server must have a certificate that this machine trusts:
    ``system_roots`` is the file with those CAs. (Envoy has a field that means them, and no code
    behind it.)
    """
    common = _context(protocols, minimum=_TLS_1_2)
    if settings.mode == "MUTUAL":
        common.tls_certificate_sds_secret_configs.append(_sds(upstream_name(settings)))
    # Istio would let anybody answer who is asked by ``sni`` alone.
    names = settings.subject_alt_names or ((settings.sni,) if settings.sni else ())
    if settings.insecure_skip_verify:
        names = ()
    matchers = [
        common_pb2.SubjectAltNameMatcher(
            san_type=_URI if "://" in name else common_pb2.SubjectAltNameMatcher.DNS,
            matcher=string_pb2.StringMatcher(exact=name),
        )
        for name in names
    ]
    validation = common_pb2.CertificateValidationContext(match_typed_subject_alt_names=matchers)
    if settings.insecure_skip_verify:
        validation.trust_chain_verification = validation.ACCEPT_UNTRUSTED
        common.validation_context.CopyFrom(validation)
    elif settings.credential_name:
        combined = common.combined_validation_context
        combined.validation_context_sds_secret_config.CopyFrom(_sds(upstream_ca_name(settings)))
        combined.default_validation_context.CopyFrom(validation)
    else:
        validation.trusted_ca.filename = system_roots
        common.validation_context.CopyFrom(validation)
    context = tls_pb2.UpstreamTlsContext(common_tls_context=common, sni=settings.sni)
    return base_pb2.TransportSocket(name=_TLS_SOCKET, typed_config=pack(context))


def upstream_name(settings: ClientTLSSettings) -> str:
    """Return what the certificate is called that a caller shows. Not what a gateway serves."""
    return f"upstream://{settings.credential_name}"


def upstream_ca_name(settings: ClientTLSSettings) -> str:
    return f"{upstream_name(settings)}-cacert"


def from_proxies(trust_domains: Iterable[str]) -> base_pb2.TransportSocket:
    """Return the callee's side: the caller must show an identity of one of the trust domains."""
    matchers = [
        _san(string_pb2.StringMatcher(prefix=f"spiffe://{domain}/")) for domain in trust_domains
    ]
    context = tls_pb2.DownstreamTlsContext(
        common_tls_context=_mesh_context(matchers, ("h2", "http/1.1")),
        require_client_certificate=_TRUE,
    )
    return base_pb2.TransportSocket(name=_TLS_SOCKET, typed_config=pack(context))


def from_clients(
    credentials: Iterable[str], *, client_ca: str = "", parameters: common_pb2.TlsParameters
) -> base_pb2.TransportSocket:
    """Return the gateway's side; with ``client_ca`` a client must show a certificate of it."""
    common = tls_pb2.CommonTlsContext(alpn_protocols=["h2", "http/1.1"], tls_params=parameters)
    common.tls_certificate_sds_secret_configs.extend(_sds(name) for name in credentials)
    if client_ca:
        common.validation_context_sds_secret_config.CopyFrom(_sds(client_ca))
    context = tls_pb2.DownstreamTlsContext(
        common_tls_context=common,
        require_client_certificate=BoolValue(value=bool(client_ca)),
    )
    return base_pb2.TransportSocket(name=_TLS_SOCKET, typed_config=pack(context))


def plain() -> base_pb2.TransportSocket:
    return base_pb2.TransportSocket(
        name="envoy.transport_sockets.raw_buffer", typed_config=pack(raw_buffer_pb2.RawBuffer())
    )


def credential_name(name: str) -> str:
    return f"kubernetes://{name}"


def certificate(name: str, secret: core.Secret) -> secret_pb2.Secret:
    """Return the certificate of a Secret. CredentialError: it has none, or one without its key."""
    chain, key = _entry(secret, "tls.crt", "cert"), _entry(secret, "tls.key", "key")
    _check_pair(secret, chain, key)
    return secret_pb2.Secret(
        name=name,
        tls_certificate=common_pb2.TlsCertificate(
            certificate_chain=base_pb2.DataSource(inline_bytes=chain),
            private_key=base_pb2.DataSource(inline_bytes=key),
        ),
    )


def client_authorities(name: str, secret: core.Secret) -> secret_pb2.Secret:
    """Return the CA that client certificates must come from. CredentialError: there is none."""
    authorities = _entry(secret, "ca.crt", "cacert")
    try:
        x509.load_pem_x509_certificates(authorities)
    except ValueError as error:
        raise _unusable(secret, f"ca.crt is not a PEM certificate ({error})") from None
    return secret_pb2.Secret(
        name=name,
        validation_context=common_pb2.CertificateValidationContext(
            trusted_ca=base_pb2.DataSource(inline_bytes=authorities)
        ),
    )


def _mesh_context(
    matchers: list[common_pb2.SubjectAltNameMatcher], protocols: Sequence[str]
) -> tls_pb2.CommonTlsContext:
    # Both ends are ours, so there is no reason to speak anything older.
    common = _context(protocols, minimum=_TLS_1_3)
    common.tls_certificate_sds_secret_configs.append(_sds(IDENTITY))
    combined = common.combined_validation_context
    combined.validation_context_sds_secret_config.CopyFrom(_sds(ROOT_CA))
    combined.default_validation_context.match_typed_subject_alt_names.extend(matchers)
    return common


def _context(protocols: Sequence[str], *, minimum: int) -> tls_pb2.CommonTlsContext:
    return tls_pb2.CommonTlsContext(
        alpn_protocols=list(protocols),
        tls_params=common_pb2.TlsParameters(
            tls_minimum_protocol_version=minimum, tls_maximum_protocol_version=_TLS_1_3
        ),
    )


def _san(matcher: string_pb2.StringMatcher) -> common_pb2.SubjectAltNameMatcher:
    return common_pb2.SubjectAltNameMatcher(san_type=_URI, matcher=matcher)


def _sds(name: str) -> secret_pb2.SdsSecretConfig:
    return secret_pb2.SdsSecretConfig(name=name, sds_config=ads())


def _entry(secret: core.Secret, *keys: str) -> bytes:
    for key in keys:
        text = (secret.data or {}).get(key)
        if text:
            try:
                return base64.b64decode(text, validate=True)
            except binascii.Error:
                raise _unusable(secret, f"{key} is not Base64") from None
    raise _unusable(secret, f"it has no {keys[0]}")


def _check_pair(secret: core.Secret, chain: bytes, key: bytes) -> None:
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
    except ValueError as error:
        raise _unusable(secret, f"tls.crt is not a PEM certificate ({error})") from None
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError) as error:
        raise _unusable(secret, f"tls.key is not a PEM private key ({error})") from None
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if leaf.public_key().public_bytes(*form) != private.public_key().public_bytes(*form):
        raise _unusable(secret, "tls.key does not belong to tls.crt")


def _unusable(secret: core.Secret, why: str) -> CredentialError:
    return CredentialError(f"Secret {secret.object_name} cannot be used: {why}")
