"""What the commands print: tables, steps, problems. Only answers go to stdout."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click

from apirule.problem import Severity

STYLES = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}


def answer(text: str) -> None:
    click.echo(text)


def answer_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def say(text: str) -> None:
    click.echo(text, err=True)


def warn(text: str) -> None:
    say(f"{click.style('warning', fg='yellow')}: {text}")


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
