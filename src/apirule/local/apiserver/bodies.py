"""Request bodies: JSON, YAML or protobuf in; an object out, and which fields stood there twice."""

from __future__ import annotations

from typing import Any

from apirule import manifest
from apirule.apis.meta import Object
from apirule.local.apiserver import errors, protobuf
from apirule.local.apiserver.http import JSON, MediaType, encode
from apirule.local.apiserver.kinds import Kind

APPLY = "application/apply-patch+yaml"
YAML_TYPES = ("application/yaml", APPLY, "text/yaml")
ACCEPTED = (JSON, "application/yaml", protobuf.MEDIA_TYPE)

_SHOWN = 200

# What names an object: it is looked up by them before its schema is asked.
_IDENTITY = ("name", "namespace", "generateName", "uid", "resourceVersion")


def decode(body: bytes, media_type: MediaType, expected: str) -> tuple[Object, list[str]]:
    """Return the object and the paths of its duplicate fields. StatusError 400, 415."""
    if media_type.name == protobuf.MEDIA_TYPE:
        try:
            return protobuf.decode(body), []
        except protobuf.ProtobufError as error:
            raise _unrecognized(expected, str(error)) from error
    if media_type.name in YAML_TYPES:
        value, duplicates = _from_yaml(body)
    elif media_type.name in (JSON, ""):
        value, duplicates = _from_json(body, expected)
    else:
        raise errors.unsupported_media_type(ACCEPTED)
    if not isinstance(value, dict):
        raise _unrecognized(expected, "the body is not an object")
    return value, duplicates


def decode_patch(body: bytes) -> tuple[Any, list[str]]:
    """Return a patch written in JSON, and the paths of its duplicate fields. StatusError 400."""
    try:
        return manifest.read_json(body)
    except ValueError as error:
        raise errors.bad_request(f"error decoding patch: {error}") from error


def with_type(obj: Object, kind: Kind) -> Object:
    """Return an object with the type of the path, where it names none and may leave it out.

    Client libraries with a class for each built-in kind send no type; a custom resource needs it.
    """
    if kind.custom:
        return obj
    implied = {"apiVersion": kind.api_version, "kind": kind.info.kind}
    return {**obj, **{key: obj.get(key) or implied[key] for key in implied}}


def check_type(obj: Object, kind: Kind, text: bytes = b"") -> None:
    """Refuse an object without a type or of another version. StatusError 400.

    ``text`` is what the client sent. An object without metadata gets some.
    """
    info = kind.info
    shown = (text or encode(obj))[:_SHOWN].decode("utf-8", "replace")
    for name, called in (("kind", "Kind"), ("apiVersion", "apiVersion")):
        if not obj.get(name):
            raise _unrecognized(info.kind, f"Object '{called}' is missing in '{shown}'", shown)
    if obj["apiVersion"] != kind.api_version:
        raise errors.bad_request(
            f"the API version in the data ({obj['apiVersion']}) does not match the expected API"
            f" version ({kind.api_version})"
        )
    # That a patch makes another kind of an object is told by admission, as of a custom resource.
    if text and info.builtin and obj["kind"] != info.kind:
        raise errors.not_handled(kind.gvk, str(obj["kind"]), f"it must be {info.kind}")
    metadata = obj.setdefault("metadata", {})
    if metadata is None:
        metadata = obj["metadata"] = {}
    if not isinstance(metadata, dict):
        raise _unrecognized(info.kind, "metadata is not an object")
    for name in _IDENTITY:
        value = metadata.get(name, "")
        if value is None:
            del metadata[name]
        elif not isinstance(value, str):
            raise _unrecognized(info.kind, f"metadata.{name} is not a string")


def _from_json(body: bytes, expected: str) -> tuple[Any, list[str]]:
    try:
        return manifest.read_json(body)
    except ValueError as error:
        text = body[:_SHOWN].decode("utf-8", "replace")
        what = f"couldn't get version/kind; json parse error: {error}"
        raise _unrecognized(expected, what, text) from error


def _from_yaml(body: bytes) -> tuple[Any, list[str]]:
    try:
        return _from_json_or_yaml(body)
    except ValueError as error:
        raise errors.bad_request(f"error decoding YAML: {error}") from error


def _from_json_or_yaml(body: bytes) -> tuple[Any, list[str]]:
    try:
        # JSON is YAML; most clients apply JSON, and this is much faster for them.
        return manifest.read_json(body)
    except manifest.TooMuchError:
        raise
    except ValueError:
        return manifest.read_yaml(body)


def _unrecognized(expected: str, what: str, text: str = "") -> errors.StatusError:
    shown = f" ({text})" if text else ""
    return errors.bad_request(
        f"the object provided is unrecognized (must be of type {expected}): {what}{shown}"
    )
