"""JSON to values, as a Kubernetes API server reads it, with the keys that are given twice."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from apirule.manifest.limits import MAX_NESTING, TooMuchError, check_depth
from apirule.problem import ROOT, FieldPath

_HALF_A_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")
_INTEGERS = range(-(2**63), 2**64)


class _Repeated(dict[str, Any]):
    """A JSON object in which keys are given twice."""

    __slots__ = ("keys_twice",)
    keys_twice: list[str]


def read_json(text: str | bytes) -> tuple[Any, list[str]]:
    """Return the value and the paths of keys given twice, for ``duplicate field "spec.timeout"``.

    The last of two equal keys counts. ValueError: no JSON; TooMuchError: nested too deeply.
    """
    text = text if isinstance(text, str) else text.decode()
    repeated = False

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        result = dict(pairs)
        if len(result) == len(pairs):
            return result
        repeated = True
        names = [name for name, _ in pairs]
        twice = _Repeated(result)
        twice.keys_twice = [n for n in result if names.count(n) > 1]
        return twice

    try:
        value = json.loads(
            text,
            object_pairs_hook=build,
            parse_constant=_refuse_constant,
            parse_float=read_float,
            parse_int=read_int,
        )
    except RecursionError:
        raise TooMuchError(f"nested deeper than {MAX_NESTING} levels") from None
    if text.count("[") + text.count("{") > MAX_NESTING:
        check_depth(value)
    if _HALF_A_CHARACTER.search(text):
        _check_characters(value)
    if not repeated:
        return value, []
    return _plain(value), [str(path) for path in _twice(value, ROOT)]


def read_int(text: str) -> int | float:
    """Return what Kubernetes makes of a whole number: beyond 64 bits it is a float."""
    number = int(text)
    return number if number in _INTEGERS else read_float(text)


def read_float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _check_characters(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a string has one half of a surrogate pair without the other") from None


def _twice(value: Any, at: FieldPath) -> Iterator[FieldPath]:
    if isinstance(value, _Repeated):
        yield from (at / name for name in value.keys_twice)
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _twice(item, at / name)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _twice(item, at / index)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
