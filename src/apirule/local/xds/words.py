"""What Envoy says when it refuses something, in as many words as a person needs.

Envoy prints the whole message it did not like before it says why, and with it the routes of
everybody else. What counts is the place, and what is wrong there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_DUMP = "goo.gle/debug"
_CUT_SHORT = "it breaks a rule of Envoy, whose answer was cut off before it said which"
_CONSTRAINT = re.compile(r"Proto constraint validation failed \((.*)\)\s*\Z", re.DOTALL)
_CAUSE = re.compile(r"\w+ValidationError\.(?P<field>[^:]+): (?P<why>.*)", re.DOTALL)
_BIND = re.compile(r"cannot bind '(?P<address>.+):(?P<port>\d+)': (?P<why>[^\n]+)")
_LONGEST = 500


def plain(text: str) -> str:
    """Return the part of Envoy's text that says where and why."""
    constraint = _CONSTRAINT.search(text)
    if constraint is not None:
        text = _where_and_why(constraint[1])
    elif _DUMP in text:
        # What is wrong comes last, behind the last line of the message; of a large one it is lost.
        _, found, text = text.rpartition("\n: ")
        text = text if found else _CUT_SHORT
    text = text.strip()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _where_and_why(chain: str) -> str:
    causes = [_CAUSE.fullmatch(cause) for cause in chain.split(" | caused by ")]
    found = [cause for cause in causes if cause is not None]
    if len(found) != len(causes):
        return chain
    return f"{'.'.join(cause['field'] for cause in found)}: {found[-1]['why']}"


def of_machine(text: str) -> str:
    """Say what this machine refuses a proxy, in a sentence's end; empty: it is not that.

    No object is to blame for that, and it may be otherwise in a moment.
    """
    found = _BIND.search(text)
    if found is None:
        return ""
    place = f"port {found['port']} of {found['address']}"
    match found["why"]:
        case "Address already in use":
            return f"{place} is in use by another program"
        case "Permission denied":
            return f"{place} may only be opened by root"
        case why:
            return f"{place} cannot be opened: {why}"


def joined(texts: Iterable[str]) -> str:
    """Return several texts as one, each once."""
    return " ".join(dict.fromkeys(texts))
