"""What a write is made under: who, when, and how strictly. Read from one request."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from apirule.local.apiserver import errors
from apirule.local.apiserver.http import Request

_VALIDATION = ("Strict", "Warn", "Ignore")


@dataclass(slots=True)
class Call:
    """The circumstances of one request. ``warnings`` collects what its answer will say."""

    now: datetime
    manager: str = "apirule"
    dry_run: bool = False
    validation: str = "Warn"
    force: bool = False
    names_manager: bool = True
    """The request itself says fieldManager, as an apply must."""
    warnings: list[str] = field(default_factory=list)

    @property
    def timestamp(self) -> str:
        return timestamp(self.now)


def timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_call(request: Request, now: datetime) -> Call:
    dry_run = request.query.get("dryRun", "")
    if dry_run not in ("", "All"):
        raise errors.bad_request(f'Invalid value: ["{dry_run}"]: dryRun: supported values: "All"')
    validation = request.query.get("fieldValidation") or "Warn"
    if validation not in _VALIDATION:
        raise errors.bad_request(
            f'fieldValidation: Unsupported value: "{validation}": supported values: "Ignore",'
            ' "Strict", "Warn"'
        )
    return Call(
        now=now,
        manager=request.field_manager,
        dry_run=bool(dry_run),
        validation=validation,
        force=request.flag("force"),
        names_manager=bool(request.query.get("fieldManager")),
    )
