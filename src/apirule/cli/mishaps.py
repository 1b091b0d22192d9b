"""What went wrong outside the command: one sentence, the mend, and the exit code."""

from __future__ import annotations

import sys
from typing import NamedTuple

import click

from apirule.cli import output
from apirule.problem import SetupError

EXIT_FAILED = 1
EXIT_SURROUNDINGS = 3
EXIT_CREDENTIALS = 4


class Mishap(NamedTuple):
    message: str
    fix: str
    exit_code: int


def tell(error: Exception, *, traceback: bool = False) -> int:
    """Say what happened, the sentence last. Returns the exit code."""
    if isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        return tell(error.exceptions[0], traceback=traceback)
    if traceback:
        from traceback import format_exception

        output.say("".join(format_exception(error)))
    if isinstance(error, click.UsageError):
        error.show()
        return error.exit_code
    message, fix, exit_code = _mishap(error)
    output.error(message, fix)
    return exit_code


def _mishap(error: Exception) -> Mishap:
    if isinstance(error, click.ClickException):
        return Mishap(error.format_message(), "", error.exit_code)
    if isinstance(error, SetupError):
        return Mishap(error.message, error.fix, EXIT_SURROUNDINGS)
    # Whoever raised one of these has imported it; --help must not.
    protocol = sys.modules.get("apirule.local.processes.protocol")
    if protocol is not None and isinstance(error, protocol.Refused):
        return Mishap(error.message, error.fix, EXIT_SURROUNDINGS)
    errors = sys.modules.get("apirule.kube.errors")
    if errors is not None and isinstance(error, errors.ApiError):
        refused = isinstance(error, errors.Unauthorized | errors.Forbidden)
        return Mishap(error.message, "", EXIT_CREDENTIALS if refused else EXIT_FAILED)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return Mishap(
            f"{where}{error.strerror or error}.", "Run apirule doctor.", EXIT_SURROUNDINGS
        )
    return Mishap(
        f"This is a mistake in apirule: {type(error).__name__}: {error}",
        "Run it again with -vv before the command, and report what it prints.",
        EXIT_FAILED,
    )
