"""Key sets of issuers: what may be believed, cleaned to the keys that can verify a token.

A document from an issuer is input from outside. ``clean`` keeps asymmetric public keys that Envoy
can use, and of them only the members that verifying needs: no shared secret, no private member, no
certificate. Where no key is left ``PLACEHOLDER`` stands in, so that every token of that issuer is
refused: Envoy would not load an empty set, and would go on with the whole old configuration.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec
from joserfc import jwk
from joserfc.errors import JoseError

from apirule import names
from apirule.apis.core import ConfigMap
from apirule.apis.meta import ObjectMeta
from apirule.problem import ROOT, FieldPath, Problem, Reason, Severity

NAMESPACE = "istio-system"
LABEL = "apirule.local/keyset"

MAX_BYTES = 512 * 1024
MAX_KEYS = 200
FEW = 5
"""How many problems one sentence tells of; a set may have hundreds."""

SHOWN = 40
"""How much of a value from outside a message repeats."""

MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
"""RFC 7518, 3.3 asks for the minimum; above the maximum one check costs more than a request."""

_PUBLIC_MEMBERS: Mapping[str, tuple[str, ...]] = {
    "RSA": ("n", "e"),
    "EC": ("crv", "x", "y"),
    "OKP": ("crv", "x"),
}
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVE_ALGORITHMS: Mapping[str, frozenset[str]] = {
    "P-256": frozenset({"ES256"}),
    "P-384": frozenset({"ES384"}),
    "P-521": frozenset({"ES512"}),
    "Ed25519": frozenset({"EdDSA", "Ed25519"}),
}


class KeySet(msgspec.Struct, frozen=True):
    """What is known of the keys of one issuer, read from one place.

    ``document`` is a cleaned JWKS, ``""`` when there has never been a usable one. ``error`` is why
    the last attempt failed; older keys stay in use beside it.
    """

    issuer: str
    jwks_uri: str
    """As the policy gives it; ``""`` means by way of the issuer's discovery document."""
    document: str = ""
    error: str = ""
    fetched_at: str = ""
    """RFC 3339, of the last success."""


class Cleaned(NamedTuple):
    """The usable keys, ``""`` for none; the problems say which keys were dropped and why."""

    document: str
    problems: tuple[Problem, ...]

    @property
    def error(self) -> str:
        """Why nothing can be used, ``""`` when something can."""
        told = " ".join(problem.message for problem in self.problems[:FEW])
        return "" if self.document else told


class _UnusableKeyError(ValueError):
    """One key cannot be used."""


def clean(document: bytes | str) -> Cleaned:
    """Keep the usable keys of a JWKS document. The same keys give the same text, in any order."""
    raw = document.encode() if isinstance(document, str) else document
    try:
        entries = _entries(raw)
    except ValueError as error:
        return Cleaned("", (_problem(ROOT, str(error), Severity.ERROR),))
    keys: list[dict[str, str]] = []
    problems: list[Problem] = []
    for index, entry in enumerate(entries):
        place = FieldPath("keys") / index
        try:
            keys.append(_public_key(entry))
        except _UnusableKeyError as error:
            problems.append(_problem(place, f"Key {index} is not used: {error}", Severity.WARNING))
            continue
        if not _PRIVATE_MEMBERS.isdisjoint(entry):
            problems.append(_published_private_key(place, index))
    if not keys:
        text = "The key set has no key that can verify a token."
        return Cleaned("", (_problem(ROOT, text, Severity.ERROR), *problems))
    return Cleaned(_written(keys), tuple(problems))


def name_of(issuer: str, jwks_uri: str) -> str:
    """Return the name of the ConfigMap that holds a key set."""
    return f"jwks-{names.digest(issuer, jwks_uri)}"


def to_config_map(key_set: KeySet) -> ConfigMap:
    data = {"issuer": key_set.issuer, "jwksUri": key_set.jwks_uri}
    optional = {
        "keys.json": key_set.document,
        "error": key_set.error,
        "fetchedAt": key_set.fetched_at,
    }
    return ConfigMap(
        metadata=ObjectMeta(
            namespace=NAMESPACE,
            name=name_of(key_set.issuer, key_set.jwks_uri),
            labels={LABEL: "true"},
        ),
        data=data | {key: value for key, value in optional.items() if value},
    )


def from_config_map(config_map: ConfigMap) -> KeySet | None:
    """Read a key set back; None when the ConfigMap does not hold one.

    The keys are cleaned again: whoever wrote the ConfigMap may not have been this program.
    """
    data = config_map.data or {}
    issuer, uri = data.get("issuer", ""), data.get("jwksUri", "")
    meta = config_map.metadata
    if (
        meta.namespace != NAMESPACE
        or config_map.labels.get(LABEL) != "true"
        or not issuer
        or meta.name != name_of(issuer, uri)
    ):
        return None
    kept = data.get("keys.json", "")
    cleaned = clean(kept) if kept else Cleaned("", ())
    return KeySet(
        issuer=issuer,
        jwks_uri=uri,
        document=cleaned.document,
        error=data.get("error", "") or cleaned.error,
        fetched_at=data.get("fetchedAt", ""),
    )


