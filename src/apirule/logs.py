"""Logging: console for people, JSON for machines, chosen once.

The event is a short constant, the values are fields. Tokens, keys and ``Authorization`` never
become fields; a test looks for them in the logs of a whole run.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


def configure(*, level: str = "info", form: str = "console") -> None:
    """Send the logs of this process to stderr. ``form`` is ``console`` or ``json``."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries that use the standard library's logging say only what someone must look at.
    logging.basicConfig(level=max(number, logging.WARNING), stream=sys.stderr, format="%(message)s")
