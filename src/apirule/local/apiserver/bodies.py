"""Request bodies: JSON, YAML or protobuf in; an object out, and which fields stood there twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml

from apirule.apis.meta import Object
from apirule.local.apiserver import errors, protobuf
from apirule.local.apiserver.http import JSON, MediaType

YAML_TYPES = ("application/yaml", "application/apply-patch+yaml", "text/yaml")
ACCEPTED = (JSON, "application/yaml", protobuf.MEDIA_TYPE)

_SHOWN = 200


class _Twice(dict[str, Any]):
    """A JSON object in which members were repeated; the last one counts, as in Go."""

    repeated: tuple[str, ...] = ()


def decode(body: bytes, media_type: MediaType, expected: str) -> tuple[Object, list[str]]:
    """Return the object and the paths of its duplicate fields. StatusError 400, 415."""
    if media_type.name == protobuf.MEDIA_TYPE:
        try:
            return protobuf.decode(body), []
        except protobuf.ProtobufError as error:
            raise _unrecognized(expected, str(error)) from error
    if media_type.name in YAML_TYPES:
        value = _from_yaml(body, expected)
    elif media_type.name in (JSON, ""):
        value = _from_json(body, expected)
    else:
        raise errors.unsupported_media_type(ACCEPTED)
    if not isinstance(value, dict):
        raise _unrecognized(expected, "the body is not an object")
    return value, list(_duplicates(value, ""))


def decode_patch(body: bytes) -> Any:
    """Return a patch written in JSON. StatusError 400."""
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise errors.bad_request(f"error decoding patch: {error}") from error


def check_type(obj: Object, api_version: str, kind: str, body: bytes) -> None:
    """Refuse an object without a type or of another version. StatusError 400."""
    if not obj.get("kind"):
        text = body[:_SHOWN].decode("utf-8", "replace")
        raise _unrecognized(kind, f"Object 'Kind' is missing in '{text}'", text)
    if not obj.get("apiVersion"):
        text = body[:_SHOWN].decode("utf-8", "replace")
        raise _unrecognized(kind, f"Object 'apiVersion' is missing in '{text}'", text)
    if obj["apiVersion"] != api_version:
        raise errors.bad_request(
            f"the API version in the data ({obj['apiVersion']}) does not match the expected API"
            f" version ({api_version})"
        )
    if not isinstance(obj.setdefault("metadata", {}), dict):
        raise _unrecognized(kind, "metadata is not an object")


def _from_json(body: bytes, expected: str) -> Any:
    try:
        return json.loads(body, object_pairs_hook=_pairs, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        text = body[:_SHOWN].decode("utf-8", "replace")
        what = f"couldn't get version/kind; json parse error: {error}"
        raise _unrecognized(expected, what, text) from error


def _from_yaml(body: bytes, expected: str) -> Any:
    try:
        # JSON is YAML; most clients apply JSON, and this is much faster for them.
        return json.loads(body, object_pairs_hook=_pairs, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        pass
    try:
        value = yaml.load(body, _Loader)  # noqa: S506 - a subclass of the safe loader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        said = " ".join(str(error).split())
        raise errors.bad_request(f"error decoding YAML: {said}") from error
    if value is not None and not isinstance(value, dict):
        raise _unrecognized(expected, "the body is not an object")
    return value


class _Loader(yaml.CSafeLoader):
    """YAML as JSON sees it: dates stay text, repeated keys are noticed."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    loader.flatten_mapping(node)
    pairs = [(loader.construct_object(k, deep=True), v) for k, v in node.value]
    for key, _ in pairs:
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} is not text: put it in quotes", node.start_mark
            )
    return _pairs([(k, loader.construct_object(v, deep=True)) for k, v in pairs])


def _scalar(loader: _Loader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _scalar)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    twice = _Twice(members)
    seen: set[str] = set()
    repeated = []
    for key, _ in pairs:
        if key in seen and key not in repeated:
            repeated.append(key)
        seen.add(key)
    twice.repeated = tuple(repeated)
    return twice


def _duplicates(value: Any, at: str) -> Iterator[str]:
    if isinstance(value, dict):
        prefix = f"{at}." if at else ""
        for key in getattr(value, "repeated", ()):
            yield f"{prefix}{key}"
        for key, member in value.items():
            yield from _duplicates(member, f"{prefix}{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _duplicates(item, f"{at}[{index}]")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _unrecognized(expected: str, what: str, text: str = "") -> errors.StatusError:
    shown = f" ({text})" if text else ""
    return errors.bad_request(
        f"the object provided is unrecognized (must be of type {expected}): {what}{shown}"
    )
