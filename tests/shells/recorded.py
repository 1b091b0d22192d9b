"""Answers that real Kubernetes API servers gave, and how ours are compared with them."""

import json
import re
from collections.abc import Iterator
from typing import Any

_VARYING = frozenset(
    ("uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "time", "description")
)
_UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def normalised(value: Any, key: str = "") -> Any:
    """Return an answer without what differs from one run to the next."""
    if isinstance(value, str):
        return "*" if key in _VARYING else _UID.sub("*", value)
    if isinstance(value, dict):
        return {name: normalised(member, name) for name, member in value.items()}
    if isinstance(value, list):
        items = [normalised(item) for item in value]
        return sorted(items, key=_text) if key == "managedFields" else items
    return value


def differences(expected: Any, actual: Any, at: str = "") -> Iterator[str]:
    """Yield the path of each place where two answers differ."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        for key in sorted({*expected, *actual}):
            if key in expected and key in actual:
                yield from differences(expected[key], actual[key], f"{at}.{key}")
            else:
                yield f"{at}.{key}"
    elif isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        for index, (left, right) in enumerate(zip(expected, actual, strict=True)):
            yield from differences(left, right, f"{at}[{index}]")
    elif expected != actual:
        yield at


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
