"""A file of manifests: its documents, the objects in them, and everything that is wrong with it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import yaml

from apirule.manifest import mistakes, placeholders, reading
from apirule.manifest.limits import TooMuchError
from apirule.problem import ROOT, FieldPath, Problem, Reason, Severity

Object = dict[str, Any]

_SEPARATOR = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_HERE_DOCUMENT = re.compile(
    r"(?P<lead>\s*)(?:\$ )?[a-z].*?(?P<sign><<-?\s*(['\"]?)(?P<word>\w+)\3)"
)
_FENCE = re.compile(r"\s*(```|~~~)")


class Position(NamedTuple):
    """A place in a file, both numbers from 1."""

    line: int
    column: int


class Finding(msgspec.Struct, frozen=True):
    """A Problem with its place in a file; prints as compilers do."""

    source: str
    position: Position
    problem: Problem

    def __str__(self) -> str:
        place = f"{self.source}:{self.position.line}:{self.position.column}"
        return f"{place}: {self.problem.severity}: {self.problem}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object and where it stands."""

    object: Object
    source: str
    _root: yaml.Node = field(repr=False, compare=False)
    _origin: Position = field(repr=False, compare=False)
    """What to add to the marks of the nodes: they count from 0 within their document."""

    def position(self, at: FieldPath) -> Position:
        """Return the place of a field: its key, or the item of a list.

        For a field that is not there: of the innermost one around it that is.
        """
        node, place = self._root, self._root.start_mark
        for part in at.parts:
            found = _step(node, part)
            if found is None:
                break
            place, node = found
        return _moved(place, self._origin)

    def locate(self, problem: Problem) -> Finding:
        return Finding(self.source, self.position(problem.field), problem)


class Manifests(msgspec.Struct, frozen=True):
    manifests: tuple[Manifest, ...]
    findings: tuple[Finding, ...]
    """In the order of the text."""

    @property
    def objects(self) -> list[Object]:
        return [manifest.object for manifest in self.manifests]

    @property
    def has_errors(self) -> bool:
        return any(f.problem.severity is Severity.ERROR for f in self.findings)


def load(text: str, *, source: str = "-", placeholders: bool = True) -> Manifests:
    """Read all objects of a text of YAML documents or JSON; lists are taken apart.

    A document with an error gives findings and no objects; the others are read all the same.
    ``placeholders=False`` takes ``{NAME}`` and ``$NAME`` as they stand. Never raises.
    """
    reader = _Reader(source, placeholders)
    for chunk in _chunks(text.removeprefix("\ufeff").replace("\r\n", "\n")):
        reader.read(chunk)
    findings = sorted(reader.findings, key=lambda finding: finding.position)
    return Manifests(tuple(reader.manifests), tuple(findings))


class _Chunk(msgspec.Struct, frozen=True):
    """A part of a file that is read on its own."""

    text: str
    origin: Position
    """The line and column of its first sign, from 0."""


def _chunks(text: str) -> Iterator[_Chunk]:
    """Cut at the document separators, so that a broken document does not take others along."""
    starts = [0, *(match.start() for match in _SEPARATOR.finditer(text)), len(text)]
    line = 0
    for begin, end in itertools.pairwise(starts):
        part = text[begin:end]
        yield _Chunk(part, Position(line, 0))
        line += part.count("\n")


