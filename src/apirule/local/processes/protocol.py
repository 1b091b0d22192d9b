"""What the supervisor and those who talk to it say to each other: JSON lines over a unix socket.

A request is one object with ``id`` and ``op``; its answer carries the same ``id`` and either the
result or ``error: {message, fix}``. Events carry ``event`` instead. This module is loaded by the
supervisor, so it imports next to nothing: no dataclasses, no hashlib, no asyncio.
"""

from __future__ import annotations

from typing import Any

SOCKET = "supervisor.sock"
LOCK = "supervisor.lock"

MAX_LINE_BYTES = 4 << 20
"""Longest request. Environments are part of it."""

MAX_SOCKET_PATH = 107
"""Longest path of a unix socket, without the ending NUL."""

STOP_ORDER = ("session", "init", "workload", "sidecar", "gateway", "control-plane")
"""Kinds in the order in which they are stopped: callers go before what they call."""

STREAMS = ("stdin", "stdout", "stderr", "tty")
"""What a process may have in place of a log: paths of named pipes, or of one terminal."""

RESTART_POLICIES = ("always", "on-failure", "never")

BACKOFF_S = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
"""Pause before the n-th restart in a row."""

STEADY_S = 10.0
"""Who ran this long is not in a crash loop: the next restart is at once again."""

HEALTHY_S = 600.0
"""The same for who ran and did not do its work: it was not well just because it was there."""

DEFAULT_GRACE_S = 5.0
LOG_LIMIT_BYTES = 10 << 20
KEPT_PROGRESS = 200

Message = dict[str, Any]


def backoff_s(failures: int) -> float:
    """Pause before the restart that follows ``failures`` (1 or more) quick ends in a row."""
    return BACKOFF_S[min(failures, len(BACKOFF_S)) - 1]


class Refused(Exception):  # noqa: N818 - what the supervisor did, not a fault of the program
    """The supervisor did not do what it was asked."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix


def check_definition(definition: Message) -> None:
    """Raise Refused for a definition of a process that the supervisor cannot carry out."""
    for field, kind in (("name", str), ("argv", list), ("kind", str)):
        if not isinstance(definition.get(field), kind) or not definition[field]:
            raise Refused(f"'{field}' of a process is missing or no {kind.__name__}")
    texts = definition["argv"] + [definition["name"], definition.get("cwd", "")]
    for key, value in definition.get("env", {}).items():
        if not key or "=" in str(key):
            raise Refused(f"environment variable {key!r} has no usable name")
        texts += [key, value]
    if any(not isinstance(text, str) or "\0" in text for text in texts):
        raise Refused(f"a word of process {definition['name']} is not text or holds a NUL")
    streams = definition.get("streams", {})
    if not isinstance(streams, dict) or set(streams) - set(STREAMS):
        raise Refused(f"the streams of process {definition['name']} are none of {STREAMS}")
    if definition["kind"] not in STOP_ORDER:
        raise Refused(f"kind {definition['kind']!r} is none of {', '.join(STOP_ORDER)}")
    if definition.get("restart", "always") not in RESTART_POLICIES:
        raise Refused(f"restart {definition['restart']!r} is none of {', '.join(RESTART_POLICIES)}")


def same_definition(one: Message, other: Message) -> bool:
    """Say whether both are one process, so that a new control plane can adopt it.

    ``restarts`` is where its counter began, not what it is.
    """
    return {**one, "restarts": 0} == {**other, "restarts": 0}
