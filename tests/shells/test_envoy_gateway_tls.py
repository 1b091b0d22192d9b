"""What a gateway shows its clients: which certificate, which version of TLS, which cipher."""

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from ports import free_ports
from tests.shells.mesh_run import DEADLINE_S, Authority, mesh_secrets, running
from tests.unit.mesh.objects import decode

from apirule.mesh import server_tls
from apirule.mesh.build import build
from apirule.mesh.snapshot import Snapshot
from apirule.names import ObjectName

pytestmark = pytest.mark.envoy

RESOURCES = """
apiVersion: v1
kind: Pod
metadata: {{name: gw, namespace: istio-system, labels: {{istio: ingressgateway}}}}
spec: {{containers: [{{name: istio-proxy, ports: [{{containerPort: 443, hostPort: {port}}}]}}]}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge, namespace: web}}
spec:
  servers:
    - port: {{number: 443, name: two, protocol: HTTPS}}
      hosts: [two.example]
      tls: {{mode: SIMPLE, credentialNames: [rsa, curve], maxProtocolVersion: TLSV1_2}}
    - port: {{number: 443, name: new, protocol: HTTPS}}
      hosts: [new.example]
      tls: {{mode: SIMPLE, credentialName: curve, minProtocolVersion: TLSV1_3}}
    - port: {{number: 443, name: one, protocol: HTTPS}}
      hosts: [one.example]
      tls: {{mode: SIMPLE, credentialName: rsa, cipherSuites: [{cipher}]}}
    - port: {{number: 443, name: all, protocol: HTTPS}}
      hosts: [all.example]
      tls: {{mode: SIMPLE, credentialName: rsa, cipherSuites: [{ciphers}]}}
---
apiVersion: v1
kind: Secret
metadata: {{name: rsa, namespace: istio-system}}
data: {rsa}
---
apiVersion: v1
kind: Secret
metadata: {{name: curve, namespace: istio-system}}
data: {curve}
"""
RSA_GCM, RSA_CHACHA = "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-CHACHA20-POLY1305"
CURVE_GCM = "ECDHE-ECDSA-AES256-GCM-SHA384"


class Shown(NamedTuple):
    key: str
    version: str
    cipher: str


class Gateway(NamedTuple):
    port: int
    authority: Authority

    def shows(
        self, host: str, *, cipher: str = "", at_most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ) -> Shown:
        context = ssl.create_default_context(cadata=self.authority.pem.decode())
        context.maximum_version = at_most
        if cipher:
            context.set_ciphers(cipher)
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as stream,
        ):
            certificate = x509.load_der_x509_certificate(
                stream.getpeercert(binary_form=True) or b""
            )
            is_curve = isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
            used = stream.cipher()
            assert used is not None
            return Shown("curve" if is_curve else "rsa", str(stream.version()), used[0])


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    folder = Path(mkdtemp(prefix="ap", dir="/tmp"))
    (port,) = free_ports(1)
    authority = Authority()
    names = [x509.DNSName(f"{name}.example") for name in ("two", "new", "one", "all")]
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    text = RESOURCES.format(
        port=port,
        rsa=authority.issue(*names, key=key).secret_data(),
        curve=authority.issue(*names).secret_data(),
        cipher=RSA_CHACHA,
        ciphers=", ".join(sorted(server_tls.CIPHERS)),
    )
    snapshot = Snapshot.of(decode(text))
    proxy = snapshot.proxy(ObjectName("istio-system", "gw"))
    assert proxy is not None
    config = build(snapshot, proxy)
    assert config.problems == {}
    secrets = mesh_secrets(Authority("mesh"), proxy.spiffe_id)
    try:
        with running(folder / "gw", proxy, config, secrets):
            yield Gateway(port, authority)
    finally:
        rmtree(folder)


def test_each_client_gets_the_certificate_it_can_read(gateway: Gateway) -> None:
    assert gateway.shows("two.example", cipher=RSA_GCM) == Shown("rsa", "TLSv1.2", RSA_GCM)
    assert gateway.shows("two.example", cipher=CURVE_GCM) == Shown("curve", "TLSv1.2", CURVE_GCM)


def test_no_older_version_is_spoken_than_the_server_says(gateway: Gateway) -> None:
    assert gateway.shows("new.example").version == "TLSv1.3"
    with pytest.raises(ssl.SSLError):
        gateway.shows("new.example", at_most=ssl.TLSVersion.TLSv1_2)


def test_no_other_cipher_is_used_than_the_server_says(gateway: Gateway) -> None:
    old = ssl.TLSVersion.TLSv1_2

    assert gateway.shows("one.example", at_most=old).cipher == RSA_CHACHA
    with pytest.raises(ssl.SSLError):
        gateway.shows("one.example", cipher=RSA_GCM, at_most=old)


def test_every_cipher_that_can_be_chosen_is_one_envoy_knows(gateway: Gateway) -> None:
    assert gateway.shows("all.example", cipher=RSA_GCM, at_most=ssl.TLSVersion.TLSv1_2)