def _entries(raw: bytes) -> list[Any]:
    if len(raw) > MAX_BYTES:
        raise ValueError(f"The key set is larger than {MAX_BYTES // 1024} KiB.")
    try:
        document = json.loads(raw)
    # RecursionError: a document may nest deeper than the parser goes.
    except (ValueError, RecursionError):
        raise ValueError("The document is not JSON, so it is not a key set.") from None
    keys = document.get("keys") if isinstance(document, dict) else None
    if keys.__class__ is not list:
        raise ValueError("The JSON has no list `keys`, so it is not a key set (RFC 7517, 5).")
    if len(keys) > MAX_KEYS:
        raise ValueError(f"The key set has {len(keys)} keys; {MAX_KEYS} are allowed.")
    return keys


def _public_key(entry: Any) -> dict[str, str]:
    """Return the members of a key that verifying needs. _UnusableKeyError: it cannot verify."""
    if not isinstance(entry, dict):
        raise _UnusableKeyError("it is not an object.")
    _check_purpose(entry)
    public = {"kty": str(entry["kty"])}
    for member in (*_PUBLIC_MEMBERS[entry["kty"]], "kid", "alg"):
        value = entry.get(member)
        if member in ("kid", "alg") and value is None:
            continue
        if not isinstance(value, str) or not value:
            raise _UnusableKeyError(f"its member `{member}` is missing or not text.")
        public[member] = value
    _check_numbers(public)
    return public


def _check_purpose(entry: Mapping[str, Any]) -> None:
    kty = entry.get("kty")
    if kty == "oct":
        raise _UnusableKeyError(
            "it is a shared secret (`kty: oct`), which has no place in a public set."
        )
    if not isinstance(kty, str) or kty not in _PUBLIC_MEMBERS:
        raise _UnusableKeyError(
            f"its type {_shown(kty)} is not one of {', '.join(_PUBLIC_MEMBERS)}."
        )
    if entry.get("use", "sig") != "sig":
        raise _UnusableKeyError(f"its use is {_shown(entry['use'])}, not `sig`.")
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise _UnusableKeyError("its `key_ops` do not name `verify`.")


def _check_numbers(key: Mapping[str, str]) -> None:
    """Let the library read the key, which finds points off the curve and impossible numbers."""
    algorithms = (
        _RSA_ALGORITHMS if key["kty"] == "RSA" else _CURVE_ALGORITHMS.get(key["crv"], frozenset())
    )
    if not algorithms:
        known = ", ".join(_CURVE_ALGORITHMS)
        raise _UnusableKeyError(f"its curve {_shown(key['crv'])} is not one of {known}.")
    if "alg" in key and key["alg"] not in algorithms:
        raise _UnusableKeyError(
            f"its algorithm {_shown(key['alg'])} does not verify with such a key."
        )
    if key["kty"] == "RSA":
        # Before the library looks at the numbers, which takes long when they are huge.
        bits = _size_bits(key["n"])
        if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
            allowed = f"{MIN_RSA_BITS} to {MAX_RSA_BITS}"
            raise _UnusableKeyError(f"its RSA modulus has {bits} bits; {allowed} are allowed.")
    bare = {name: value for name, value in key.items() if name not in ("alg", "kid")}
    try:
        jwk.import_key({**bare})
    except (JoseError, ValueError, TypeError) as error:
        raise _UnusableKeyError(f"it cannot be read ({str(error)[:SHOWN]}).") from None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _size_bits(number: str) -> int:
    try:
        raw = urlsafe_b64decode(number + "=" * (-len(number) % 4))
    except ValueError:
        return 0
    return int.from_bytes(raw).bit_length()


def _written(keys: list[dict[str, str]]) -> str:
    # Some issuers answer with their keys in another order each time.
    texts = sorted(json.dumps(key, sort_keys=True, separators=(",", ":")) for key in keys)
    return f'{{"keys":[{",".join(dict.fromkeys(texts))}]}}'


def _problem(field: FieldPath, message: str, severity: Severity) -> Problem:
    return Problem(
        field=field,
        reason=Reason.KEYS_UNAVAILABLE,
        message=message,
        fix="Publish asymmetric signing keys at the jwksUri.",
        severity=severity,
    )


def _published_private_key(place: FieldPath, index: int) -> Problem:
    return Problem(
        field=place,
        reason=Reason.INSECURE,
        message=f"Key {index} is published with its private part: anyone can sign with it.",
        fix="Replace the key, and publish only its public part.",
        severity=Severity.WARNING,
    )


def _placeholder() -> str:
    """Make a P-256 key to which nobody has ever had the private part.

    The first point of the curve whose x is a hash of a sentence: to know its private part is to
    have solved the discrete logarithm. So it can stand here in the open, is the same in every
    process, and changes no output from one build to the next.
    """
    prime = 2**256 - 2**224 + 2**192 + 2**96 - 1
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    for x in _hashes():
        square = (x**3 - 3 * x + b) % prime
        y = pow(square, (prime + 1) // 4, prime)
        if x < prime and y * y % prime == square:
            break
    point = {"x": _base64url(x), "y": _base64url(y)}
    return _written([{"kty": "EC", "crv": "P-256", "kid": "no-keys-available", **point}])


def _hashes() -> Iterator[int]:
    counter = 0
    while True:
        text = f"apirule: stands in where an issuer has no usable key, {counter}"
        yield int.from_bytes(sha256(text.encode()).digest())
        counter += 1


def _base64url(number: int) -> str:
    return urlsafe_b64encode(number.to_bytes(32)).rstrip(b"=").decode()


PLACEHOLDER = _placeholder()
"""A key set that verifies nothing. Its ``kid`` matches no token, which the access log shows as an
unknown key, so that the first request after an issuer is back has its keys fetched."""
