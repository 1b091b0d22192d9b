"""Problems in the words that Kubernetes has for its own kinds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from apirule.problem import FieldPath, Problem, Reason
from apirule.schema import messages
from apirule.schema.syntax import Syntax


def required(at: FieldPath, fix: str, detail: str = "") -> Problem:
    text = f"Required value: {detail}" if detail else "Required value"
    return Problem(at, Reason.REQUIRED, text, fix)


def invalid(at: FieldPath, value: object, detail: str, fix: str = "") -> Problem:
    return Problem(at, Reason.INVALID, messages.invalid(value, detail), fix)


def forbidden(at: FieldPath, detail: str, fix: str) -> Problem:
    return Problem(at, Reason.FORBIDDEN, f"Forbidden: {detail}", fix)


def duplicate(at: FieldPath, value: object, fix: str) -> Problem:
    return Problem(at, Reason.DUPLICATE, f"Duplicate value: {messages.show(value)}", fix)


def unsupported(at: FieldPath, value: object, options: Iterable[str], fix: str) -> Problem:
    return Problem(at, Reason.NOT_SUPPORTED, messages.unsupported(value, options), fix)


def misspelt(at: FieldPath, value: Any, syntax: Syntax, fix: str = "") -> Iterator[Problem]:
    """Yield a problem for each rule of a syntax that the value breaks."""
    return (invalid(at, value, text, fix) for text in syntax(value))
