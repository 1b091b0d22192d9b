"""The string formats an API server checks.

They are Kubernetes' formats, which differ from JSON Schema's: a duration is written ``1h30m``, not
``PT1H30M``. A format that is not in the table is not checked, as on a real API server.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from urllib.parse import urlsplit
from uuid import UUID

_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)", re.ASCII)
_DURATION = re.compile(rf"[+-]?(?:(?:{_DURATION_PART.pattern})+|0)", re.ASCII)
_HOST_NAME = re.compile(
    r"[a-zA-Z0-9]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?(\.[a-zA-Z0-9]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?)*\.?"
)
_HOST_NAME_LENGTH = 255
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_MAC = re.compile(r"[0-9a-fA-F]{2}([-:][0-9a-fA-F]{2}){5}")


def parse_date_time(text: str) -> datetime:
    """Read an RFC 3339 time. ValueError: it is none."""
    if not _DATE_TIME.fullmatch(text):
        raise ValueError(f"{text!r} is not an RFC 3339 time")
    # Python keeps microseconds; a clock that writes nanoseconds is no error.
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text.upper()))


def parse_duration(text: str) -> timedelta:
    """Read a Go duration such as ``1h30m``. ValueError: it is none."""
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration")
    seconds = sum(float(n) * _SECONDS[unit] for n, unit in _DURATION_PART.findall(text))
    try:
        return timedelta(seconds=-seconds if text.startswith("-") else seconds)
    except OverflowError:
        raise ValueError(f"{text!r} is longer than any clock runs") from None


def _parses(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return check


def _matches(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: pattern.fullmatch(text) is not None


def _is_base64(text: str) -> bool:
    try:
        # A Secret's data may be wrapped, as base64(1) does.
        base64.b64decode(text.replace("\n", "").replace("\r", ""), validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _is_host_name(text: str) -> bool:
    return len(text) <= _HOST_NAME_LENGTH and _HOST_NAME.fullmatch(text) is not None


def _is_uri(text: str) -> bool:
    parts = urlsplit(text)
    return bool(parts.scheme) or text.startswith("/")


CHECKS: Mapping[str, Callable[[str], bool]] = {
    "byte": _is_base64,
    "cidr": lambda text: "/" in text and _parses(ipaddress.ip_interface)(text),
    "date": _parses(date.fromisoformat),
    "date-time": _parses(parse_date_time),
    "datetime": _parses(parse_date_time),
    "duration": _parses(parse_duration),
    "email": _matches(_EMAIL),
    "hostname": _is_host_name,
    "ipv4": _parses(ipaddress.IPv4Address),
    "ipv6": _parses(ipaddress.IPv6Address),
    "mac": _matches(_MAC),
    "uri": lambda text: _parses(urlsplit)(text) and _is_uri(text),
    "uuid": _parses(UUID),
}
"""Format to check. Each takes any string and never raises."""

NUMBER_RANGES: Mapping[str, tuple[int, int]] = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
}
