"""The certificate authorities of one machine: who may prove what, and to whom.

Three roots that share no key and no issuer, because each verifier trusts exactly one of them:

* ``ca``: server certificates of the API server and of the gateway. ``ca.crt`` is the one file that
  a user gives to curl or a browser. Its leaves can only be servers.
* ``client-ca``: client certificates for the API server, and nothing else. The API server takes a
  client's word (CN is the user, O its groups) from this root alone.
* ``mesh-ca``: SPIFFE certificates of workloads. Envoy takes a peer's word from this root alone.

So a workload certificate can not log in to the API server and a gateway key can not speak for a
workload, whatever names stand in it: no verifier even knows the other root. Key usages and the path
length say the same once more for those who import a root elsewhere.

Roots, and the leaves that other processes read, are files: 0600, in a folder of 0700, replaced as a
whole. Workload keys are short-lived and live only in memory.
"""

from __future__ import annotations

import ipaddress
import os
import tempfile
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from apirule import names
from apirule.problem import SetupError

Clock = Callable[[], datetime]
"""Tells the time, aware and in UTC."""

ROOT_LIFETIME = timedelta(days=3650)
LEAF_LIFETIME = timedelta(days=365)
"""Browsers refuse server certificates that live longer than 398 days, own roots excepted or not."""
WORKLOAD_LIFETIME = timedelta(hours=24)
RENEW_AFTER = 2 / 3
"""The part of its life after which a certificate is replaced."""
SKEW = timedelta(minutes=10)
"""How far the clocks that check a certificate may be behind the one that made it."""

API_SERVER_NAMES = (
    "localhost",
    "127.0.0.1",
    "::1",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    f"kubernetes.default.svc.{names.CLUSTER_DOMAIN}",
)
ADMIN = "apirule-admin"
ADMIN_GROUP = "system:masters"
ORGANIZATION = "apirule"


class Pair(msgspec.Struct, frozen=True):
    """A certificate and its key, both PEM. The files are None for what lives only in memory."""

    certificate: bytes
    key: bytes
    renew_at: datetime
    certificate_file: Path | None = None
    key_file: Path | None = None


class Roots(msgspec.Struct, frozen=True):
    """What to trust, PEM: as a user of a server, as the API server, as a member of the mesh."""

    server: bytes
    client: bytes
    mesh: bytes


class CertificateAuthority:
    """Issues every certificate of the machine. Made by ``open``."""

    def __init__(self, folder: Path, clock: Clock, *, server: _Root, client: _Root, mesh: _Root):
        self._folder = folder
        self._clock = clock
        self._server = server
        self._client = client
        self._mesh = mesh
        self._workloads: dict[str, Pair] = {}
        self.roots = Roots(server.pem, client.pem, mesh.pem)

    @classmethod
    def open(cls, folder: Path, *, clock: Clock) -> CertificateAuthority:
        """Read the roots in the folder; make those that are missing.

        SetupError: a root is unreadable, has expired, or does not fit its key. Nothing is replaced
        in that case, because users and kubeconfigs may trust what is there.
        """
        _secure_folder(folder)
        now = clock()
        return cls(
            folder,
            clock,
            server=_open_root(folder, "ca", "apirule server CA", now),
            client=_open_root(folder, "client-ca", "apirule client CA", now),
            mesh=_open_root(folder, "mesh-ca", "apirule mesh CA", now),
        )

    @property
    def client_ca_file(self) -> Path:
        """What the API server verifies client certificates with."""
        return self._folder / "client-ca.crt"

    def api_server_pair(self) -> Pair:
        return self._kept("server", self._server, _Leaf("apirule API server", API_SERVER_NAMES))

    def client_pair(self) -> Pair:
        """Return the certificate of the administrator, for the kubeconfig."""
        leaf = _Leaf(ADMIN, organization=ADMIN_GROUP, client=True, server=False)
        return self._kept("client", self._client, leaf)

    def gateway_pair(self, hosts: Sequence[str]) -> Pair:
        """Return the certificate of the gateway for these hosts; ``*.`` stands for one label."""
        if not hosts:
            raise ValueError("a gateway certificate needs at least one host")
        return self._kept("gateway", self._server, _Leaf("apirule gateway", tuple(hosts)))

    def workload_pair(self, identity: str) -> Pair:
        """Return the current certificate of a SPIFFE ID, a new one after two thirds of its life."""
        now = self._clock()
        pair = self._workloads.get(identity)
        if pair is None or now >= pair.renew_at:
            # A SPIFFE certificate has an empty subject and exactly one URI.
            leaf = _Leaf("", uri=identity, client=True, lifetime=WORKLOAD_LIFETIME)
            pair = self._workloads[identity] = _issue(self._mesh, leaf, now)
        return pair

    def renews_at(self) -> datetime | None:
        """Return when the next workload certificate is due; None without any."""
        return min((pair.renew_at for pair in self._workloads.values()), default=None)

    def keep_only(self, identities: Collection[str]) -> None:
        """Stop renewing the certificates of workloads that are gone."""
        self._workloads = {i: pair for i, pair in self._workloads.items() if i in identities}

    def _kept(self, name: str, root: _Root, leaf: _Leaf) -> Pair:
        """Return the pair in the folder, or a new one if it is missing, due, or for other names."""
        certificate_file, key_file = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        now = self._clock()
        pair = _read_leaf(certificate_file, key_file, root, leaf)
        if pair is None or now >= pair.renew_at:
            pair = _issue(root, leaf, now)
            write_private(key_file, pair.key)
            write_private(certificate_file, pair.certificate)
        return Pair(pair.certificate, pair.key, pair.renew_at, certificate_file, key_file)


