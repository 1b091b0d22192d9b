"""What a write may ask for in its query; the words are those of Kubernetes."""

from __future__ import annotations

from collections.abc import Iterator

from apirule.local.apiserver import errors
from apirule.local.apiserver.bodies import APPLY
from apirule.local.apiserver.errors import Cause
from apirule.local.apiserver.http import Request

_OPTIONS = {
    "POST": "CreateOptions",
    "PUT": "UpdateOptions",
    "PATCH": "PatchOptions",
    "DELETE": "DeleteOptions",
}
_DRY_RUN, _MANAGER, _VALIDATION, _FORCE = "dryRun", "fieldManager", "fieldValidation", "force"

_LEVELS = ("", "Ignore", "Strict", "Warn")
_LONGEST_MANAGER_BYTES = 128


def check_write(request: Request) -> None:
    """Refuse options that there are not, or not for this request. StatusError 422."""
    options = _OPTIONS.get(request.method)
    if options is not None:
        refuse(options, _wrong(request))


def refuse(options: str, causes: Iterator[Cause]) -> None:
    """Raise a 422 about DeleteOptions and the like, if there is any cause."""
    listed = list(causes)
    if listed:
        raise errors.invalid(errors.Subject("meta.k8s.io", options), listed)


def unsupported(field: str, value: str, *supported: str) -> Cause:
    listed = ", ".join(f'"{word}"' for word in supported)
    message = f"Unsupported value: {value}: supported values: {listed}"
    return Cause(field, "FieldValueNotSupported", message)


def wrong_dry_run(value: str) -> Iterator[Cause]:
    if value not in ("", "All"):
        yield unsupported(_DRY_RUN, f'["{value}"]', "All")


def _wrong(request: Request) -> Iterator[Cause]:
    query = request.query
    applies = request.method == "PATCH" and request.content_type.name == APPLY
    if request.method == "PATCH" and not applies and _FORCE in query:
        message = "Forbidden: may not be specified for non-apply patch"
        yield Cause(_FORCE, "FieldValueForbidden", message)
    manager = query.get(_MANAGER, "")
    if applies and not manager:
        yield Cause(_MANAGER, "FieldValueRequired", "Required value: is required for apply patch")
    if len(manager.encode()) > _LONGEST_MANAGER_BYTES:
        message = f"Too long: may not be more than {_LONGEST_MANAGER_BYTES} bytes"
        yield Cause(_MANAGER, "FieldValueTooLong", message)
    if not manager.isprintable():
        message = f'Invalid value: "{manager}": should only contain printable characters'
        yield Cause(_MANAGER, "FieldValueInvalid", message)
    yield from wrong_dry_run(query.get(_DRY_RUN, ""))
    level = query.get(_VALIDATION, "")
    if level not in _LEVELS:
        yield unsupported(_VALIDATION, f'"{level}"', *_LEVELS)
