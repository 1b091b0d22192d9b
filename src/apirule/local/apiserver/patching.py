"""JSON patch (RFC 6902) and JSON merge patch (RFC 7396), as functions from value to value."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from apirule.local.apiserver import errors
from apirule.local.apiserver.http import BODY_LIMIT_BYTES, encode
from apirule.manifest import TooMuchError, check_depth


class PatchError(Exception):
    """The patch does not fit the document."""


def merge(target: Any, patch: Any) -> Any:
    """Return ``target`` with a merge patch applied; null removes. The target is not changed."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def apply_json_patch(document: Any, operations: Any) -> Any:
    """Return the document with all operations applied, or PatchError and nothing is done."""
    if not isinstance(operations, list):
        raise PatchError("a JSON patch is a list of operations")
    document = copy.deepcopy(document)
    left_bytes = BODY_LIMIT_BYTES
    for operation in operations:
        if not isinstance(operation, dict) or not isinstance(operation.get("path"), str):
            raise PatchError("an operation needs op and path")
        perform = _OPERATIONS.get(str(operation.get("op", "")))
        if perform is None:
            raise PatchError(f"unknown operation {operation.get('op')!r}")
        if perform is _copy:
            # A copy of a copy doubles; a few dozen of them would fill any memory.
            left_bytes -= len(encode(_walk(document, _tokens(_origin(operation)))))
            if left_bytes < 0:
                raise PatchError("the copies are larger than an object may be")
        document = perform(document, operation)
    try:
        check_depth(document)
    except TooMuchError as error:
        raise PatchError(str(error)) from error
    return document


def refused() -> errors.StatusError:
    """Return what Kubernetes says to a JSON patch that does not fit."""
    return errors.StatusError(
        422, "Invalid", "the server rejected our request due to an error in our request", {}
    )


def _add(document: Any, operation: dict[str, Any]) -> Any:
    return _put(document, _tokens(operation["path"]), _value(operation))


def _remove(document: Any, operation: dict[str, Any]) -> Any:
    *above, last = _tokens(operation["path"]) or [""]
    parent = _walk(document, above)
    if isinstance(parent, dict) and last in parent:
        del parent[last]
    elif isinstance(parent, list):
        del parent[_index(parent, last, len(parent) - 1)]
    else:
        raise PatchError(f"nothing to remove at {operation['path']}")
    return document


def _replace(document: Any, operation: dict[str, Any]) -> Any:
    tokens = _tokens(operation["path"])
    if not tokens:
        return _value(operation)
    *above, last = tokens
    parent = _walk(document, above)
    if isinstance(parent, dict) and last in parent:
        parent[last] = _value(operation)
    elif isinstance(parent, list):
        parent[_index(parent, last, len(parent) - 1)] = _value(operation)
    else:
        raise PatchError(f"nothing to replace at {operation['path']}")
    return document


def _move(document: Any, operation: dict[str, Any]) -> Any:
    value = _walk(document, _tokens(_origin(operation)))
    document = _remove(document, {"path": operation["from"]})
    return _put(document, _tokens(operation["path"]), value)


def _copy(document: Any, operation: dict[str, Any]) -> Any:
    value = copy.deepcopy(_walk(document, _tokens(_origin(operation))))
    return _put(document, _tokens(operation["path"]), value)


def _test(document: Any, operation: dict[str, Any]) -> Any:
    try:
        found = _walk(document, _tokens(operation["path"]))
    except PatchError:
        # Kubernetes' library takes a missing value for null.
        found = None
    if not _same(found, operation.get("value")):
        raise PatchError(f"testing value {operation['path']} failed")
    return document


_OPERATIONS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "add": _add,
    "remove": _remove,
    "replace": _replace,
    "move": _move,
    "copy": _copy,
    "test": _test,
}


def _put(document: Any, tokens: list[str], value: Any) -> Any:
    if not tokens:
        return value
    *above, last = tokens
    parent = _walk(document, above)
    if isinstance(parent, dict):
        parent[last] = value
    elif isinstance(parent, list):
        at = len(parent) if last == "-" else _index(parent, last, len(parent))
        parent.insert(at, value)
    else:
        raise PatchError(f"{last} has no place to be added to")
    return document


def _walk(document: Any, tokens: list[str]) -> Any:
    for token in tokens:
        if isinstance(document, dict) and token in document:
            document = document[token]
        elif isinstance(document, list):
            document = document[_index(document, token, len(document) - 1)]
        else:
            raise PatchError(f"no member {token}")
    return document


def _index(items: list[Any], text: str, last: int) -> int:
    if not (text.isascii() and text.isdigit()) or (text[0] == "0" and text != "0"):
        raise PatchError(f"{text} is not an index")
    index = int(text)
    if index > last:
        raise PatchError(f"index {index} is out of bounds ({len(items)} items)")
    return index


def _tokens(pointer: str) -> list[str]:
    if pointer == "":
        return []
    if not pointer.startswith("/"):
        raise PatchError(f"{pointer!r} is not a JSON pointer")
    return [t.replace("~1", "/").replace("~0", "~") for t in pointer[1:].split("/")]


def _value(operation: dict[str, Any]) -> Any:
    if "value" not in operation:
        raise PatchError("the operation has no value")
    return operation["value"]


def _origin(operation: dict[str, Any]) -> str:
    origin = operation.get("from")
    if not isinstance(origin, str):
        raise PatchError("the operation has no from")
    return origin


def _same(left: Any, right: Any) -> bool:
    # In Python True equals 1; in JSON it does not.
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)
