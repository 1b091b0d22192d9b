"""ConfigMaps and Secrets: their keys, their size, and what a type of Secret must hold."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Any

from apirule.apis.meta import Object
from apirule.problem import FieldPath, Problem, Reason
from apirule.schema import messages, syntax
from apirule.schema.checks import words

_LIMIT_BYTES = 1024 * 1024

_TLS = "kubernetes.io/tls"
_DOCKER = "kubernetes.io/dockerconfigjson"
_KEYS_OF_TYPE: Mapping[str, tuple[str, ...]] = {
    _TLS: ("tls.crt", "tls.key"),
    _DOCKER: (".dockerconfigjson",),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
}
_LOGIN = "kubernetes.io/basic-auth"
_LOGIN_KEYS = ("username", "password")

_DATA, _BINARY, _TEXT = FieldPath("data"), FieldPath("binaryData"), FieldPath("stringData")


def config_map(obj: Object) -> Iterator[Problem]:
    data, binary = obj.get("data") or {}, obj.get("binaryData") or {}
    yield from _keys(data, _DATA)
    yield from _keys(binary, _BINARY)
    for key in data:
        if key in binary:
            detail = "duplicate of key present in binaryData"
            yield words.invalid(_DATA / key, key, detail, "Keep one of the two.")
    size = sum(len(key) for key in (*data, *binary))
    size += sum(len(text.encode()) for text in data.values())
    size += sum(map(_size_of, binary.values()))
    yield from _size(size)


def secret(obj: Object) -> Iterator[Problem]:
    data, text = obj.get("data") or {}, obj.get("stringData") or {}
    yield from _keys(data, _DATA)
    yield from _keys(text, _TEXT)
    kept = {key: value for key, value in data.items() if key not in text}
    size = sum(map(_size_of, kept.values())) + sum(len(t.encode()) for t in text.values())
    yield from _size(size)
    kind, present = str(obj.get("type", "")), {*data, *text}
    for key in _KEYS_OF_TYPE.get(kind, ()):
        if key not in present:
            yield words.required(_DATA / key, f"A Secret of the type {kind} needs {key}.")
    if kind == _LOGIN and not present.intersection(_LOGIN_KEYS):
        for key in _LOGIN_KEYS:
            yield words.required(_DATA / key, "Add username, password or both.")
    if kind == _DOCKER and ".dockerconfigjson" in kept and not _is_json(kept[".dockerconfigjson"]):
        detail = "<secret contents redacted>: it is not JSON"
        message = f"Invalid value: {detail}"
        yield Problem(_DATA / ".dockerconfigjson", Reason.INVALID, message, "Write JSON.")


def _keys(data: Mapping[str, Any], at: FieldPath) -> Iterator[Problem]:
    for key in data:
        yield from words.misspelt(at / key, key, syntax.data_key, "Rename the key.")


def _size(size: int) -> Iterator[Problem]:
    if size > _LIMIT_BYTES:
        fix = f"It has {size} bytes; put large files elsewhere."
        yield Problem(_DATA, Reason.TOO_LONG, messages.too_long(_LIMIT_BYTES), fix)


def _size_of(encoded: str) -> int:
    return len(encoded) * 3 // 4


def _is_json(encoded: str) -> bool:
    try:
        json.loads(b64decode(encoded))
    except (ValueError, RecursionError):
        return False
    return True
