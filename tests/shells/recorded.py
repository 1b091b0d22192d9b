"""Answers that real Kubernetes API servers gave, and how ours are compared with them."""

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
    if isinstance(value, list) and key == "managedFields":
        # Their order says nothing; by name, a missing one does not hide how the others differ.
        return {_writer(entry): normalised(entry) for entry in value}
    if isinstance(value, list):
        return [normalised(item) for item in value]
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


def _writer(entry: dict[str, Any]) -> str:
    parts = (entry["manager"], entry["operation"], entry.get("subresource", ""))
    return "/".join(filter(None, parts))
