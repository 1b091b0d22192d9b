"""DeleteOptions: under which conditions an object goes, when, and what becomes of its children."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from apirule.apis.meta import Object
from apirule.local.apiserver import errors
from apirule.local.apiserver.errors import Cause, Subject
from apirule.local.apiserver.write_options import refuse, unsupported, wrong_dry_run

ORPHAN = "orphan"
FOREGROUND = "foregroundDeletion"

_POLICIES: Mapping[str, str | None] = {
    "": None,
    "Background": None,
    "Foreground": FOREGROUND,
    "Orphan": ORPHAN,
}

_POLICY = "propagationPolicy"

_DEFAULT_GRACE_S = 30
_LONGEST_S = 2**31 - 1


class DeleteOptions(msgspec.Struct, frozen=True):
    policy: str = ""
    grace_period_s: int | None = None
    uid: str = ""
    resource_version: str = ""
    dry_run: bool = False

    @classmethod
    def read(cls, body: Mapping[str, Any], query: Mapping[str, str]) -> DeleteOptions:
        """Read the body and the query; the body wins. StatusError 400, 422."""
        policy = body.get("propagationPolicy") or query.get("propagationPolicy") or ""
        orphans = body.get("orphanDependents", query.get("orphanDependents"))
        dry_run = body.get("dryRun") or []
        refuse("DeleteOptions", _wrong(policy, orphans, dry_run))
        if not policy and orphans is not None:
            policy = "Orphan" if orphans in (True, "true", "1") else "Background"
        grace = body.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
        preconditions = body.get("preconditions") or {}
        if not isinstance(preconditions, Mapping):
            raise errors.bad_request("preconditions is not an object")
        try:
            grace_s = None if grace in (None, "") else min(max(0, int(grace)), _LONGEST_S)
        except (TypeError, ValueError, OverflowError):
            raise errors.bad_request(
                f"gracePeriodSeconds: {grace!r} is not a number of seconds"
            ) from None
        return cls(
            policy=policy,
            grace_period_s=grace_s,
            uid=str(preconditions.get("uid") or ""),
            resource_version=str(preconditions.get("resourceVersion") or ""),
            dry_run=bool(dry_run),
        )

    def check_preconditions(self, obj: Object, subject: Subject) -> None:
        metadata = obj["metadata"]
        if self.uid and self.uid != metadata["uid"]:
            raise errors.conflict(
                subject,
                f"the UID in the precondition ({self.uid}) does not match the UID in record"
                f" ({metadata['uid']}). The object might have been deleted and then recreated",
            )
        if self.resource_version and self.resource_version != metadata["resourceVersion"]:
            raise errors.conflict(
                subject,
                f"the ResourceVersion in the precondition ({self.resource_version}) does not match"
                f" the ResourceVersion in record ({metadata['resourceVersion']}). The object might"
                " have been modified",
            )

    def finalizers(self, present: list[str]) -> list[str]:
        """Return the finalizers that the object must have while it is being deleted."""
        wanted = _POLICIES[self.policy]
        if not self.policy:
            return present
        kept = [name for name in present if name not in (ORPHAN, FOREGROUND)]
        return [*kept, wanted] if wanted else kept

    def grace_s(self, resource: str, obj: Object) -> int:
        """Return the seconds the object has left. Only a Pod that runs somewhere has any."""
        spec = obj.get("spec") or {}
        phase = (obj.get("status") or {}).get("phase")
        if resource != "pods" or not spec.get("nodeName") or phase in ("Succeeded", "Failed"):
            return 0
        if self.grace_period_s is not None:
            return self.grace_period_s
        if "deletionGracePeriodSeconds" in obj["metadata"]:
            return int(obj["metadata"]["deletionGracePeriodSeconds"])
        return int(spec.get("terminationGracePeriodSeconds", _DEFAULT_GRACE_S))


def _wrong(policy: object, orphans: object, dry_run: object) -> Iterator[Cause]:
    if not isinstance(policy, str) or policy not in _POLICIES:
        yield unsupported(_POLICY, f'"{policy}"', *filter(None, _POLICIES))
    if policy and orphans is not None:
        message = "orphanDependents and deletionPropagation cannot be both set"
        yield Cause(_POLICY, "FieldValueInvalid", f'Invalid value: "{policy}": {message}')
    for value in dry_run if isinstance(dry_run, list) else [dry_run]:
        yield from wrong_dry_run(str(value))
