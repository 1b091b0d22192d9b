"""Text to values: YAML as kubectl understands it, JSON with its duplicate keys.

YAML is read in two steps, text to nodes (libyaml, fast) and nodes to values (here), because only
the nodes know where things stand and which keys are given twice. Both steps have limits, so that no
text can exhaust the process: nesting, and the size of what aliases unfold to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from apirule.problem import ROOT, FieldPath

MAX_NESTING = 150
"""Deeper than any manifest; a CRD comes to about 60."""
MAX_VALUES = 300_000
"""In one document, with aliases unfolded; a list of 5 MB."""

_TAG = "tag:yaml.org,2002:"
_BOOLEANS = {
    **dict.fromkeys(("true", "yes", "on", "y"), True),
    **dict.fromkeys(("false", "no", "off", "n"), False),
}
_INT = re.compile(r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0o?[0-7_]+|0|[1-9][0-9_]*)")
_FLOAT = re.compile(
    r"[-+]?(?:(?:[0-9][0-9_]*)?\.[0-9][0-9_]*|[0-9][0-9_]*\.?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)


class Loader(yaml.CSafeLoader):
    """libyaml with the implicit types of kubectl: no dates and no base-60 numbers."""

    yaml_implicit_resolvers = dict[str, list[tuple[str, re.Pattern[str]]]]()  # noqa: RUF012  yaml's


def _implicit(kind: str, pattern: str, first: str) -> None:
    Loader.add_implicit_resolver(f"{_TAG}{kind}", re.compile(f"^(?:{pattern})$"), list(first))


_implicit("bool", r"(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE)", "yYnNtTfF")
_implicit("bool", r"(?:on|On|ON|off|Off|OFF|y|Y|n|N)", "oOyYnN")
_implicit("int", _INT.pattern, "-+0123456789")
_implicit("float", _FLOAT.pattern, "-+0123456789.")
_implicit("null", r"~|null|Null|NULL|", "~nN\0")
Loader.add_implicit_resolver(f"{_TAG}null", re.compile(r"^$"), [""])
_implicit("merge", "<<", "<")


@dataclass(frozen=True, slots=True)
class Slip:
    """Something of a node that must not be: where, what, and the mend."""

    line: int
    """From 0, as libyaml counts."""
    column: int
    at: FieldPath
    message: str
    fix: str
    is_duplicate: bool = False


class TooMuchError(Exception):
    """The text unfolds to more than a manifest can hold."""


def compose(text: str) -> list[yaml.Node]:
    """Return the root of each document. yaml.YAMLError: no YAML. TooMuchError: nested too deep."""
    check_nesting(text)
    loader = Loader(text)
    try:
        nodes: list[yaml.Node] = []
        while loader.check_node():
            node = loader.get_node()
            if node is not None:
                nodes.append(node)
        return nodes
    finally:
        loader.dispose()


def check_nesting(text: str) -> None:
    """Raise TooMuchError for text that would overflow the stack of a recursive reader."""
    brackets = text.count("[") + text.count("{")
    leads = re.findall(r"^[ \t?:-]+", text, re.MULTILINE)
    # A cheap upper bound; nearly all text ends here.
    if brackets + max(map(len, leads), default=0) <= MAX_NESTING:
        return
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_NESTING:
            raise TooMuchError(f"nested deeper than {MAX_NESTING} levels")


@dataclass(slots=True)
class Construction:
    """Nodes to values. ``slips`` collects what is wrong on the way."""

    slips: list[Slip] = field(default_factory=list)
    _count: int = 0

    def build(self, node: yaml.Node, at: FieldPath = ROOT) -> Any:
        """Return the value of a node. TooMuchError: aliases unfold without end."""
        self._count += 1
        if self._count > MAX_VALUES or len(at.parts) > MAX_NESTING:
            raise TooMuchError("aliases unfold to more than a manifest can hold")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, at)
        if isinstance(node, yaml.SequenceNode):
            self._check_tag(node, "seq", at)
            return [self.build(item, at / index) for index, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            raise TypeError(f"libyaml gave {type(node).__name__}")
        self._check_tag(node, "map", at)
        return self._mapping(node, at)

    def _check_tag(self, node: yaml.Node, kind: str, at: FieldPath) -> None:
        if node.tag != _TAG + kind:
            self._slip(node, at, f"the tag {_short(node.tag)} is not allowed", "Remove the tag.")

    def _scalar(self, node: yaml.ScalarNode, at: FieldPath) -> Any:
        read = _SCALARS.get(node.tag)
        if read is None:
            self._slip(node, at, f"the tag {_short(node.tag)} is not allowed", "Remove the tag.")
            return node.value
        try:
            return read(node.value)
        except (KeyError, ValueError):
            kind = _short(node.tag)
            fix = "Put it in quotes, if it is meant as text."
            self._slip(node, at, f"{node.value!r} is no {kind} that JSON can hold", fix)
            return None

    def _mapping(self, node: yaml.MappingNode, at: FieldPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        lines: dict[str, int] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                for name, value in self._merged(value_node, at).items():
                    merged.setdefault(name, value)
                continue
            name = self._key(key_node, at)
            if name in result:
                self._slip(
                    key_node,
                    at / name,
                    f'duplicate field "{at / name}", first given in line {lines[name] + 1}',
                    "Keep one of the two.",
                    is_duplicate=True,
                )
            lines.setdefault(name, key_node.start_mark.line)
            result[name] = self.build(value_node, at / name)
        return {**{n: v for n, v in merged.items() if n not in result}, **result}

    def _merged(self, node: yaml.Node, at: FieldPath) -> Mapping[str, Any]:
        value = self.build(node, at / "<<")
        found: dict[str, Any] = {}
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                found = {**part, **found}
            else:
                self._slip(node, at, "'<<' merges mappings only", "Name a mapping after '<<: *'.")
        return found

    def _key(self, node: yaml.Node, at: FieldPath) -> str:
        value = self.build(node, at / "?")
        if isinstance(value, str):
            return value
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int | float):
            return str(value)
        text = "a list or a mapping" if isinstance(value, list | dict) else repr(node.value)
        self._slip(node, at, f"{text} cannot be a key", "Put the key in quotes.")
        return str(value)

    def _slip(
        self, node: yaml.Node, at: FieldPath, message: str, fix: str, *, is_duplicate: bool = False
    ) -> None:
        mark = node.start_mark
        self.slips.append(Slip(mark.line, mark.column, at, message, fix, is_duplicate))


def _short(tag: str) -> str:
    return tag.removeprefix(_TAG)


def _read_int(text: str) -> int:
    text = text.replace("_", "")
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text.lstrip("+"))
    if digits[:1] == "0" and len(digits) > 1 and digits[1].isdigit():
        return sign * int(digits, 8)
    return sign * int(digits, 0)


def _read_float(text: str) -> float | int:
    if text.lstrip("+-")[:2].lower() in (".i", ".n"):
        raise ValueError("JSON has no infinity and no NaN")
    number = float(text.replace("_", ""))
    if number in (float("inf"), float("-inf")):
        raise ValueError("too large")
    return number


_SCALARS: Mapping[str, Callable[[str], Any]] = {
    f"{_TAG}str": str,
    f"{_TAG}null": lambda text: None,
    f"{_TAG}bool": lambda text: _BOOLEANS[text.lower()],
    f"{_TAG}int": _read_int,
    f"{_TAG}float": _read_float,
}


def documents(text: str) -> list[Any]:
    """Return the value of each YAML document of text we wrote. ValueError: it has a mistake."""
    construction = Construction()
    try:
        values = [construction.build(node) for node in compose(text)]
    except (yaml.YAMLError, TooMuchError) as error:
        raise ValueError(str(error)) from error
    if construction.slips:
        raise ValueError(construction.slips[0].message)
    return values


class _Repeated(dict[str, Any]):
    """A JSON object in which keys are given twice."""

    __slots__ = ("keys_twice",)
    keys_twice: list[str]


def read_json(text: str | bytes) -> tuple[Any, list[str]]:
    """Return the value and the paths of keys given twice, for ``duplicate field "spec.timeout"``.

    The last of two equal keys counts. ValueError: no JSON, or nested too deep.
    """
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
        value = json.loads(text, object_pairs_hook=build, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not repeated:
        return value, []
    return _plain(value), [str(path) for path in _twice(value, ROOT)]


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


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
