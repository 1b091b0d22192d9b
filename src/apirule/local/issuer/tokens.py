"""Tokens as values: the claims, the signature, and the broken ones that tests need.

Everything here is a function of its arguments: the keys and the time come in.
"""

from __future__ import annotations

import base64
import hmac
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256, sha512
from typing import Any

import msgspec
from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import KeySet

from apirule.local.issuer.clients import Algorithm, Client, ScopeClaim, User
from apirule.local.issuer.keys import SigningKey

ACCESS_TOKEN_TYPE = "at+jwt"  # noqa: S105  # RFC 9068: tells it from an ID token
ID_TOKEN_TYPE = "JWT"  # noqa: S105  # a media type
FAR = timedelta(hours=1)
"""How far off the times of a forged token are: more than any allowance for clock skew."""

Claims = dict[str, Any]


def access_claims(
    client: Client,
    *,
    issuer: str,
    subject: str,
    scopes: tuple[str, ...],
    audience: str,
    token_id: str,
    now: datetime,
) -> Claims:
    """Return the claims of an access token (RFC 9068)."""
    issued = int(now.timestamp())
    claims: Claims = {
        "iss": issuer,
        "sub": subject,
        "aud": audience,
        "exp": issued + client.lifetime_s,
        "iat": issued,
        "nbf": issued,
        "jti": token_id,
        "client_id": client.id,
    }
    if scopes:
        as_text = client.scope_claim is ScopeClaim.SCOPE
        claims[client.scope_claim.value] = " ".join(scopes) if as_text else list(scopes)
    return claims


def id_claims(
    client: Client,
    user: User,
    *,
    issuer: str,
    access_token: str,
    nonce: str,
    authenticated_at: datetime,
    now: datetime,
) -> Claims:
    """Return the claims of an ID token (OpenID Connect Core, 2)."""
    issued = int(now.timestamp())
    claims: Claims = {
        "iss": issuer,
        "sub": user.id,
        "aud": client.id,
        "exp": issued + client.lifetime_s,
        "iat": issued,
        "auth_time": int(authenticated_at.timestamp()),
        "at_hash": at_hash(access_token, client.algorithm),
        **person(user),
    }
    return claims | {"nonce": nonce} if nonce else claims


def person(user: User) -> Claims:
    return {
        "email": user.email,
        "email_verified": user.email_verified,
        "groups": list(user.groups),
        "name": user.name or user.id,
    }


def at_hash(access_token: str, algorithm: Algorithm) -> str:
    """Bind an ID token to its access token: the left half of the hash the signature uses."""
    hashed = sha512 if algorithm is Algorithm.EDDSA else sha256
    digest = hashed(access_token.encode("ascii")).digest()
    return _base64(digest[: len(digest) // 2])


def mint(claims: Mapping[str, Any], key: SigningKey, *, typ: str = ACCESS_TOKEN_TYPE) -> str:
    """Sign claims."""
    return _sign(claims, key, kid=key.kid, typ=typ)


def read(token: str, keys: KeySet) -> Claims:
    """Check the signature and return the claims; times and names are for the caller to check.

    ValueError: no JWT, or none of ours.
    """
    try:
        with _eddsa_allowed():
            signed = jws.deserialize_compact(token, keys, algorithms=list(Algorithm))
        return msgspec.json.decode(signed.payload, type=dict[str, Any])
    except (JoseError, msgspec.MsgspecError, UnicodeError) as error:
        raise ValueError("the token is not one of ours") from error


class Forgery(StrEnum):
    """A token that must be refused, and by what it is told."""

    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    WRONG_ISSUER = "wrong-issuer"
    WRONG_AUDIENCE = "wrong-audience"
    NO_SCOPE = "no-scope"
    UNKNOWN_KEY = "unknown-key"
    BAD_SIGNATURE = "bad-signature"
    TAMPERED = "tampered"
    GARBAGE = "garbage"
    ALG_NONE = "alg-none"
    HS256_CONFUSION = "hs256-confusion"
    NO_EXP = "no-exp"


def forge(  # noqa: PLR0911  # one return per kind
    kind: Forgery,
    claims: Mapping[str, Any],
    key: SigningKey,
    *,
    stranger: SigningKey,
    now: datetime,
) -> str:
    """Return a token that is as good as ``claims`` signed with ``key``, but for one flaw.

    ``stranger`` is a key of the same algorithm that is published nowhere.
    """
    if kind in _CHANGED_CLAIMS:
        return mint(_CHANGED_CLAIMS[kind](dict(claims), now), key)
    head, payload, signature = mint(claims, key).split(".")
    match kind:
        case Forgery.UNKNOWN_KEY:
            return mint(claims, stranger)
        case Forgery.BAD_SIGNATURE:
            # The stranger's signature under our key id: the length is right, so is the form.
            return _sign(claims, stranger, kid=key.kid, typ=ACCESS_TOKEN_TYPE)
        case Forgery.TAMPERED:
            changed = {**claims, "sub": f"{claims.get('sub', '')}-admin"}
            return f"{head}.{_base64(msgspec.json.encode(changed))}.{signature}"
        case Forgery.ALG_NONE:
            return f"{_base64(msgspec.json.encode({'alg': 'none', 'typ': 'JWT'}))}.{payload}."
        case Forgery.HS256_CONFUSION:
            return _signed_with_public_key(payload, key)
        case _:
            return "not.a.token"


def _expired(claims: Claims, now: datetime) -> Claims:
    start = int((now - 2 * FAR).timestamp())
    return claims | {"iat": start, "nbf": start, "exp": int((now - FAR).timestamp())}


def _not_yet_valid(claims: Claims, now: datetime) -> Claims:
    start = int((now + FAR).timestamp())
    return claims | {"nbf": start, "exp": int((now + 2 * FAR).timestamp())}


def _without(*names: str) -> Callable[[Claims, datetime], Claims]:
    return lambda claims, _: {key: value for key, value in claims.items() if key not in names}


_CHANGED_CLAIMS: Mapping[Forgery, Callable[[Claims, datetime], Claims]] = {
    Forgery.EXPIRED: _expired,
    Forgery.NOT_YET_VALID: _not_yet_valid,
    Forgery.WRONG_ISSUER: lambda claims, _: claims | {"iss": "https://issuer.invalid"},
    Forgery.WRONG_AUDIENCE: lambda claims, _: claims | {"aud": "somebody-else"},
    Forgery.NO_SCOPE: _without(*(one.value for one in ScopeClaim)),
    Forgery.NO_EXP: _without("exp"),
}


def _sign(claims: Mapping[str, Any], key: SigningKey, *, kid: str, typ: str) -> str:
    algorithm = key.algorithm.value
    header = {"alg": algorithm, "typ": typ, "kid": kid}
    with _eddsa_allowed():
        return jws.serialize_compact(
            header, msgspec.json.encode(claims), key.key, algorithms=[algorithm]
        )


@contextmanager
def _eddsa_allowed() -> Iterator[None]:
    """Spare the log a warning: the newer name "Ed25519" (RFC 9864) is not known to Envoy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)
        yield


def _signed_with_public_key(payload: str, key: SigningKey) -> str:
    """Use the public key, which everybody knows, as the secret of an HMAC."""
    header = {"alg": "HS256", "typ": ACCESS_TOKEN_TYPE, "kid": key.kid}
    signed = f"{_base64(msgspec.json.encode(header))}.{payload}"
    secret = key.key.as_pem(private=False)
    return f"{signed}.{_base64(hmac.digest(secret, signed.encode(), 'sha256'))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
