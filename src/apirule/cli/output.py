"""What the commands print: tables, steps, problems. Only answers go to stdout."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from apirule.problem import Severity

if TYPE_CHECKING:
    from apirule.manifest import Finding

STYLES = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}


def answer(text: str) -> None:
    click.echo(text)


def answer_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def say(text: str) -> None:
    click.echo(text, err=True)


def hint(text: str) -> None:
    """Say what is nice to know; ``-q`` leaves it out."""
    if not is_quiet():
        say(with_state(text))


def is_quiet() -> bool:
    return bool(_of_root("quiet"))


def warn(text: str) -> None:
    say(f"{click.style('warning', fg='yellow')}: {text}")


def error(message: str, fix: str = "") -> None:
    say(f"{click.style('error', fg='red')}: {message}")
    if fix:
        say(f"{click.style('fix', fg='green')}:   {with_state(fix)}")


def with_state(text: str) -> str:
    """Let the commands in a text mean the instance that this one means by ``--state``."""
    state = _of_root("state")
    if state is None:
        return text
    from apirule.cli import COMMANDS

    command = re.compile(rf"\bapirule (?=(?:{'|'.join(COMMANDS)})\b)")
    return command.sub(lambda _: f"apirule --state {shlex.quote(state)} ", text)


def _of_root(name: str) -> Any:
    context = click.get_current_context(silent=True)
    return None if context is None else context.find_root().params.get(name)


def findings(found: Iterable[Finding]) -> None:
    """Say each finding as compilers do: file, line, column, what is wrong; then the mend."""
    for finding in found:
        place = f"{finding.source}:{finding.position.line}:{finding.position.column}"
        severity = finding.problem.severity
        say(f"{place}: {click.style(severity, fg=STYLES[severity])}: {finding.problem}")
        if finding.problem.fix:
            say(f"    {click.style('fix', fg='green')}: {finding.problem.fix}")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return columns as kubectl prints them: three blanks apart, nothing after the last."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def step(name: str, detail: str, seconds: float | None = None, *, ok: bool = True) -> None:
    """Print one finished step of a start-up."""
    mark = click.style("ok", fg="green") if ok else click.style("FAIL", fg="red")
    took = "" if seconds is None else f"{seconds:.1f} s"
    say(f"  {mark}  {name:<16} {detail:<56} {took}".rstrip())


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
