"""The part of JSONPath that printer columns use: members, indexes, ``[*]``, ``[?(@.a=="b")]``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

_STEP = re.compile(
    r"""\.(?P<member>[^.\[\]]+)
    |\[(?P<index>-?\d+)\]
    |\[(?P<all>\*)\]
    |\[(?P<quote>['"])(?P<quoted>.*?)(?P=quote)\]
    |\[\?\(@(?P<path>(?:\.[^.=\s]+)+)\s*(?P<op>==|!=)\s*(?P<q>['"]?)(?P<value>.*?)(?P=q)\)\]""",
    re.VERBOSE,
)


class PathError(Exception):
    """The path uses what we do not know."""


class _Filter(msgspec.Struct, frozen=True):
    path: tuple[str, ...]
    value: str
    equal: bool

    def holds(self, item: Any) -> bool:
        for part in self.path:
            item = item.get(part) if isinstance(item, dict) else None
        text = str(item).lower() if isinstance(item, bool) else str(item)
        return (text == self.value) is self.equal


class JsonPath(msgspec.Struct, frozen=True):
    steps: tuple[str | int | _Filter, ...]

    def find(self, value: Any) -> list[Any]:
        found = [value]
        for step in self.steps:
            found = [below for item in found for below in _below(item, step)]
        return found


def parse(text: str) -> JsonPath:
    """Read a path such as ``.status.conditions[?(@.type=="Ready")].status``. PathError."""
    text = text.strip().removeprefix("{").removesuffix("}")
    steps: list[str | int | _Filter] = []
    at = 0
    while at < len(text):
        match = _STEP.match(text, at)
        if match is None:
            raise PathError(f"{text!r} is not understood from {text[at:]!r} on")
        at = match.end()
        if match["member"] is not None:
            steps.append(match["member"].replace("\\", ""))
        elif match["index"] is not None:
            steps.append(int(match["index"]))
        elif match["all"]:
            steps.append("*")
        elif match["quoted"] is not None:
            steps.append(match["quoted"])
        else:
            path = tuple(match["path"].split(".")[1:])
            steps.append(_Filter(path, match["value"], match["op"] == "=="))
    return JsonPath(tuple(steps))


def _below(value: Any, step: str | int | _Filter) -> Iterator[Any]:
    if isinstance(step, _Filter):
        if isinstance(value, list):
            yield from (item for item in value if step.holds(item))
    elif isinstance(step, int):
        if isinstance(value, list) and -len(value) <= step < len(value):
            yield value[step]
    elif step == "*":
        if isinstance(value, list):
            yield from value
        elif isinstance(value, dict):
            yield from value.values()
    elif isinstance(value, dict) and step in value:
        yield value[step]
