"""What the API server answers when it says no: a metav1.Status, as an exception until then.

The wording is Kubernetes' own where clients or people match on it. Messages of our own say what
to do instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec

from apirule.apis.meta import GroupVersionKind, Object


class Cause(msgspec.Struct, frozen=True):
    field: str
    reason: str
    message: str

    def as_object(self) -> Object:
        return {"reason": self.reason, "message": self.message, "field": self.field}


class Subject(msgspec.Struct, frozen=True):
    """What an error is about. ``kind`` is the plural, but the Kind for an invalid object."""

    group: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""

    @property
    def qualified(self) -> str:
        return f"{self.kind}.{self.group}" if self.group else self.kind

    def details(self) -> dict[str, Any]:
        parts = {"name": self.name, "group": self.group, "kind": self.kind, "uid": self.uid}
        return {key: value for key, value in parts.items() if value}


@dataclass(eq=False)
class StatusError(Exception):
    """A refusal. ``details`` None leaves the member out of the Status."""

    code: int
    reason: str
    message: str
    details: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(self.message)

    def as_object(self) -> Object:
        status: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            status["reason"] = self.reason
        if self.details is not None:
            status["details"] = dict(self.details)
        status["code"] = int(self.code)
        return status


def success(subject: Subject) -> Object:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": subject.details(),
    }


def bad_request(message: str) -> StatusError:
    return StatusError(HTTPStatus.BAD_REQUEST, "BadRequest", message)


def not_handled(gvk: GroupVersionKind, given: str, why: str) -> StatusError:
    """Return a 400: what came cannot be read as the kind of the path."""
    return bad_request(
        f'{given} in version "{gvk.version}" cannot be handled as a {gvk.kind}: {why}'
    )


def unauthorized(message: str) -> StatusError:
    # The connection stays without a certificate, so nothing more is to be expected of it.
    headers = {"Connection": "close"}
    return StatusError(HTTPStatus.UNAUTHORIZED, "Unauthorized", message, headers=headers)


def not_found(subject: Subject) -> StatusError:
    message = f'{subject.qualified} "{subject.name}" not found'
    return StatusError(HTTPStatus.NOT_FOUND, "NotFound", message, subject.details())


def no_such_path() -> StatusError:
    message = "the server could not find the requested resource"
    return StatusError(HTTPStatus.NOT_FOUND, "NotFound", message, {})


def already_exists(subject: Subject) -> StatusError:
    message = f'{subject.qualified} "{subject.name}" already exists'
    return StatusError(HTTPStatus.CONFLICT, "AlreadyExists", message, subject.details())


def conflict(subject: Subject, why: str) -> StatusError:
    message = f'Operation cannot be fulfilled on {subject.qualified} "{subject.name}": {why}'
    return StatusError(HTTPStatus.CONFLICT, "Conflict", message, subject.details())


def modified(subject: Subject) -> StatusError:
    return conflict(
        subject,
        "the object has been modified; please apply your changes to the latest version and try"
        " again",
    )


def invalid(subject: Subject, causes: Iterable[Cause]) -> StatusError:
    """Return a 422 with every cause: all that is wrong with an object in one answer."""
    listed = list(causes)
    texts = list(dict.fromkeys(f"{cause.field}: {cause.message}" for cause in listed))
    said = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    message = f'{subject.qualified} "{subject.name}" is invalid: {said}'
    details = {**subject.details(), "causes": [cause.as_object() for cause in listed]}
    return StatusError(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", message, details)


def forbidden(subject: Subject, why: str, causes: Iterable[Cause] = ()) -> StatusError:
    message = f'{subject.qualified} "{subject.name}" is forbidden: {why}'
    details = subject.details()
    listed = [cause.as_object() for cause in causes]
    if listed:
        details["causes"] = listed
    return StatusError(HTTPStatus.FORBIDDEN, "Forbidden", message, details)


def expired(message: str) -> StatusError:
    return StatusError(HTTPStatus.GONE, "Expired", message)


def method_not_allowed(message: str) -> StatusError:
    return StatusError(HTTPStatus.METHOD_NOT_ALLOWED, "MethodNotAllowed", message, {})


def not_offered(message: str) -> StatusError:
    """Return a 501: a thing of Kubernetes that does not exist on one machine."""
    return StatusError(HTTPStatus.NOT_IMPLEMENTED, "NotImplemented", message)


def unsupported_media_type(accepted: Iterable[str]) -> StatusError:
    message = (
        "the body of the request was in an unknown format - accepted media types include: "
        + ", ".join(accepted)
    )
    return StatusError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)


def too_large(limit_bytes: int) -> StatusError:
    message = f"Request entity too large: limit is {limit_bytes}"
    return StatusError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "RequestEntityTooLarge", message)


def unwritable(message: str) -> StatusError:
    """Return a 507: the disk does not take what was to be stored."""
    return StatusError(HTTPStatus.INSUFFICIENT_STORAGE, "InsufficientStorage", message, {})


def internal(message: str) -> StatusError:
    return StatusError(HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError", message, {})
