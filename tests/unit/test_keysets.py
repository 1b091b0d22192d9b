"""Key sets: which keys are believed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from joserfc.jwk import ECKey, OKPKey, RSAKey

from apirule import keysets
from apirule.apis.core import ConfigMap
from apirule.apis.meta import ObjectMeta
from apirule.keysets import KeySet, clean, from_config_map, to_config_map
from apirule.problem import Reason, Severity

RSA: dict[str, Any] = {**RSAKey.generate_key(2048).as_dict(private=False), "kid": "r"}
EC: dict[str, Any] = {**ECKey.generate_key("P-256").as_dict(private=False), "kid": "e"}
SMALL_MODULUS = "x" * 171  # 1026 bits in base64url


def document(*keys: Any) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def kept(*keys: Any) -> list[dict[str, Any]]:
    text = clean(document(*keys)).document
    return list(json.loads(text)["keys"]) if text else []


def test_the_order_of_keys_and_members_does_not_matter() -> None:
    turned = {name: RSA[name] for name in reversed(RSA)}

    assert clean(document(RSA, EC)) == clean(document(EC, turned))


def test_only_what_verifying_needs_is_kept() -> None:
    (key,) = kept({**RSA, "use": "sig", "key_ops": ["verify"], "x5c": ["MII"], "x5u": "http://x"})

    assert set(key) == {"kty", "kid", "n", "e"}


@pytest.mark.parametrize("curve", ["P-256", "P-384", "P-521"])
def test_the_curves_envoy_knows_are_kept(curve: str) -> None:
    assert len(kept(ECKey.generate_key(curve).as_dict(private=False))) == 1


def test_ed25519_is_kept() -> None:
    assert len(kept(OKPKey.generate_key("Ed25519").as_dict(private=False))) == 1


@pytest.mark.parametrize(
    "key",
    [
        pytest.param({"kty": "oct", "k": "c2VjcmV0"}, id="a shared secret"),
        pytest.param({**RSA, "use": "enc"}, id="for encryption"),
        pytest.param({**RSA, "key_ops": ["encrypt"]}, id="not for verifying"),
        pytest.param({**RSA, "key_ops": "verify"}, id="operations that are not a list"),
        pytest.param({**RSA, "alg": "HS256"}, id="a symmetric algorithm"),
        pytest.param({**RSA, "alg": "ES256"}, id="the algorithm of another type"),
        pytest.param({**RSA, "alg": 5}, id="an algorithm that is not text"),
        pytest.param({**RSA, "kid": 7}, id="a kid that is not text"),
        pytest.param({**RSA, "n": SMALL_MODULUS}, id="a small modulus"),
        pytest.param({**RSA, "n": "x" * 3000}, id="a huge modulus"),
        pytest.param({**RSA, "n": "ü"}, id="a modulus that is not base64"),
        pytest.param({**RSA, "e": "AQ"}, id="the exponent 1"),
        pytest.param({**RSA, "e": None}, id="no exponent"),
        pytest.param({**EC, "x": RSA["n"][:43]}, id="a point off the curve"),
        pytest.param({**EC, "crv": "secp256k1"}, id="another curve"),
        pytest.param({**EC, "crv": ["P-256"]}, id="a curve that is not text"),
        pytest.param(OKPKey.generate_key("X25519").as_dict(private=False), id="key agreement"),
        pytest.param({"kty": ["RSA"]}, id="a type that is not text"),
        pytest.param({}, id="nothing"),
        pytest.param("key", id="text"),
    ],
)
def test_a_key_that_cannot_verify_is_dropped_and_named(key: Any) -> None:
    cleaned = clean(document(key, EC))

    assert [k["kid"] for k in json.loads(cleaned.document)["keys"]] == ["e"]
    (problem,) = cleaned.problems
    assert str(problem.field) == "keys[0]"
    assert problem.severity is Severity.WARNING


def test_a_published_private_key_loses_its_private_part_and_is_reported() -> None:
    private = ECKey.generate_key("P-256").as_dict(private=True)

    cleaned = clean(document(private))

    assert "d" not in json.loads(cleaned.document)["keys"][0]
    assert [problem.reason for problem in cleaned.problems] == [Reason.INSECURE]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"<html>not found</html>", id="html"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff\xfe", id="not UTF-8"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'{"keys": {}}', id="keys that are not a list"),
        pytest.param(b'{"keys": []}', id="no key"),
        pytest.param(document({"kty": "oct", "k": "x"}), id="no usable key"),
        pytest.param(document(*[EC] * 201), id="too many keys"),
        pytest.param(b" " * (keysets.MAX_BYTES + 1), id="too large"),
        pytest.param(b"[" * 200_000, id="too deep"),
    ],
)
def test_what_is_no_key_set_gives_no_document_and_a_reason(body: bytes) -> None:
    cleaned = clean(body)

    assert cleaned.document == ""
    assert cleaned.error
    assert cleaned.problems[0].severity is Severity.ERROR


def test_an_error_stays_short_whatever_the_issuer_sends() -> None:
    keys = [{"kty": "EC", "crv": "x" * 1000, "x": "a", "y": "b"}] * 100

    assert len(clean(document(*keys)).error) < 1000


def test_the_placeholder_is_a_key_set_envoy_loads() -> None:
    assert clean(keysets.PLACEHOLDER).document == keysets.PLACEHOLDER


def test_the_placeholder_never_changes() -> None:
    key = json.loads(keysets.PLACEHOLDER)["keys"][0]

    assert key["x"] == "c9ZT5pQZpkmnBIX2E98vLbtCg_U6HqczkDmbMhEHk2U"


@pytest.mark.parametrize(
    "key_set",
    [
        KeySet("https://a", "https://a/jwks", clean(document(EC)).document, "", "2026-01-01"),
        KeySet("https://a", "", "", "It is down."),
    ],
    ids=["with keys", "never fetched"],
)
def test_a_config_map_holds_a_key_set(key_set: KeySet) -> None:
    assert from_config_map(to_config_map(key_set)) == key_set


def test_a_key_set_is_named_after_issuer_and_place() -> None:
    names = {keysets.name_of(*pair) for pair in (("a", "b"), ("a", ""), ("ab", ""), ("", "ab"))}

    assert len(names) == 4


def test_keys_are_cleaned_again_when_they_are_read_back() -> None:
    foreign = KeySet("https://a", "", document({"kty": "oct", "k": "c2VjcmV0"}).decode())

    read = from_config_map(to_config_map(foreign))

    assert read is not None
    assert read.document == ""
    assert read.error


@pytest.mark.parametrize(
    "meta",
    [
        ObjectMeta(namespace="shop", name=keysets.name_of("a", "")),
        ObjectMeta(namespace=keysets.NAMESPACE, name="jwks-other"),
        ObjectMeta(namespace=keysets.NAMESPACE, name=keysets.name_of("a", ""), labels={}),
    ],
    ids=["another namespace", "another name", "no label"],
)
def test_a_config_map_that_is_not_where_key_sets_are_is_none(meta: ObjectMeta) -> None:
    labels = {keysets.LABEL: "true"} if meta.labels is None else meta.labels
    placed = ObjectMeta(namespace=meta.namespace, name=meta.name, labels=labels)

    assert from_config_map(ConfigMap(metadata=placed, data={"issuer": "a"})) is None
