"""What the tests of the security filters share: issuers, tokens, policies, client certificates."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from apirule import keysets
from apirule.keysets import KeySet

A, B, NOBODY = "https://a.example", "https://b.example/realms/x", "https://nobody.example"
URI = "https://a.example/jwks"
KEY_A = RSAKey.generate_key(2048, {"kid": "a1", "alg": "RS256"})
KEY_B = ECKey.generate_key("P-256", {"kid": "b1", "alg": "ES256"})
STRANGER = RSAKey.generate_key(2048, {"kid": "a1", "alg": "RS256"})
REALM = 'Bearer realm="api.kyma.localhost:8443"'


def key_set(issuer: str, key: RSAKey | ECKey, uri: str = URI) -> KeySet:
    document = json.dumps({"keys": [key.as_dict(private=False)]})
    return KeySet(issuer, uri, keysets.clean(document).document)


KEYS = (key_set(A, KEY_A), key_set(B, KEY_B))
JWT_A = f"{{issuer: '{A}', jwksUri: '{URI}', forwardOriginalToken: true}}"
JWT_B = f"{{issuer: '{B}', jwksUri: '{URI}', forwardOriginalToken: true}}"


def token(
    claims: Mapping[str, Any] | None = None,
    *,
    key: RSAKey | ECKey = KEY_A,
    without: str = "",
    header: Mapping[str, Any] | None = None,
) -> str:
    now = int(time.time())
    body = {"iss": A, "sub": "alice", "exp": now + 300, "iat": now, **(claims or {})}
    body.pop(without, None)
    head = {"alg": key.get("alg"), "kid": key.get("kid"), **(header or {})}
    head = {name: value for name, value in head.items() if value is not None}
    return jwt.encode(head, body, key, algorithms=["RS256", "ES256"])


def bearer(text: str) -> str:
    return f"Authorization: Bearer {text}"


def authentication(rules: str, name: str = "ra") -> str:
    return f"""
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: {name}}}
spec: {{jwtRules: [{rules}]}}
---"""


def policy(spec: str, name: str = "ap") -> str:
    return f"""
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}}}
spec: {spec}
---"""


def tried(spec: str, name: str) -> str:
    """Make a policy that is only tried: it must change no answer."""
    annotation = f"{{name: {name}, annotations: {{istio.io/dry-run: 'true'}}}}"
    return policy(spec, name).replace(f"{{name: {name}}}", annotation)


def manifests(*parts: str) -> str:
    return "".join(parts).removesuffix("---")


class Authority(NamedTuple):
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(key, _certificate(key, key, "test CA", None))

    def issue(self, spiffe: str) -> tuple[str, str]:
        """Return certificate and key in PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(key, self.key, "", spiffe)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode(), pem.decode()

    def client(self, folder: Path, identity: str) -> ssl.SSLContext:
        """Return what a workload of the mesh shows, as its sidecar would."""
        certificate, key = self.issue(f"spiffe://{identity}")
        file = folder / "client.pem"
        file.write_text(certificate + key)
        context = ssl.create_default_context(cadata=self.pem)
        context.check_hostname = False
        context.load_cert_chain(file)
        return context

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()


def _certificate(
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    name: str,
    spiffe: str | None,
) -> x509.Certificate:
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=spiffe is None, path_length=None), critical=True)
    )
    if spiffe is not None:
        uri = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe)])
        builder = builder.add_extension(uri, critical=True)
    return builder.sign(signer, hashes.SHA256())