class _Reader:
    def __init__(self, source: str, look_for_placeholders: bool) -> None:
        self.source = source
        self.looks_for_placeholders = look_for_placeholders
        self.manifests: list[Manifest] = []
        self.findings: list[Finding] = []

    def read(self, chunk: _Chunk) -> None:
        try:
            nodes = reading.compose(_without_json_tabs(chunk.text))
        except TooMuchError as error:
            self._report(chunk, Position(0, 0), str(error), "Make it flatter.")
        except yaml.YAMLError as error:
            self._read_broken(chunk, error)
        else:
            for node in nodes:
                self._read_document(chunk, node)

    def _read_document(self, chunk: _Chunk, node: yaml.Node) -> None:
        if isinstance(node, yaml.ScalarNode) and node.value == "" and not node.style:
            return
        before = len(self.findings)
        if self.looks_for_placeholders and not _is_definition(node):
            for left in placeholders.in_node(node):
                self._report(chunk, Position(left.line, left.column), left.message, left.fix)
        construction = reading.Construction()
        try:
            value = construction.build(node)
        except TooMuchError as error:
            self._report(chunk, _mark(node.start_mark), str(error), "Write it without aliases.")
            return
        for slip in construction.slips:
            reason = Reason.DUPLICATE if slip.is_duplicate else Reason.MALFORMED
            place = Position(slip.line, slip.column)
            self._report(chunk, place, slip.message, slip.fix, reason=reason)
        if len(self.findings) == before:
            self._take(chunk, value, node)

    def _take(self, chunk: _Chunk, value: Any, node: yaml.Node) -> None:
        """Keep an object, or the objects of a list."""
        if not isinstance(value, dict):
            fix = "Write apiVersion, kind and metadata as keys at the left margin."
            self._report(chunk, _mark(node.start_mark), "a manifest is a mapping of fields", fix)
            return
        kind, items = value.get("kind"), value.get("items")
        if isinstance(kind, str) and kind.endswith("List") and isinstance(items, list):
            found = _step(node, "items")
            nodes = found[1].value if found else []
            for item, item_node in zip(items, nodes, strict=True):
                self._take(chunk, _typed(item, value), item_node)
            return
        for name in ("apiVersion", "kind"):
            if not isinstance(value.get(name), str) or not value[name]:
                message, fix = f"{name}: Required value", f"Add {name} at the left margin."
                place = _mark(node.start_mark)
                self._report(chunk, place, message, fix, reason=Reason.REQUIRED)
                return
        self.manifests.append(Manifest(value, self.source, node, chunk.origin))

    def _read_broken(self, chunk: _Chunk, error: yaml.YAMLError) -> None:
        commands = list(_here_documents(chunk))
        if commands and _begins_before_manifest(commands[0], chunk):
            for command in commands:
                self._read_here_document(chunk, command)
            return
        text = _without_json_tabs(chunk.text)
        left_over = list(placeholders.in_text(text)) if self.looks_for_placeholders else []
        for left in left_over:
            self._report(chunk, Position(left.line, left.column), left.message, left.fix)
        remaining: yaml.YAMLError | None = error
        if left_over:
            # The placeholders alone may have broken the document; look for what else is wrong.
            text = placeholders.masked(text)
            remaining = _error_of(text)
        if remaining is not None:
            mistake = mistakes.explain(remaining, text, shift=chunk.origin.column)
            place = Position(mistake.line, mistake.column)
            self._report(chunk, place, mistake.message, mistake.fix)

    def _read_here_document(self, chunk: _Chunk, command: _HereDocument) -> None:
        if command.ends:
            message = (
                f"a shell command stands here; only what it feeds up to {command.word} is read"
            )
            fix = "Keep the manifest only."
            severity = Severity.WARNING
        else:
            message = f"the here-document <<{command.word} is never ended"
            fix = f"Add a line that holds only {command.word} after the manifest."
            severity = Severity.ERROR
        self._report(chunk, command.position, message, fix, severity=severity)
        kept = len(self.manifests)
        for body in _chunks(command.body):
            line = command.position.line + 1 + body.origin.line
            self.read(_Chunk(body.text, _sum(chunk.origin, Position(line, command.indent))))
        if not command.ends:
            # Where it ends is a guess, so nothing of it may be applied.
            del self.manifests[kept:]

    def _report(
        self,
        chunk: _Chunk,
        place: Position,
        message: str,
        fix: str,
        *,
        reason: Reason = Reason.MALFORMED,
        severity: Severity = Severity.ERROR,
    ) -> None:
        problem = Problem(ROOT, reason, message, fix, severity)
        at = _sum(chunk.origin, place)
        self.findings.append(Finding(self.source, Position(at.line + 1, at.column + 1), problem))


class _HereDocument(msgspec.Struct, frozen=True):
    word: str
    position: Position
    """Of ``<<`` in the chunk, from 0."""
    body: str
    indent: int
    ends: bool


def _here_documents(chunk: _Chunk) -> Iterator[_HereDocument]:
    lines = chunk.text.split("\n")
    number = 0
    while number < len(lines):
        match = _HERE_DOCUMENT.match(lines[number])
        if match is None:
            number += 1
            continue
        place = Position(number, match.start("sign"))
        end = number + 1
        while end < len(lines) and not _ends_body(lines[end], match):
            end += 1
        body, indent = _dedented(lines[number + 1 : end])
        ends = end < len(lines) and lines[end].strip() == match["word"]
        yield _HereDocument(match["word"], place, body, indent, ends)
        number = end + 1


def _begins_before_manifest(command: _HereDocument, chunk: _Chunk) -> bool:
    """Tell a command that feeds a manifest from a script inside of one."""
    before = chunk.text.split("\n")[: command.position.line]
    return not any(line.lstrip().startswith("apiVersion:") for line in before)


def _ends_body(line: str, command: re.Match[str]) -> bool:
    if line.strip() == command["word"] or _FENCE.match(line):
        return True
    # Prose after the block: a tutorial indents the manifest at least as far as the command.
    return bool(line.strip()) and not line.startswith(command["lead"])


def _dedented(lines: list[str]) -> tuple[str, int]:
    indent = min((len(x) - len(x.lstrip(" ")) for x in lines if x.strip()), default=0)
    return "\n".join(line[indent:] for line in lines), indent


def _error_of(text: str) -> yaml.YAMLError | None:
    try:
        reading.compose(text)
    except yaml.YAMLError as error:
        return error
    return None


def _without_json_tabs(text: str) -> str:
    """Make JSON readable as YAML: there a tab between values is a blank, and none is in strings."""
    return text.replace("\t", " ") if text.lstrip()[:1] in ("{", "[") else text


def _is_definition(node: yaml.Node) -> bool:
    """Tell a CustomResourceDefinition: its descriptions and patterns may hold anything."""
    found = _step(node, "kind")
    return found is not None and found[1].value == "CustomResourceDefinition"


def _typed(item: Any, whole: Object) -> Any:
    """Give an item of a typed list, such as ConfigMapList, the type that the list implies."""
    if whole["kind"] == "List" or not isinstance(item, dict):
        return item
    kind = whole["kind"].removesuffix("List")
    return {"apiVersion": whole.get("apiVersion"), "kind": kind, **item}


def _step(node: yaml.Node, part: str | int) -> tuple[yaml.Mark, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return key.start_mark, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark, node.value[part]
    return None


def _mark(mark: yaml.Mark) -> Position:
    return Position(mark.line, mark.column)


def _sum(origin: Position, place: Position) -> Position:
    return Position(origin.line + place.line, origin.column + place.column)


def _moved(mark: yaml.Mark, origin: Position) -> Position:
    at = _sum(origin, _mark(mark))
    return Position(at.line + 1, at.column + 1)
