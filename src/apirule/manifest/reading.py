"""YAML to values, as kubectl understands it.

It is read in two steps, text to nodes (libyaml, fast) and nodes to values (here), because only the
nodes know where things stand and which keys are given twice. Both steps have limits (``limits``),
so that no text can exhaust the process, whoever wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import yaml

from apirule.manifest.json_text import read_float, read_int
from apirule.manifest.limits import MAX_NESTING, MAX_VALUES, TooMuchError, check_yaml
from apirule.problem import ROOT, FieldPath

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


class Slip(msgspec.Struct, frozen=True):
    """Something of a node that must not be: where, what, and the mend."""

    line: int
    """From 0, as libyaml counts."""
    column: int
    at: FieldPath
    message: str
    fix: str
    is_duplicate: bool = False


def compose(text: str) -> list[yaml.Node]:
    """Return the root of each document. yaml.YAMLError: no YAML. TooMuchError: nested too deep."""
    check_yaml(text)
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


class Construction(msgspec.Struct):
    """Nodes to values. ``slips`` collects what is wrong on the way."""

    slips: list[Slip] = msgspec.field(default_factory=list)
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


def _read_int(text: str) -> int | float:
    text = text.replace("_", "")
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text.lstrip("+"))
    if digits[:1] == "0" and len(digits) > 1 and digits[1].isdigit():
        number = sign * int(digits, 8)
    else:
        number = sign * int(digits, 0)
    return read_int(str(number))


def _read_float(text: str) -> float | int:
    if text.lstrip("+-")[:2].lower() in (".i", ".n"):
        raise ValueError("JSON has no infinity and no NaN")
    return read_float(text.replace("_", ""))


_SCALARS: Mapping[str, Callable[[str], Any]] = {
    f"{_TAG}str": str,
    f"{_TAG}null": lambda text: None,
    f"{_TAG}bool": lambda text: _BOOLEANS[text.lower()],
    f"{_TAG}int": _read_int,
    f"{_TAG}float": _read_float,
}


def documents(text: str) -> list[Any]:
    """Return the value of each YAML document of text we wrote. ValueError: it has a mistake."""
    values, slips = _values(text)
    if slips:
        raise ValueError(slips[0].message)
    return values


def read_yaml(text: str | bytes) -> tuple[Any, list[str]]:
    """Return the value of one YAML document, and the paths of keys given twice.

    Empty text is None; the last of two equal keys counts. ValueError: it cannot be read.
    """
    values, slips = _values(text if isinstance(text, str) else text.decode())
    for slip in slips:
        if not slip.is_duplicate:
            raise ValueError(f"line {slip.line + 1}: {slip.message}")
    if len(values) > 1:
        raise ValueError("one document is expected, and there are more")
    return values[0] if values else None, [str(slip.at) for slip in slips]


def _values(text: str) -> tuple[list[Any], list[Slip]]:
    construction = Construction()
    try:
        return [construction.build(node) for node in compose(text)], construction.slips
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
