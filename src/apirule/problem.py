"""What is wrong, where, and how to mend it.

One type serves admission, status, lint and the dashboard. The core returns problems in lists and
never raises them; a caller shows all of them at once.
"""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec

_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Reason(StrEnum):
    """A stable CamelCase word; also the reason of a condition and of a Status cause."""

    # Admission, in the words of the Kubernetes API (metav1.CauseType).
    REQUIRED = "FieldValueRequired"
    INVALID = "FieldValueInvalid"
    NOT_SUPPORTED = "FieldValueNotSupported"
    TYPE_INVALID = "FieldValueTypeInvalid"
    DUPLICATE = "FieldValueDuplicate"
    FORBIDDEN = "FieldValueForbidden"
    TOO_LONG = "FieldValueTooLong"
    TOO_MANY = "FieldValueTooMany"
    UNKNOWN_FIELD = "UnknownField"
    # Manifests.
    MALFORMED = "Malformed"
    # Validation of an APIRule against what the cluster knows.
    NOT_FOUND = "NotFound"
    CONFLICT = "Conflict"
    SIDECAR_MISSING = "SidecarMissing"
    HOST_TAKEN = "HostTaken"
    # What the engine says of an object.
    NOT_IMPLEMENTED = "NotImplemented"
    REJECTED = "Rejected"
    KEYS_UNAVAILABLE = "KeysUnavailable"
    # Advice.
    MISLEADING = "Misleading"
    INSECURE = "Insecure"


class FieldPath:
    """A place in an object: ``SPEC / "rules" / 0 / "path"`` prints as ``spec.rules[0].path``."""

    __slots__ = ("parts",)

    def __init__(self, *parts: str | int) -> None:
        self.parts = parts

    @classmethod
    def parse(cls, text: str) -> FieldPath:
        """Read a path as it is printed; of one that is cut off (``…[...]``), what there is."""
        steps = _STEP.findall(text)
        return cls(*(int(index) if index else name for name, index in steps if name != "..."))

    def __truediv__(self, part: str | int) -> FieldPath:
        return FieldPath(*self.parts, part)

    def __str__(self) -> str:
        text = ""
        for part in self.parts:
            if isinstance(part, int):
                text += f"[{part}]"
            elif text:
                text += f".{part}"
            else:
                text = part
        return text

    def __repr__(self) -> str:
        return f"FieldPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FieldPath) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(self.parts)


ROOT = FieldPath()
METADATA = FieldPath("metadata")
SPEC = FieldPath("spec")


class Problem(msgspec.Struct, frozen=True):
    """One mistake: ``message`` quotes the value, ``fix`` says what to write instead."""

    field: FieldPath
    reason: Reason
    message: str
    fix: str = ""
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        place = f"{self.field}: " if self.field.parts else ""
        return f"{place}{self.message}"


def errors(problems: list[Problem]) -> list[Problem]:
    return [problem for problem in problems if problem.severity is Severity.ERROR]


class SetupError(Exception):
    """The surroundings lack something. The command line prints both sentences and exits with 3."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
