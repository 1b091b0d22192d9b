"""Which revision a list or a watch is to show: the combinations of parameters that make sense."""

from __future__ import annotations

from collections.abc import Iterator

from apirule.local.apiserver import errors
from apirule.local.apiserver.errors import Cause
from apirule.local.apiserver.http import Request

_MATCH = "resourceVersionMatch"
_INITIAL = "sendInitialEvents"
_EXACT, _NOT_OLDER = "Exact", "NotOlderThan"


def check_list(request: Request) -> None:
    """Refuse parameters of a list that contradict each other. StatusError 400, 422."""
    _refuse(_wrong_for_list(request))
    if request.query.get("continue") and request.query.get("resourceVersion", "0") not in ("", "0"):
        raise errors.bad_request("specifying resource version is not allowed when using continue")


def check_watch(request: Request) -> None:
    """Refuse parameters of a watch that contradict each other. StatusError 422."""
    _refuse(_wrong_for_watch(request))


def _wrong_for_list(request: Request) -> Iterator[Cause]:
    query = request.query
    match, version = query.get(_MATCH, ""), query.get("resourceVersion", "")
    if match:
        if not version:
            yield _forbidden(_MATCH, f"{_MATCH} is forbidden unless resourceVersion is provided")
        yield from _wrong_with_continue(request)
        if match not in (_EXACT, _NOT_OLDER):
            yield _unsupported(match, (_EXACT, _NOT_OLDER, ""))
        if match == _EXACT and version == "0":
            yield _forbidden(_MATCH, f'{_MATCH} "exact" is forbidden for resourceVersion "0"')
    if _INITIAL in query:
        yield _forbidden(_INITIAL, f"{_INITIAL} is forbidden for list")


def _wrong_for_watch(request: Request) -> Iterator[Cause]:
    match = request.query.get(_MATCH, "")
    if _INITIAL in request.query and match != _NOT_OLDER:
        yield _forbidden(_MATCH, f"{_INITIAL} requires setting {_MATCH} to {_NOT_OLDER}")
    if match:
        if _INITIAL not in request.query:
            yield _forbidden(
                _MATCH, f"{_MATCH} is forbidden for watch unless {_INITIAL} is provided"
            )
        if match != _NOT_OLDER:
            yield _unsupported(match, (_NOT_OLDER,))
        yield from _wrong_with_continue(request)


def _wrong_with_continue(request: Request) -> Iterator[Cause]:
    if request.query.get("continue"):
        yield _forbidden(_MATCH, f"{_MATCH} is forbidden when continue is provided")


def _forbidden(field: str, detail: str) -> Cause:
    return Cause(field, "FieldValueForbidden", f"Forbidden: {detail}")


def _unsupported(match: str, supported: tuple[str, ...]) -> Cause:
    listed = ", ".join(f'"{value}"' for value in supported)
    message = f'Unsupported value: "{match}": supported values: {listed}'
    return Cause(_MATCH, "FieldValueNotSupported", message)


def _refuse(wrong: Iterator[Cause]) -> None:
    causes = list(wrong)
    if causes:
        raise errors.invalid(errors.Subject("meta.k8s.io", "ListOptions"), causes)
