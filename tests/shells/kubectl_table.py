"""The table of docs/reference/kubectl.md: what each command came to, written and read back.

A row holds one command and the versions of kubectl for which it came to the same. The versions that
are not on this machine keep the rows that were measured on another.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

_LONGEST = 240
_ERROR = re.compile(r"error\b", re.IGNORECASE)
_NO_WARNING = re.compile(r"(?!Warning:|WARNING:|W\d{4} |\s*$)")
_MEASURED = re.compile(r"^Measured with (.*)\.$", re.MULTILINE)
_ROW = re.compile(r"^\|(.*)\|$", re.MULTILINE)
_ALL = "all"
_NOTHING = "-"
_VARIES = (
    (re.compile(r"\x1b\[[\d;]*m"), ""),
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:..."),
    (re.compile(r"v1\.\d+\.\d+[-+.\w]*"), "v1...."),
    (re.compile(r"^W\d{4} \S+ +\d+ "), ""),
    (re.compile(r"(LIVE|MERGED)-\d+"), r"\1-..."),
    (re.compile(r"\b(\d+[smh])+\b"), "..."),
    (re.compile(r"\s+"), " "),
)

Measured = Mapping[str, Sequence["Outcome"]]
"""The outcomes of all commands in their order, by full version, such as ``1.33.1``."""


@dataclass(frozen=True)
class Outcome:
    """What a command came to: its exit code, the first line of output, and the first of errors."""

    exit: str
    out: str
    err: str

    @classmethod
    def of(cls, exit_code: str, out: str, err: str) -> "Outcome":
        return cls(exit_code, _line_of(out.splitlines()), _line_of(_telling(err.splitlines())))


def short(version: str) -> str:
    return ".".join(version.split(".")[:2])


def render(head: str, commands: Sequence[str], measured: Measured) -> str:
    """Return the page; ``commands`` are the cells of the first column."""
    versions = sorted(measured, key=_key)
    lines = [
        head,
        f"Measured with {', '.join(versions)}.",
        "",
        "| Command | kubectl | Exit | stdout | stderr |",
        "|---|---|---|---|---|",
    ]
    for index, command in enumerate(commands):
        found: dict[Outcome, list[str]] = {}
        for version in versions:
            found.setdefault(measured[version][index], []).append(version)
        for outcome, same in found.items():
            cells = (command, _range(same, versions), outcome.exit)
            lines.append(f"| {' | '.join((*cells, _cell(outcome.out), _cell(outcome.err)))} |")
    return "\n".join(lines) + "\n"


def parse(text: str) -> tuple[list[str], dict[str, list[Outcome]]]:
    """Return the commands and what was measured of them."""
    (listed,) = _MEASURED.findall(text)
    versions: list[str] = listed.split(", ")
    _, _, *rows = (re.split(r"(?<!\\) \| ", row.strip()) for row in _ROW.findall(text))
    commands: list[str] = []
    measured: dict[str, list[Outcome]] = {version: [] for version in versions}
    for row in rows:
        command, named, exit_code, out, err = row
        # A command may stand twice: a new one begins when all versions have had the last.
        if len({len(outcomes) for outcomes in measured.values()}) == 1:
            commands.append(command)
        for version in _versions(named, versions):
            measured[version].append(Outcome(exit_code, _content(out), _content(err)))
    return commands, measured


def _telling(lines: list[str]) -> list[str]:
    """Return the lines from the error on; those of warnings, if there is none."""
    for begins in (_ERROR, _NO_WARNING):
        found = [index for index, line in enumerate(lines) if begins.match(line)]
        if found:
            return lines[found[0] :]
    return lines


def _line_of(lines: list[str]) -> str:
    line = next((line.strip() for line in lines if line.strip()), "")
    for pattern, replacement in _VARIES:
        line = pattern.sub(replacement, line)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST].rstrip()}..."


def _cell(text: str) -> str:
    if not text:
        return _NOTHING
    fence = "``" if "`" in text else "`"
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}".replace("|", "\\|")


def _content(cell: str) -> str:
    return "" if cell == _NOTHING else cell.replace("\\|", "|").strip("`").strip(" ")


def _range(some: Sequence[str], versions: Sequence[str]) -> str:
    if len(some) == len(versions):
        return _ALL
    runs = []
    for _, run in groupby(some, key=lambda version: versions.index(version) - some.index(version)):
        names = [short(version) for version in run]
        runs.append(names[0] if len(names) == 1 else f"{names[0]}-{names[-1]}")
    return ", ".join(runs)


def _versions(named: str, versions: Sequence[str]) -> Iterator[str]:
    if named == _ALL:
        yield from versions
        return
    names = [short(version) for version in versions]
    for run in named.split(", "):
        first, _, last = run.partition("-")
        yield from versions[names.index(first) : names.index(last or first) + 1]


def _key(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
