"""YAML mistakes in plain words: what libyaml says, and what the writer most likely did."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import yaml

_KEY = re.compile(r"(?P<lead>\s*(?:-\s+)*)(?P<key>[^\s#'\"{\[][^:#]*?|'[^']*'|\"[^\"]*\"):(?:\s|$)")
_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_TERMINATOR = re.compile(r"\s*(EOF|EOT|END|YAML)\s*")
_QUOTE_ME = "*&@`%!|>"
_OPERATOR = re.compile(r"\{\*{1,2}\}?")
_PATH = re.compile(r"(?<![^\s,\[{:])/[^\s,\[\]{}\"']*(?:\{\*{1,2}\}[^\s,\[\]{}\"']*)+")
"""A path with operators, as it stands without quotes."""
_END_IN_BRACKETS = re.compile(r"[,\]}]")
_COMMENT = re.compile(r"(?:^|\s)#")


class Mistake(NamedTuple):
    line: int
    """From 0."""
    column: int
    message: str
    fix: str


class _Key(NamedTuple):
    line: int
    column: int
    name: str
    is_item: bool
    """It begins an item of a list: ``- name:``."""


def explain(error: yaml.YAMLError, text: str, *, shift: int = 0) -> Mistake:
    """Say where and what the mistake is, and how to mend it.

    The place is one of the text; columns in the words are those of the file, where the text stands
    ``shift`` columns further to the right.
    """
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return _explain_character(error, text)
    # As libyaml counts; the end of the text may be a line further.
    lines = [*_BREAK.split(text), "", ""]
    mark = error.problem_mark
    found = _Found(
        lines,
        mark.line,
        mark.column,
        error.problem or "",
        error.context or "",
        error.context_mark or mark,
        shift,
    )
    seen = _tab(lines, mark.line) or _stray_terminator(lines, mark.line)
    if seen is not None:
        return seen
    said = f"{found.context}; {found.problem}"
    for words, explanation in _EXPLANATIONS:
        if words in said:
            return explanation(found)
    return Mistake(found.line, found.column, said.removeprefix("; "), "Correct the line.")


class _Found(NamedTuple):
    """What libyaml says."""

    lines: list[str]
    line: int
    column: int
    problem: str
    context: str
    start: yaml.Mark
    """Of what it was reading when it came upon the problem."""
    shift: int

    def column_of(self, column: int) -> str:
        """Return a column of the file as people count."""
        return str(column + self.shift + 1)


def _explain_character(error: yaml.YAMLError, text: str) -> Mistake:
    position = getattr(error, "position", 0)
    before = text[: position if isinstance(position, int) else 0]
    line = before.count("\n")
    column = len(before) - (before.rfind("\n") + 1)
    reason = getattr(error, "reason", None) or str(error)
    return Mistake(line, column, f"a character that YAML does not allow: {reason}", "Delete it.")


def _stray_terminator(lines: list[str], line: int) -> Mistake | None:
    """Find a line with only EOF here or just above: libyaml takes it for the start of a key."""
    for number in range(max(0, line - 2), min(line + 1, len(lines))):
        if _TERMINATOR.fullmatch(lines[number]):
            word = lines[number].strip()
            fix = f"Delete the line {word}, or feed the text through a shell."
            message = f"'{word}' ends a here-document of the shell; it is no YAML"
            return Mistake(number, len(lines[number]) - len(lines[number].lstrip()), message, fix)
    return None


def _tab(lines: list[str], line: int) -> Mistake | None:
    for number in (line, line - 1):
        if not 0 <= number < len(lines):
            continue
        lead = re.match(r"[ \t-]*", lines[number])
        column = lead.group().find("\t") if lead else -1
        if column >= 0 and lines[number].strip():
            fix = "Replace the tab with spaces."
            return Mistake(number, column, "indented with a tab; YAML allows only spaces", fix)
    return None


def _key_of(lines: list[str], number: int) -> _Key | None:
    match = _KEY.match(lines[number]) if number < len(lines) else None
    if match is None:
        return None
    lead = match["lead"]
    return _Key(number, len(lead), match["key"].strip("'\""), "-" in lead)


def _line_above(lines: list[str], line: int) -> int | None:
    """Return the next line above that is neither blank nor a comment."""
    for number in range(line - 1, -1, -1):
        if lines[number].strip() and not lines[number].lstrip().startswith(("#", "---")):
            return number
    return None


def _key_above(lines: list[str], line: int) -> _Key | None:
    above = _line_above(lines, line)
    return None if above is None else _key_of(lines, above)


def _open_quote(found: _Found) -> Mistake:
    fix = "Close the quote, or write the text as a block after '|'."
    return Mistake(found.start.line, found.start.column, "this quote is never closed", fix)


def _escape(found: _Found) -> Mistake:
    fix = "Write the text in single quotes, where a backslash is itself."
    message = "a backslash in double quotes begins an escape"
    return Mistake(found.line, found.column, message, fix)


def _colon(found: _Found) -> Mistake:
    key, above = _key_of(found.lines, found.line), _key_above(found.lines, found.line)
    is_first_colon = key is not None and key.column + len(key.name) >= found.column - 2
    if (
        is_first_colon
        and above is None
        and (line := _line_above(found.lines, found.line)) is not None
    ):
        start = len(found.lines[line]) - len(found.lines[line].lstrip())
        return _no_key(found.lines, line, start)
    if key is None or above is None or not is_first_colon:
        message = "a value that contains ': ' must stand in quotes"
        return Mistake(found.line, found.column, message, "Put the value in quotes.")
    if key.column <= above.column:
        return _indentation(found)
    whole = "list item" if above.is_item else "mapping"
    message = (
        f"'{key.name}' is indented deeper than '{above.name}' above it; both belong to one {whole}"
    )
    fix = f"Put '{key.name}' in column {found.column_of(above.column)}."
    return Mistake(found.line, found.column, message, fix)


def _indentation(found: _Found) -> Mistake:
    lines, line = found.lines, found.line
    key = _key_of(lines, line)
    here = lines[line].strip() if line < len(lines) else ""
    name = f"'{key.name if key else here[:30]}'"
    if here.startswith("- "):
        message = f"{name} does not line up with the list it belongs to"
        return Mistake(line, found.column, message, "Begin all '-' of one list in one column.")
    columns = " or ".join(map(found.column_of, _open_columns(lines, line) or [0]))
    message = f"{name} does not line up with any key above it"
    return Mistake(line, found.column, message, f"Begin it in column {columns}.")


def _open_columns(lines: list[str], line: int) -> list[int]:
    """Return the columns in which a key of an enclosing mapping may begin, outer first."""
    columns: list[int] = []
    for number in range(line):
        key = _key_of(lines, number)
        if key is not None:
            columns = [column for column in columns if column < key.column]
            columns.append(key.column)
    return columns


def _unquoted(found: _Found) -> Mistake:
    at_start = "scanning" in found.context and "token" not in found.context
    line = found.start.line if at_start else found.line
    column = found.start.column if at_start else found.column
    here = found.lines[line] if line < len(found.lines) else ""
    sign = here[column : column + 1]
    value = here[column:].split(" #")[0].strip()
    if _depth(found.lines, line, column):
        # Within brackets a comma or a bracket ends a value, and so the braces of an operator.
        if (path := _path_at(here, column)) is not None:
            message = "within brackets a path with {*} or {**} must stand in quotes"
            return Mistake(line, path.start(), message, f'Write "{path.group()}".')
        value = _END_IN_BRACKETS.split(value)[0].strip()
    if sign not in _QUOTE_ME:
        return Mistake(line, column, f"{found.context}, {found.problem}", "Correct the line.")
    message = f"a value that begins with '{sign}' must stand in quotes"
    return Mistake(line, column, message, f'Write "{value}".')


def _depth(lines: list[str], line: int, column: int) -> int:
    """Return how many brackets are open at a place."""
    before = [_COMMENT.split(text)[0] for text in lines[:line]]
    text = _OPERATOR.sub("", "\n".join([*before, lines[line][:column]]))
    return sum(text.count(sign) for sign in "[{") - sum(text.count(sign) for sign in "]}")


def _path_at(here: str, column: int) -> re.Match[str] | None:
    """Return the path with operators that has this column in it."""
    spans = (found for found in _PATH.finditer(here) if found.start() <= column < found.end())
    return next(spans, None)


def _flow(found: _Found) -> Mistake:
    path = _path_at(found.lines[found.line], found.column)
    if path is not None and _depth(found.lines, found.line, path.start()):
        message = "within brackets a path with {*} or {**} must stand in quotes"
        return Mistake(found.line, path.start(), message, f'Write "{path.group()}".')
    line, column = found.start.line, found.start.column
    sign = found.lines[line][column : column + 1]
    closing = {"{": "}", "[": "]"}.get(sign)
    if closing is None:
        message = "a list or mapping in brackets is not finished"
        return Mistake(found.line, found.column, message, "Add what is missing, or close it.")
    message = f"'{sign}' is never closed by '{closing}'"
    return Mistake(line, column, message, f"Add the '{closing}', or put the value in quotes.")


def _missing_colon(found: _Found) -> Mistake:
    return _no_key(found.lines, found.start.line, found.start.column)


def _no_key(lines: list[str], line: int, column: int) -> Mistake:
    text = lines[line].strip() if line < len(lines) else ""
    message = f"'{text[:40]}' is neither 'key: value' nor '- item'"
    return Mistake(line, column, message, "Write 'key: value' with a blank after the colon.")


# Words of libyaml and what they most likely mean; the first that fits.
_EXPLANATIONS: tuple[tuple[str, Callable[[_Found], Mistake]], ...] = (
    ("unknown escape", _escape),
    ("quoted scalar", _open_quote),
    ("mapping values are not allowed", _colon),
    ("scanning an alias", _unquoted),
    ("scanning an anchor", _unquoted),
    ("undefined alias", _unquoted),
    ("cannot start any token", _unquoted),
    ("block scalar", _unquoted),
    ("flow", _flow),
    ("expected ':'", _missing_colon),
    ("block mapping", _indentation),
    ("block collection", _indentation),
    ("sequence entries", _indentation),
)