class _Root(msgspec.Struct, frozen=True):
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


class _Leaf(msgspec.Struct, frozen=True):
    common_name: str
    hosts: tuple[str, ...] = ()
    organization: str = ORGANIZATION
    uri: str = ""
    server: bool = True
    client: bool = False
    lifetime: timedelta = LEAF_LIFETIME

    @property
    def subject(self) -> x509.Name:
        if not self.common_name:
            return x509.Name([])
        return _name(self.common_name, self.organization)

    @property
    def alternatives(self) -> list[x509.GeneralName]:
        if self.uri:
            return [x509.UniformResourceIdentifier(self.uri)]
        return [_general_name(host) for host in self.hosts]

    @property
    def usages(self) -> list[x509.ObjectIdentifier]:
        usages = []
        if self.server:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        if self.client:
            usages.append(ExtendedKeyUsageOID.CLIENT_AUTH)
        return usages


def write_private(path: Path, content: bytes) -> None:
    """Replace a file as a whole; only its owner may read it, from its first byte on."""
    # mkstemp makes the file with mode 0600 under a name nobody else can have opened.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _secure_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise SetupError(
            f"The certificate folder {folder} belongs to another user.",
            "Choose another state folder, or run apirule as its owner.",
        )
    folder.chmod(0o700)
    for file in folder.iterdir():
        # A backup or a copy may have loosened them.
        if file.is_file() and not file.is_symlink():
            file.chmod(0o600)


def _open_root(folder: Path, name: str, common_name: str, now: datetime) -> _Root:
    certificate_file, key_file = folder / f"{name}.crt", folder / f"{name}.key"
    if not certificate_file.exists():
        # A key alone is what a crash between the two writes leaves: nobody has seen its root yet.
        root = _make_root(common_name, now)
        write_private(key_file, _key_pem(root.key))
        write_private(certificate_file, root.pem)
        return root
    try:
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise _unusable(certificate_file, f"cannot be read with its key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not _fits(certificate, key):
        raise _unusable(certificate_file, f"does not belong to the key in {key_file.name}")
    if now >= certificate.not_valid_after_utc:
        raise _unusable(certificate_file, f"expired on {certificate.not_valid_after_utc:%Y-%m-%d}")
    return _Root(certificate, key)


def _unusable(file: Path, why: str) -> SetupError:
    return SetupError(
        f"The root certificate {file} {why}.",
        f"Restore {file.stem}.crt and {file.stem}.key from a backup, or delete both and start "
        "again: a new root is made, which curl, browsers and kubeconfigs then have to trust.",
    )


def _make_root(common_name: str, now: datetime) -> _Root:
    key = ec.generate_private_key(ec.SECP256R1())
    # The number tells the roots of two machines, or of one before and after a reset, apart.
    serial = x509.random_serial_number()
    name = _name(f"{common_name} {serial:x}"[:64], ORGANIZATION)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - SKEW)
        .not_valid_after(now + ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _Root(certificate, key)


def _issue(root: _Root, leaf: _Leaf, now: datetime) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    ends = min(now + leaf.lifetime, root.certificate.not_valid_after_utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(leaf.subject)
        .issuer_name(root.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(leaf.usages), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(root.key.public_key()),
            critical=False,
        )
    )
    if leaf.alternatives:
        # RFC 5280, 4.2.1.6: critical when the subject is empty.
        builder = builder.add_extension(
            x509.SubjectAlternativeName(leaf.alternatives), critical=not leaf.common_name
        )
    certificate = builder.sign(root.key, hashes.SHA256())
    return Pair(
        certificate.public_bytes(serialization.Encoding.PEM), _key_pem(key), _renew_at(certificate)
    )


def _read_leaf(certificate_file: Path, key_file: Path, root: _Root, leaf: _Leaf) -> Pair | None:
    """Return the pair if it is what ``_issue`` would make now; else None, so it is made anew."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        key_pem = key_file.read_bytes()
        key = serialization.load_pem_private_key(key_pem, password=None)
        certificate.verify_directly_issued_by(root.certificate)
        names_there = _alternatives_of(certificate)
    except (OSError, ValueError, TypeError, InvalidSignature):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not _fits(certificate, key):
        return None
    if certificate.subject != leaf.subject or names_there != leaf.alternatives:
        return None
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    return Pair(pem, key_pem, _renew_at(certificate))


def _alternatives_of(certificate: x509.Certificate) -> list[x509.GeneralName]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return list(extension.value)


def _fits(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    return certificate.public_key() == key.public_key()


def _renew_at(certificate: x509.Certificate) -> datetime:
    starts, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return (starts + (ends - starts) * RENEW_AFTER).astimezone(UTC)


def _name(common_name: str, organization: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
