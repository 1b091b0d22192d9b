import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from apirule.local.ca import CertificateAuthority, Pair
from apirule.problem import SetupError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOSTS = ("kyma.localhost", "*.kyma.localhost")
IDENTITY = "spiffe://cluster.local/ns/default/sa/httpbin"


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def opened(folder: Path, clock: Clock) -> CertificateAuthority:
    return CertificateAuthority.open(folder / "pki", clock=clock)


def certificate(pair: Pair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate)


def alternatives(pair: Pair) -> x509.SubjectAlternativeName:
    found = certificate(pair).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return found.value


def accepts_client(root: bytes, pair: Pair) -> bool:
    """Tell whether a verifier of clients that trusts this root accepts the certificate."""
    builder = PolicyBuilder().store(Store([x509.load_pem_x509_certificate(root)])).time(NOW)
    try:
        builder.build_client_verifier().verify(certificate(pair), [])
    except VerificationError:
        return False
    return True


def test_folder_and_files_are_private(tmp_path: Path, clock: Clock) -> None:
    authority = opened(tmp_path, clock)

    authority.api_server_pair()
    authority.client_pair()
    authority.gateway_pair(HOSTS)

    folder = tmp_path / "pki"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    assert {file.name for file in folder.iterdir()} == {
        f"{name}.{end}"
        for name in ("ca", "client-ca", "mesh-ca", "server", "client", "gateway")
        for end in ("crt", "key")
    }


def test_opening_again_keeps_roots_and_leaves(tmp_path: Path, clock: Clock) -> None:
    first = opened(tmp_path, clock)
    before = (first.roots, first.api_server_pair(), first.gateway_pair(HOSTS))

    again = opened(tmp_path, clock)

    assert (again.roots, again.api_server_pair(), again.gateway_pair(HOSTS)) == before


def test_loosened_files_are_tightened_on_opening(tmp_path: Path, clock: Clock) -> None:
    opened(tmp_path, clock)
    key = tmp_path / "pki" / "ca.key"
    key.chmod(0o644)

    opened(tmp_path, clock)

    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_api_server_certificate_names_every_way_to_reach_it(tmp_path: Path, clock: Clock) -> None:
    pair = opened(tmp_path, clock).api_server_pair()

    names = alternatives(pair)
    assert "kubernetes.default.svc" in names.get_values_for_type(x509.DNSName)
    assert "localhost" in names.get_values_for_type(x509.DNSName)
    assert {str(ip) for ip in names.get_values_for_type(x509.IPAddress)} == {"127.0.0.1", "::1"}


def test_client_certificate_is_the_administrator(tmp_path: Path, clock: Clock) -> None:
    pair = opened(tmp_path, clock).client_pair()

    subject = certificate(pair).subject
    assert subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "apirule-admin"
    assert subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "system:masters"


def test_workload_certificate_is_a_spiffe_id_for_both_sides(tmp_path: Path, clock: Clock) -> None:
    pair = opened(tmp_path, clock).workload_pair(IDENTITY)

    usages = certificate(pair).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(alternatives(pair)) == [x509.UniformResourceIdentifier(IDENTITY)]
    assert set(usages) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert load_pem_private_key(pair.key, None).public_key() == certificate(pair).public_key()


def test_only_the_client_root_lets_a_client_in(tmp_path: Path, clock: Clock) -> None:
    authority = opened(tmp_path, clock)
    admin, workload = authority.client_pair(), authority.workload_pair(IDENTITY)
    gateway, server = authority.gateway_pair(HOSTS), authority.api_server_pair()

    # A verifier of clients wants an alternative name or accepts by signature alone; what counts
    # here is who signed, so the signature is what is asked for.
    root = x509.load_pem_x509_certificate(authority.roots.client)
    certificate(admin).verify_directly_issued_by(root)
    for other in (workload, gateway, server):
        with pytest.raises(ValueError, match="Issuer"):
            certificate(other).verify_directly_issued_by(root)
        assert not accepts_client(authority.roots.client, other)


def test_mesh_root_believes_workloads_only(tmp_path: Path, clock: Clock) -> None:
    authority = opened(tmp_path, clock)

    assert accepts_client(authority.roots.mesh, authority.workload_pair(IDENTITY))
    assert not accepts_client(authority.roots.mesh, authority.client_pair())
    assert not accepts_client(authority.roots.mesh, authority.gateway_pair(HOSTS))


def test_server_root_verifies_gateway_hosts_and_no_others(tmp_path: Path, clock: Clock) -> None:
    authority = opened(tmp_path, clock)
    leaf = certificate(authority.gateway_pair(HOSTS))
    builder = PolicyBuilder().store(Store([x509.load_pem_x509_certificate(authority.roots.server)]))

    for host in ("kyma.localhost", "httpbin.kyma.localhost"):
        builder.time(NOW).build_server_verifier(x509.DNSName(host)).verify(leaf, [])
    with pytest.raises(VerificationError):
        builder.time(NOW).build_server_verifier(x509.DNSName("example.com")).verify(leaf, [])


def test_workload_certificate_is_renewed_at_two_thirds_of_its_life(
    tmp_path: Path, clock: Clock
) -> None:
    authority = opened(tmp_path, clock)
    first = authority.workload_pair(IDENTITY)

    clock.now = NOW + timedelta(hours=15)
    kept = authority.workload_pair(IDENTITY)
    clock.now = NOW + timedelta(hours=16)
    renewed = authority.workload_pair(IDENTITY)

    assert kept == first
    assert renewed.certificate != first.certificate
    assert authority.renews_at() == renewed.renew_at


def test_other_hosts_make_another_gateway_certificate(tmp_path: Path, clock: Clock) -> None:
    authority = opened(tmp_path, clock)
    first = authority.gateway_pair(HOSTS)

    second = authority.gateway_pair(("api.example.test",))

    assert second.certificate != first.certificate
    assert alternatives(second).get_values_for_type(x509.DNSName) == ["api.example.test"]


def test_kept_leaf_is_replaced_when_it_is_due_or_damaged(tmp_path: Path, clock: Clock) -> None:
    authority = opened(tmp_path, clock)
    first = authority.client_pair()
    assert first.key_file is not None

    first.key_file.write_bytes(b"not a key")
    mended = authority.client_pair()
    clock.now = NOW + timedelta(days=300)
    renewed = authority.client_pair()

    assert len({first.certificate, mended.certificate, renewed.certificate}) == 3


def test_key_left_by_a_crash_is_replaced_with_its_root(tmp_path: Path, clock: Clock) -> None:
    opened(tmp_path, clock)
    (tmp_path / "pki" / "mesh-ca.crt").unlink()

    authority = opened(tmp_path, clock)

    assert accepts_client(authority.roots.mesh, authority.workload_pair(IDENTITY))


@pytest.mark.parametrize("damage", ["no key", "another key", "no certificate in it", "expired"])
def test_damaged_root_is_reported_and_never_replaced(
    tmp_path: Path, clock: Clock, damage: str
) -> None:
    opened(tmp_path, clock)
    root, key = tmp_path / "pki" / "ca.crt", tmp_path / "pki" / "ca.key"
    match damage:
        case "no key":
            key.unlink()
        case "another key":
            key.write_bytes((tmp_path / "pki" / "mesh-ca.key").read_bytes())
        case "no certificate in it":
            root.write_text("hello")
        case _:
            clock.now = NOW + timedelta(days=3651)
    before = root.read_bytes()

    with pytest.raises(SetupError) as raised:
        opened(tmp_path, clock)

    assert "ca.crt" in raised.value.message
    assert "backup" in raised.value.fix
    assert root.read_bytes() == before
