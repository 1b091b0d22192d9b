"""What went wrong outside the command: one sentence, the mend, and the exit code."""

from __future__ import annotations

import sys

from apirule.cli import output
from apirule.problem import SetupError

EXIT_FAILED = 1
EXIT_SURROUNDINGS = 3
EXIT_CREDENTIALS = 4


def tell(error: Exception) -> int:
    """Say what happened. Returns the exit code."""
    if isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        return tell(error.exceptions[0])
    if isinstance(error, SetupError):
        output.error(error.message, error.fix)
        return EXIT_SURROUNDINGS
    # Whoever raised one of these has imported it; --help must not.
    errors = sys.modules.get("apirule.kube.errors")
    if errors is not None and isinstance(error, errors.ApiError):
        return _of_the_server(error, refused=(errors.Unauthorized, errors.Forbidden))
    protocol = sys.modules.get("apirule.local.processes.protocol")
    if protocol is not None and isinstance(error, protocol.Refused):
        output.error(error.message, error.fix)
        return EXIT_SURROUNDINGS
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        output.error(f"{where}{error.strerror or error}.", "Run apirule doctor.")
        return EXIT_SURROUNDINGS
    output.error(
        f"This is a mistake in apirule: {type(error).__name__}: {error}",
        "Run it again with -vv before the command, and report what it prints.",
    )
    return EXIT_FAILED


def _of_the_server(error: Exception, *, refused: tuple[type[Exception], ...]) -> int:
    output.error(str(getattr(error, "message", error)))
    return EXIT_CREDENTIALS if isinstance(error, refused) else EXIT_FAILED
