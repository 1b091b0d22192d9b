"""What a Gateway says of the TLS of its servers: certificates, versions, ciphers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from envoy.extensions.transport_sockets.tls.v3 import common_pb2

from apirule.apis.networking import ServerTLSSettings
from apirule.problem import FieldPath, Problem, Reason, Severity

MODES = frozenset({"SIMPLE", "MUTUAL"})
_VERSIONS: Mapping[str, common_pb2.TlsParameters.TlsProtocol.ValueType] = {
    "TLSV1_0": common_pb2.TlsParameters.TLSv1_0,
    "TLSV1_1": common_pb2.TlsParameters.TLSv1_1,
    "TLSV1_2": common_pb2.TlsParameters.TLSv1_2,
    "TLSV1_3": common_pb2.TlsParameters.TLSv1_3,
}
_LOWEST, _HIGHEST = "TLSV1_2", "TLSV1_3"
_DEPRECATED = frozenset({"TLSV1_0", "TLSV1_1"})
_UNSAID = frozenset({"", "TLS_AUTO"})
CIPHERS = frozenset(
    {
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
        "ECDHE-ECDSA-AES128-SHA",
        "ECDHE-RSA-AES128-SHA",
        "ECDHE-ECDSA-AES256-SHA",
        "ECDHE-RSA-AES256-SHA",
        "AES128-GCM-SHA256",
        "AES256-GCM-SHA384",
        "AES128-SHA",
        "AES256-SHA",
    }
)
"""What can be chosen up to TLS 1.2; the ciphers of TLS 1.3 are always all there."""


def credentials(settings: ServerTLSSettings) -> tuple[str, ...]:
    """Return the Secrets with the certificates of a server, the first one first."""
    one = (settings.credential_name,) if settings.credential_name else ()
    return tuple(dict.fromkeys(one or settings.credential_names))


def parameters(settings: ServerTLSSettings) -> common_pb2.TlsParameters:
    """Return versions and ciphers. Only where ``problems`` found no error."""
    lowest, highest = _versions(settings)
    return common_pb2.TlsParameters(
        tls_minimum_protocol_version=_VERSIONS[lowest],
        tls_maximum_protocol_version=_VERSIONS[highest],
        cipher_suites=list(dict.fromkeys(settings.cipher_suites)),
    )


def _versions(settings: ServerTLSSettings) -> tuple[str, str]:
    lowest, highest = settings.min_protocol_version, settings.max_protocol_version
    highest = _HIGHEST if highest in _UNSAID else highest
    # Whoever allows nothing newer than an old version wants the old one.
    default = highest if highest in _DEPRECATED else _LOWEST
    return (default if lowest in _UNSAID else lowest), highest


def problems(settings: ServerTLSSettings, at: FieldPath) -> Iterator[Problem]:
    """Yield what is wrong with the settings of an HTTPS server."""
    if settings.mode not in MODES:
        yield Problem(
            at / "mode",
            Reason.NOT_IMPLEMENTED if settings.mode else Reason.REQUIRED,
            f'The TLS mode of an HTTPS server is SIMPLE or MUTUAL, not "{settings.mode}".',
            "Set mode: SIMPLE.",
        )
        if settings.mode:
            return  # what it would need is another matter
    if settings.credential_name and settings.credential_names:
        yield _invalid(
            at / "credentialNames",
            "credentialName and credentialNames are both given.",
            "Give one of them.",
        )
    elif not credentials(settings):
        yield Problem(
            at / "credentialName",
            Reason.REQUIRED,
            "An HTTPS server needs a certificate.",
            "Name a Secret of type kubernetes.io/tls in the namespace of the gateway.",
        )
    yield from _of_versions(settings, at)
    for index, cipher in enumerate(settings.cipher_suites):
        if cipher not in CIPHERS:
            known = ", ".join(sorted(CIPHERS))
            yield _invalid(
                at / "cipherSuites" / index, f'There is no cipher "{cipher}".', f"Use {known}."
            )


def _of_versions(settings: ServerTLSSettings, at: FieldPath) -> Iterator[Problem]:
    given = {
        "minProtocolVersion": settings.min_protocol_version,
        "maxProtocolVersion": settings.max_protocol_version,
    }
    unknown = {
        name: value
        for name, value in given.items()
        if value not in _VERSIONS and value not in _UNSAID
    }
    for name, value in unknown.items():
        yield _invalid(
            at / name, f'"{value}" is not a version of TLS.', f"Use one of {', '.join(_VERSIONS)}."
        )
    if unknown:
        return
    lowest, highest = _versions(settings)
    if _VERSIONS[lowest] > _VERSIONS[highest]:
        yield _invalid(
            at / "maxProtocolVersion",
            f"No version is left between {lowest} and {highest}.",
            "Raise maxProtocolVersion, or lower minProtocolVersion.",
        )
    elif lowest in _DEPRECATED:
        yield Problem(
            at / "minProtocolVersion",
            Reason.INSECURE,
            f"{lowest} is deprecated (RFC 8996).",
            "Use TLSV1_2 or TLSV1_3.",
            Severity.WARNING,
        )


def _invalid(at: FieldPath, message: str, fix: str) -> Problem:
    return Problem(at, Reason.INVALID, message, fix)
