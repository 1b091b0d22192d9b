"""What a write is made under: who, when, and how strictly. Read from one request."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from apirule.local.apiserver.http import Request
from apirule.local.apiserver.write_options import check_write


class Call(msgspec.Struct):
    """The circumstances of one request. ``warnings`` collects what its answer will say."""

    now: datetime
    manager: str = "apirule"
    dry_run: bool = False
    validation: str = "Warn"
    force: bool = False
    warnings: list[str] = msgspec.field(default_factory=list)

    @property
    def timestamp(self) -> str:
        return timestamp(self.now)


def timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_call(request: Request, now: datetime) -> Call:
    """Read what a request says of its circumstances. StatusError 422."""
    check_write(request)
    return Call(
        now=now,
        manager=request.field_manager,
        dry_run=bool(request.query.get("dryRun")),
        validation=request.query.get("fieldValidation") or "Warn",
        force=request.flag("force"),
    )
