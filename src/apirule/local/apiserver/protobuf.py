"""Kubernetes' protobuf encoding of request bodies, decoded to the objects that JSON would give.

From 1.32 on kubectl sends what it makes itself (``create namespace`` and others) in protobuf and
does not fall back. We answer in JSON, which all clients accept. The envelope: four magic bytes,
then ``runtime.Unknown`` with the type and the raw object. The messages are a table in a text file.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any

import msgspec

from apirule.apis.meta import Object

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"

_MAGIC = b"k8s\x00"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class ProtobufError(Exception):
    """The body is not what it says, or of a kind whose encoding we do not know."""


class _Field(msgspec.Struct, frozen=True):
    name: str
    type: str
    flag: str


def decode(body: bytes) -> Object:
    """Decode an object. ProtobufError: it is malformed, or of an unknown kind."""
    if not body.startswith(_MAGIC):
        raise ProtobufError("the body does not start with the Kubernetes protobuf prefix")
    try:
        api_version, kind, raw = _envelope(body[len(_MAGIC) :])
        if kind not in _messages():
            raise ProtobufError(
                f"{kind} is not accepted in protobuf here; send it as application/json"
            )
        obj: Object = {"apiVersion": api_version, "kind": kind}
        obj.update(_message(raw, kind))
    except (IndexError, ValueError, OverflowError) as error:
        raise ProtobufError(f"the protobuf body is malformed: {error}") from error
    return obj


@cache
def _messages() -> dict[str, dict[int, _Field]]:
    """Read the table once. A cache of what the package holds, not state."""
    messages: dict[str, dict[int, _Field]] = {}
    text = resources.files(__package__).joinpath("protobuf_fields.txt").read_text()
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if not line.startswith(" "):
            current = messages.setdefault(line.strip(), {})
            continue
        number, name, kind, *flag = line.split()
        current[int(number)] = _Field(name, kind, flag[0] if flag else "")
    return messages


def _envelope(body: bytes) -> tuple[str, str, bytes]:
    api_version = kind = ""
    raw = b""
    for number, value in _wire(body):
        if number == 1 and isinstance(value, bytes):
            for inner, text in _wire(value):
                if inner == 1 and isinstance(text, bytes):
                    api_version = text.decode()
                elif inner == 2 and isinstance(text, bytes):  # noqa: PLR2004 - TypeMeta.kind
                    kind = text.decode()
        elif number == 2 and isinstance(value, bytes):  # noqa: PLR2004 - Unknown.raw
            raw = value
    return api_version, kind, raw


def _message(body: bytes, name: str) -> dict[str, Any]:
    fields = _messages()[name]
    result: dict[str, Any] = {}
    for number, value in _wire(body):
        field = fields.get(number)
        if field is None:
            # A field newer than our table: as an unknown JSON field it would be pruned as well.
            continue
        match field.flag:
            case "list":
                result.setdefault(field.name, []).append(_value(value, field.type))
            case "map":
                key, member = _map_entry(_expect_bytes(value), field.type)
                result.setdefault(field.name, {})[key] = member
            case "inline":
                result.update(_message(_expect_bytes(value), field.type))
            case flag:
                decoded = _value(value, field.type)
                if flag != "omitzero" or decoded:
                    result[field.name] = decoded
    return result


def _value(value: bytes | int, kind: str) -> Any:
    scalar = _SCALARS.get(kind)
    if scalar is not None:
        return scalar(value)
    return _message(_expect_bytes(value), kind)


def _map_entry(body: bytes, kind: str) -> tuple[str, Any]:
    key = ""
    member: Any = _value(b"", kind) if kind not in ("bool", "int32", "int64") else 0
    for number, value in _wire(body):
        if number == 1:
            key = _text(value)
        else:
            member = _value(value, kind)
    return key, member


def _wire(body: bytes) -> Iterator[tuple[int, bytes | int]]:
    at = 0
    while at < len(body):
        tag, at = _varint(body, at)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            integer, at = _varint(body, at)
            yield number, integer
            continue
        if wire_type == _BYTES:
            size, at = _varint(body, at)
        elif wire_type in (_FIXED64, _FIXED32):
            size = 8 if wire_type == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire_type}")
        if at + size > len(body):
            raise ValueError("it ends in the middle of a field")
        yield number, body[at : at + size]
        at += size


def _varint(body: bytes, at: int) -> tuple[int, int]:
    result = 0
    for shift in range(0, 70, 7):
        byte = body[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the bit that says more follows
            return result, at
    raise ValueError("a number is too long")


def _expect_bytes(value: bytes | int) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")  # noqa: TRY004
    return value


def _text(value: bytes | int) -> str:
    return _expect_bytes(value).decode()


def _integer(value: bytes | int) -> int:
    if not isinstance(value, int):
        raise ValueError("a message stands where a number should")  # noqa: TRY004
    return value - (1 << 64) if value >= 1 << 63 else value


def _base64(value: bytes | int) -> str:
    return base64.b64encode(_expect_bytes(value)).decode()


def _time(value: bytes | int) -> str | None:
    parts = {number: _integer(part) for number, part in _wire(_expect_bytes(value))}
    if not parts.get(1):
        return None
    return datetime.fromtimestamp(parts[1], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _micro_time(value: bytes | int) -> str | None:
    parts = {number: _integer(part) for number, part in _wire(_expect_bytes(value))}
    if not parts.get(1):
        return None
    moment = datetime.fromtimestamp(parts[1], UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{moment}.{parts.get(2, 0) // 1000:06d}Z"


def _int_or_string(value: bytes | int) -> int | str:
    parts = dict(_wire(_expect_bytes(value)))
    if parts.get(1) == 1:
        return _text(parts.get(3, b""))
    return _integer(parts.get(2, 0))


def _only_text(value: bytes | int) -> str:
    return _text(dict(_wire(_expect_bytes(value))).get(1, b""))


def _raw_json(value: bytes | int) -> Any:
    raw = _expect_bytes(dict(_wire(_expect_bytes(value))).get(1, b""))
    try:
        return msgspec.json.decode(raw) if raw else {}
    except msgspec.DecodeError as error:
        raise ValueError(f"embedded JSON: {error}") from error


def _strings(value: bytes | int) -> list[str]:
    return [_text(item) for _, item in _wire(_expect_bytes(value))]


_SCALARS: dict[str, Callable[[bytes | int], Any]] = {
    "string": _text,
    "bytes": _base64,
    "bool": lambda value: bool(_integer(value)),
    "int32": _integer,
    "int64": _integer,
    "time": _time,
    "microtime": _micro_time,
    "intorstring": _int_or_string,
    "quantity": _only_text,
    "json": _raw_json,
    "strings": _strings,
}
