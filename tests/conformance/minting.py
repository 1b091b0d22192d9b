"""Tokens of any shape, signed with the real keys of an instance's issuer, or with others."""

import base64
import hmac
import json
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from apirule.local.issuer import keys
from apirule.local.issuer.clients import Algorithm

_HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Mint:
    """``token(spec)`` makes the token a case describes.

    Of ``spec``: ``claims`` and ``header`` change the good ones, ``without`` and ``without_header``
    take some away, ``exp_in``, ``nbf_in``, ``iat_in`` are seconds from now, ``payload`` is the
    whole text in their place. ``sign`` says how it is signed, ``edit`` what is done to it then.
    """

    def __init__(self, folder: Path, issuer: str) -> None:
        self._rings = keys.load(folder)
        self._issuer = issuer

    @cached_property
    def stranger(self) -> rsa.RSAPrivateKey:
        return rsa.generate_private_key(65537, 2048)

    @property
    def _rsa(self) -> keys.SigningKey:
        return self._rings[Algorithm.RS256].active

    @property
    def _private(self) -> rsa.RSAPrivateKey:
        private = self._rsa.key.raw_value
        assert isinstance(private, rsa.RSAPrivateKey)
        return private

    def token(self, spec: Mapping[str, Any]) -> str:
        how = spec.get("sign", "RS256")
        head = f"{self._header(spec, how)}.{self._payload(spec)}"
        return self._edited(f"{head}.{self._signature(head, how)}", spec.get("edit", ""))

    def _header(self, spec: Mapping[str, Any], how: str) -> str:
        header: dict[str, Any] = {"alg": how, "typ": "at+jwt", "kid": self._rsa.kid}
        if how == "ES256":
            header["kid"] = self._rings[Algorithm.ES256].active.kid
        attacker = self.stranger.public_key().public_numbers()
        jwk = {"kty": "RSA", "e": "AQAB", "n": encoded(attacker.n.to_bytes(256, "big"))}
        changes = json.loads(json.dumps(spec.get("header", {})).replace('"{jwk}"', json.dumps(jwk)))
        header |= changes
        for name in spec.get("without_header", ()):
            del header[name]
        return encoded(json.dumps(header).encode())

    def _payload(self, spec: Mapping[str, Any]) -> str:
        if "payload" in spec:
            return encoded(spec["payload"].replace("{issuer}", self._issuer).encode("latin-1"))
        now = int(time.time())
        claims: dict[str, Any] = {"iss": self._issuer, "sub": "demo", "exp": now + 300, "iat": now}
        changes = json.dumps(spec.get("claims", {})).replace("{issuer}", self._issuer)
        claims |= json.loads(changes)
        for name in ("exp", "nbf", "iat"):
            if f"{name}_in" in spec:
                claims[name] = now + spec[f"{name}_in"]
        for name in spec.get("without", ()):
            del claims[name]
        if "pad" in spec:
            claims["pad"] = "x" * spec["pad"]
        return encoded(json.dumps(claims).encode())

    def _signature(self, head: str, how: str) -> str:  # noqa: PLR0911 - one return per way
        data = head.encode()
        public = self._rsa.key.as_pem(private=False)
        digest = _HASHES.get(how[-3:], hashes.SHA256())
        match how:
            case "HS256":
                return encoded(hmac.digest(public, data, "sha256"))
            case "HS256-modulus":
                n = self._private.public_key().public_numbers().n
                return encoded(hmac.digest(n.to_bytes(256, "big"), data, "sha256"))
            case "stranger":
                return encoded(self.stranger.sign(data, padding.PKCS1v15(), hashes.SHA256()))
            case "ES256":
                private = self._rings[Algorithm.ES256].active.key.raw_value
                assert isinstance(private, ec.EllipticCurvePrivateKey)
                r, s = utils.decode_dss_signature(private.sign(data, ec.ECDSA(hashes.SHA256())))
                return encoded(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
            case "ES256-zero":
                return encoded(bytes(64))
            case "none":
                return ""
            case _ if how.startswith("PS"):
                salted = padding.PSS(padding.MGF1(digest), digest.digest_size)
                return encoded(self._private.sign(data, salted, digest))
            case _:
                return encoded(self._private.sign(data, padding.PKCS1v15(), digest))

    def _edited(self, token: str, edit: str) -> str:
        head, payload, signature = token.split(".")
        last = _ALPHABET.index(signature[-1]) if signature else 0
        edits = {
            "": token,
            "strip-signature": f"{head}.{payload}.",
            "two-parts": f"{head}.{payload}",
            "four-parts": f"{token}.x",
            "five-parts": f"{token}.x.y",
            "flip-bit": f"{head}.{payload}.{_ALPHABET[_ALPHABET.index(signature[:1] or 'A') ^ 1]}"
            f"{signature[1:]}",
            "pad": f"{token}==",
            "last-character": f"{head}.{payload}.{signature[:-1]}{_ALPHABET[last ^ 1]}",
            "standard-base64": f"{head}.{payload}.+/{signature[2:]}",
            "json": json.dumps({"protected": head, "payload": payload, "signature": signature}),
        }
        return edits[edit]
