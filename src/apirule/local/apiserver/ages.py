"""Ages as kubectl writes them: ``45s``, ``3m20s``, ``5h``, ``12d``."""

from __future__ import annotations

from datetime import datetime

UNKNOWN = "<unknown>"

_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 365 * 86400

# Up to this age: count in this unit, and show the rest in that one.
_STEPS = (
    (2 * _MINUTE, (1, "s"), None),
    (10 * _MINUTE, (_MINUTE, "m"), (1, "s")),
    (3 * _HOUR, (_MINUTE, "m"), None),
    (8 * _HOUR, (_HOUR, "h"), (_MINUTE, "m")),
    (2 * _DAY, (_HOUR, "h"), None),
    (8 * _DAY, (_DAY, "d"), (_HOUR, "h")),
    (2 * _YEAR, (_DAY, "d"), None),
    (8 * _YEAR, (_YEAR, "y"), (_DAY, "d")),
    (float("inf"), (_YEAR, "y"), None),
)


def age(moment: object, now: datetime) -> str:
    """Return how long ago a timestamp was; ``<unknown>`` for what is none."""
    if not isinstance(moment, str) or not moment:
        return UNKNOWN
    try:
        seconds = int((now - datetime.fromisoformat(moment)).total_seconds())
    except (ValueError, TypeError):
        return UNKNOWN
    if seconds < -1:
        return "<invalid>"
    seconds = max(0, seconds)
    _, (unit, sign), rest = next(step for step in _STEPS if seconds < step[0])
    text = f"{seconds // unit}{sign}"
    if rest is not None:
        below = seconds % unit // rest[0]
        text += f"{below}{rest[1]}" if below else ""
    return text
