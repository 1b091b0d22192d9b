"""Durations as Istio writes them (Go's notation) and as Envoy reads them."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal

from google.protobuf.duration_pb2 import Duration

_UNITS = {
    "ns": Decimal("1e-9"),
    "us": Decimal("1e-6"),
    "µs": Decimal("1e-6"),
    "ms": Decimal("1e-3"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_LONGEST = timedelta(days=3650)


def parse(text: str) -> timedelta | None:
    """Read ``1h30m``, ``1.5s`` or ``0``. None: no duration, negative, or above ten years."""
    if text == "0":
        return timedelta()
    parts = list(_PART.finditer(text))
    if not parts or "".join(part.group() for part in parts) != text:
        return None
    seconds = sum((Decimal(p.group(1)) * _UNITS[p.group(2)] for p in parts), Decimal())
    if seconds > int(_LONGEST.total_seconds()):
        return None
    # Microseconds, as Go's nanoseconds mean nothing to a timeout.
    return timedelta(microseconds=int(seconds * 1_000_000))


def message(duration: timedelta) -> Duration:
    result = Duration()
    result.FromTimedelta(duration)
    return result


def seconds(value: float) -> Duration:
    return message(timedelta(seconds=value))


NONE = Duration()
"""No limit, where Envoy has one by default."""
