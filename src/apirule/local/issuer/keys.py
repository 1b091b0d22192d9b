"""The signing keys: next (published, unused), active, retired (published until tokens expire).

Whoever caches the key set knows a key before the first token signed with it, so a rotation never
makes a valid token fail. One file, ``keys.json``, holds them; only the running issuer writes it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey

from apirule.local.issuer.clients import Algorithm
from apirule.local.issuer.files import read_private, write_private
from apirule.problem import SetupError

FILE = "keys.json"
RSA_BITS = 2048
_RSA_MEMBERS = ("n", "e", "d", "p", "q", "dp", "dq", "qi")
"""RFC 7518, 6.3."""

Key = RSAKey | ECKey | OKPKey


class SigningKey(msgspec.Struct, frozen=True):
    algorithm: Algorithm
    key: Key

    @property
    def kid(self) -> str:
        return str(self.key.thumbprint())

    @property
    def public(self) -> dict[str, Any]:
        """The public key as it stands in the key set."""
        body = self.key.as_dict(private=False)
        return {**body, "kid": self.kid, "use": "sig", "alg": self.algorithm.value}


class Ring(msgspec.Struct, frozen=True):
    """The keys of one algorithm."""

    next: SigningKey
    active: SigningKey
    retired: tuple[tuple[SigningKey, datetime], ...] = ()
    """Each with the time until which it stays published."""

    def rotate(self, fresh: SigningKey, now: datetime, keep: timedelta) -> Ring:
        """Activate the next key and publish ``fresh`` as the one after it."""
        kept = tuple((key, until) for key, until in self.retired if until > now)
        return msgspec.structs.replace(
            self, next=fresh, active=self.next, retired=((self.active, now + keep), *kept)
        )

    def published(self, now: datetime) -> Iterator[SigningKey]:
        yield self.active
        yield self.next
        for key, until in self.retired:
            if until > now:
                yield key


Rings = Mapping[Algorithm, Ring]


def generate(algorithm: Algorithm) -> SigningKey:
    """Make a key. RSA takes some 100 ms."""
    match algorithm:
        case Algorithm.RS256:
            return SigningKey(algorithm, RSAKey.generate_key(RSA_BITS))
        case Algorithm.ES256:
            return SigningKey(algorithm, ECKey.generate_key("P-256"))
        case Algorithm.EDDSA:
            return SigningKey(algorithm, OKPKey.generate_key("Ed25519"))


def rotate(rings: Rings, now: datetime, keep: timedelta) -> dict[Algorithm, Ring]:
    """Rotate the keys of every algorithm."""
    return {one: ring.rotate(generate(one), now, keep) for one, ring in rings.items()}


def key_set(rings: Rings, now: datetime) -> dict[str, Any]:
    """Return the JWKS document to publish."""
    return {"keys": [key.public for ring in rings.values() for key in ring.published(now)]}


def verifier(rings: Rings, now: datetime) -> KeySet:
    """Return the keys that a token of ours may be signed with."""
    return KeySet.import_key_set(key_set(rings, now))  # type: ignore[arg-type]  # a plain document


def load(folder: Path) -> dict[Algorithm, Ring]:
    """Read the keys. SetupError: missing, readable by others, or damaged."""
    path = folder / FILE
    try:
        stored = msgspec.json.decode(read_private(path), type=dict[str, _StoredRing])
        return {Algorithm(name): _restore(Algorithm(name), ring) for name, ring in stored.items()}
    except (msgspec.MsgspecError, ValueError) as error:
        raise SetupError(
            f"{path} is damaged: {error}.", "Delete the file; all tokens issued so far end."
        ) from error


def load_or_create(folder: Path) -> dict[Algorithm, Ring]:
    """Read the keys; make what is missing. It blocks: RSA keys take a while."""
    path = folder / FILE
    rings = load(folder) if path.exists() else {}
    missing = [one for one in Algorithm if one not in rings]
    if missing:
        rings |= {one: Ring(next=generate(one), active=generate(one)) for one in missing}
        save(folder, rings)
    return rings


def save(folder: Path, rings: Rings) -> None:
    stored = {
        name.value: _StoredRing(
            next=ring.next.key.as_dict(private=True),
            active=ring.active.key.as_dict(private=True),
            retired=[
                _Retired(key=key.key.as_dict(private=True), until=until)
                for key, until in ring.retired
            ],
        )
        for name, ring in rings.items()
    }
    write_private(folder / FILE, msgspec.json.encode(stored))


class _Retired(msgspec.Struct):
    key: dict[str, Any]
    until: datetime


class _StoredRing(msgspec.Struct):
    next: dict[str, Any]
    active: dict[str, Any]
    retired: list[_Retired] = []


def _restore(algorithm: Algorithm, stored: _StoredRing) -> Ring:
    return Ring(
        next=_import(algorithm, stored.next),
        active=_import(algorithm, stored.active),
        retired=tuple((_import(algorithm, one.key), one.until) for one in stored.retired),
    )


def _import(algorithm: Algorithm, body: dict[str, Any]) -> SigningKey:
    match algorithm:
        case Algorithm.RS256:
            return SigningKey(algorithm, _rsa(body))
        case Algorithm.ES256:
            return SigningKey(algorithm, ECKey.import_key(body))
        case Algorithm.EDDSA:
            return SigningKey(algorithm, OKPKey.import_key(body))


def _rsa(body: Mapping[str, Any]) -> RSAKey:
    """Return an RSA key of our own file. ValueError: it is damaged.

    Whether the primes are primes takes OpenSSL 60 ms a key, and every start would wait for it. What
    counts of a key that we made is that its signatures are right.
    """
    if lacking := [name for name in _RSA_MEMBERS if not isinstance(body.get(name), str)]:
        raise ValueError(f"an RSA key lacks {', '.join(lacking)}")
    n, e, d, p, q, dp, dq, qi = (_number(body[name]) for name in _RSA_MEMBERS)
    numbers = rsa.RSAPrivateNumbers(
        d=d, p=p, q=q, dmp1=dp, dmq1=dq, iqmp=qi, public_numbers=rsa.RSAPublicNumbers(e=e, n=n)
    )
    key = numbers.private_key(unsafe_skip_rsa_key_validation=True)
    try:
        key.public_key().verify(key.sign(b"", PKCS1v15(), SHA256()), b"", PKCS1v15(), SHA256())
    except InvalidSignature as error:
        raise ValueError("an RSA key does not fit its public part") from error
    return RSAKey.import_key(key)


def _number(text: str) -> int:
    """Read a Base64urlUInt (RFC 7518, 2)."""
    return int.from_bytes(base64.urlsafe_b64decode(text + "=="))
