"""Placeholders of tutorials left in a manifest: ``{SUBDOMAIN}``, ``$NAMESPACE``, ``<NAME>``.

``{NAME}`` is valid YAML where it stands alone (a mapping with one key) and breaks the document
elsewhere, so both the nodes and, for a document that cannot be read, the text are searched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import yaml

_BRACED = re.compile(r"\{([A-Z][A-Z0-9_]*)\}")
_ANGLED = re.compile(r"<[A-Z][A-Z0-9_]*>")
_SHELL = re.compile(r"\$(?:\{[A-Z_][A-Z0-9_]*\}|[A-Z_][A-Z0-9_]*)")
_NAME = re.compile(r"[A-Z][A-Z0-9_]*")

# Text for programs, where a dollar or a brace may well be meant.
_PROGRAM_TEXT = frozenset(
    {
        "annotations",
        "args",
        "binaryData",
        "command",
        "data",
        "description",
        "exec",
        "message",
        "query",
        "rule",
        "script",
        "stringData",
        "value",
    }
)


class Placeholder(NamedTuple):
    line: int
    """From 0."""
    column: int
    text: str

    @property
    def message(self) -> str:
        if self.text.startswith("$"):
            return f"the shell variable {self.text} has not been filled in"
        return f"the placeholder {self.text} has not been replaced"

    @property
    def fix(self) -> str:
        if self.text.startswith("$"):
            return f"Write the value in place of {self.text}, or feed the text through a shell."
        return f"Write the real value in place of {self.text}."


def in_node(node: yaml.Node) -> Iterator[Placeholder]:
    """Yield the placeholders of a document that can be read."""
    yield from _walk(node, set())


def in_text(text: str) -> Iterator[Placeholder]:
    """Yield the braced placeholders of a document that cannot be read; comments are left out."""
    for number, line in enumerate(text.split("\n")):
        code = re.split(r"(?:^|\s)#", line, maxsplit=1)[0]
        for match in _BRACED.finditer(code):
            yield Placeholder(number, match.start(), match.group())


def masked(text: str) -> str:
    """Replace braced placeholders by words of the same length, so that columns stay."""
    return _BRACED.sub(lambda match: f"x{match[1]}x", text)


def _walk(node: yaml.Node, seen: set[int]) -> Iterator[Placeholder]:
    if id(node) in seen:  # an alias: its anchor has been looked at
        return
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        yield from _in_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _walk(item, seen)
    elif isinstance(node, yaml.MappingNode):
        if (name := _lone_key(node)) is not None:
            yield Placeholder(node.start_mark.line, node.start_mark.column, f"{{{name}}}")
            return
        for key, value in node.value:
            if not (isinstance(key.value, str) and key.value in _PROGRAM_TEXT):
                yield from _walk(value, seen)


def _lone_key(node: yaml.MappingNode) -> str | None:
    """Return NAME of ``{NAME}``, which YAML reads as a mapping from NAME to nothing."""
    if not node.flow_style or len(node.value) != 1:
        return None
    key, value = node.value[0]
    nothing = isinstance(value, yaml.ScalarNode) and value.value == "" and not value.style
    plain = isinstance(key, yaml.ScalarNode) and not key.style
    return key.value if nothing and plain and _NAME.fullmatch(key.value) else None


def _in_scalar(node: yaml.ScalarNode) -> Iterator[Placeholder]:
    one_line = node.start_mark.line == node.end_mark.line
    if not one_line or any(sign.isspace() for sign in node.value):
        return
    quote = 1 if node.style else 0
    for pattern in (_BRACED, _ANGLED, _SHELL):
        for match in pattern.finditer(node.value):
            column = node.start_mark.column + quote + match.start()
            yield Placeholder(node.start_mark.line, column, match.group())
