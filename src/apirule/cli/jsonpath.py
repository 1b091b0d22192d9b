"""``-o jsonpath=…`` and ``--for=jsonpath=…``: kubectl's templates, without its range loops."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import click

from apirule.local.apiserver.jsonpath import PathError, parse

_PART = re.compile(r"\{([^{}]*)\}")
_LITERAL = re.compile(r"""^(["'])(.*)\1$""", re.DOTALL)
_ESCAPED = re.compile(r"\.((?:[^.\[\]\\]|\\.)*\\\.(?:[^.\[\]\\]|\\.)*)")
"""A member whose name has dots in it: ``.app\\.kubernetes\\.io/name``."""
_ESCAPES = {r"\n": "\n", r"\t": "\t"}


def template(text: str) -> Callable[[Any], str]:
    """Return what fills a template such as ``{.status.state}``. UsageError: not understood."""
    if "{" not in text:
        text = f"{{{text}}}"
    parts = _PART.split(text)
    if any(sign in part for part in parts[::2] for sign in "{}"):
        raise click.UsageError(f"The jsonpath {text} has a brace that is never closed or opened.")
    fillers = [_path(part) if index % 2 else _constant(part) for index, part in enumerate(parts)]
    return lambda value: "".join(fill(value) for fill in fillers)


def _constant(text: str) -> Callable[[Any], str]:
    return lambda _: text


def _path(text: str) -> Callable[[Any], str]:
    literal = _LITERAL.match(text.strip())
    if literal is not None:
        inner = literal[2]
        for written, meant in _ESCAPES.items():
            inner = inner.replace(written, meant)
        return _constant(inner)
    if text.split()[:1] in (["range"], ["end"]):
        raise click.UsageError("The jsonpath has a loop; write {.items[*].…} instead of range.")
    path = text.strip().removeprefix("$").removeprefix("@")
    path = _ESCAPED.sub(lambda match: f"[{match[1].replace(chr(92), '')!r}]", path)
    try:
        # kubectl takes {status.state} for {.status.state}.
        found = parse(path if path.startswith((".", "[")) or not path else f".{path}")
    except PathError as error:
        raise click.UsageError(f"The jsonpath {error}.") from error
    return lambda value: " ".join(_text(item) for item in found.find(value))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
