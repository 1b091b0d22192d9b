"""The two secrets every proxy of the mesh has: its own certificate, and whom it believes."""

from __future__ import annotations

from collections.abc import Mapping

from envoy.config.core.v3.base_pb2 import DataSource
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import (
    CertificateValidationContext,
    TlsCertificate,
)
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from apirule.local.ca import Pair, Roots

IDENTITY = "default"
TRUST = "ROOTCA"


def workload_secrets(pair: Pair, roots: Roots) -> Mapping[str, Secret]:
    return {
        IDENTITY: Secret(
            name=IDENTITY,
            tls_certificate=TlsCertificate(
                certificate_chain=DataSource(inline_bytes=pair.certificate),
                private_key=DataSource(inline_bytes=pair.key),
            ),
        ),
        TRUST: Secret(
            name=TRUST,
            validation_context=CertificateValidationContext(
                trusted_ca=DataSource(inline_bytes=roots.mesh)
            ),
        ),
    }
