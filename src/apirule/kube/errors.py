"""What a Kubernetes API answers when it refuses, one class per case that callers tell apart.

``error_of`` picks the class; every class keeps the Status body, so that the reason and the causes
reach the user as the server wrote them.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any


class ApiError(Exception):
    """A request failed. ``status`` is the HTTP status; 0 means that no answer came at all."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        reason: str = "",
        body: Mapping[str, Any] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason
        self.body: Mapping[str, Any] = body or {}
        self.retry_after_s = retry_after_s

    @property
    def causes(self) -> list[Mapping[str, Any]]:
        """The single mistakes of an Invalid answer: ``{field, reason, message}``."""
        return list((self.body.get("details") or {}).get("causes") or [])

    def __str__(self) -> str:
        return self.message


# The names are the API's own words (Status.reason), so they carry no "Error" at the end.
class Unreachable(ApiError):  # noqa: N818
    """No answer: refused, reset, timed out, or TLS failed. Trying again later is right."""

    def __init__(self, message: str) -> None:
        super().__init__(0, message, reason="Unreachable")


class Unauthorized(ApiError):  # noqa: N818
    """401: the credentials were not accepted."""


class Forbidden(ApiError):  # noqa: N818
    """403: RBAC, admission, or a namespace that is being deleted."""


class NotFound(ApiError):  # noqa: N818
    """404: the object, or the whole path."""


class NoKindMatch(NotFound):
    """The server does not serve this kind: its CRD is not installed."""


class Conflict(ApiError):  # noqa: N818
    """409: somebody else wrote first, or another field manager owns a field."""


class AlreadyExists(Conflict):
    """409 on a create."""


class Gone(ApiError):  # noqa: N818
    """410: the resourceVersion is older than the server remembers. List again."""


class Invalid(ApiError):  # noqa: N818
    """422: the object breaks its schema."""


class TooManyRequests(ApiError):  # noqa: N818
    """429: wait ``retry_after_s``."""


_BY_REASON: Mapping[str, type[ApiError]] = {
    "AlreadyExists": AlreadyExists,
    "Expired": Gone,
    "Gone": Gone,
}

_BY_STATUS: Mapping[int, type[ApiError]] = {
    HTTPStatus.UNAUTHORIZED: Unauthorized,
    HTTPStatus.FORBIDDEN: Forbidden,
    HTTPStatus.NOT_FOUND: NotFound,
    HTTPStatus.CONFLICT: Conflict,
    HTTPStatus.GONE: Gone,
    HTTPStatus.UNPROCESSABLE_ENTITY: Invalid,
    HTTPStatus.TOO_MANY_REQUESTS: TooManyRequests,
}


def error_of(
    status: int, body: Mapping[str, Any], *, retry_after_s: float | None = None
) -> ApiError:
    """Turn a Status body into the error that callers catch."""
    reason = str(body.get("reason") or "")
    kind = _BY_REASON.get(reason) or _BY_STATUS.get(status) or ApiError
    message = str(body.get("message") or f"the server answered {status}")
    return kind(status, message, reason=reason, body=body, retry_after_s=retry_after_s)
