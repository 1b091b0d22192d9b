"""What ``doctor`` finds: how bad it is, what it is, and how to mend it."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Verdict(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


class Finding(NamedTuple):
    verdict: Verdict
    text: str
    fix: str = ""


def ok(text: str) -> Finding:
    return Finding(Verdict.OK, text)


def warn(text: str, fix: str) -> Finding:
    return Finding(Verdict.WARN, text, fix)


def fail(text: str, fix: str) -> Finding:
    return Finding(Verdict.FAIL, text, fix)
