"""Request bodies: JSON, YAML or protobuf in; an object out, and which fields stood there twice."""

from __future__ import annotations

from typing import Any

from apirule import manifest
from apirule.apis.meta import Object
from apirule.local.apiserver import errors, protobuf
from apirule.local.apiserver.http import JSON, MediaType

YAML_TYPES = ("application/yaml", "application/apply-patch+yaml", "text/yaml")
ACCEPTED = (JSON, "application/yaml", protobuf.MEDIA_TYPE)

_SHOWN = 200


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


def decode_patch(body: bytes) -> Any:
    """Return a patch written in JSON. StatusError 400."""
    try:
        return manifest.read_json(body)[0]
    except ValueError as error:
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
