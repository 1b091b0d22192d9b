"""What the status of a Namespace says while something keeps it from going."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from apirule.apis.meta import Object
from apirule.local.store import Record


def with_remaining(namespace: Object, left: Mapping[str, Sequence[Record]], now: str) -> Object:
    """Return the Namespace with conditions that name what is left, by resource, and its finalizers.

    The words are those of Kubernetes' namespace controller.
    """
    counts = ", ".join(
        f"{resource}{'' if '.' in resource else '.'} has {len(records)} resource instances"
        for resource, records in sorted(left.items())
    )
    holding = Counter(
        finalizer
        for records in left.values()
        for record in records
        for finalizer in record.decode()["metadata"].get("finalizers") or ()
    )
    held = ", ".join(
        f"{name} in {count} resource instances" for name, count in sorted(holding.items())
    )
    status = namespace.get("status") or {}
    before = {condition["type"]: condition for condition in status.get("conditions") or ()}
    remaining = [
        _condition(
            "NamespaceContentRemaining",
            ("SomeResourcesRemain", f"Some resources are remaining: {counts}"),
            ("ContentRemoved", "All content successfully removed"),
            holds=bool(left),
        ),
        _condition(
            "NamespaceFinalizersRemaining",
            (
                "SomeFinalizersRemain",
                f"Some content in the namespace has finalizers remaining: {held}",
            ),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
            holds=bool(held),
        ),
    ]
    for condition in remaining:
        was = before.get(condition["type"], {})
        same = was.get("status") == condition["status"]
        condition["lastTransitionTime"] = was["lastTransitionTime"] if same else now
    return {**namespace, "status": {**status, "conditions": remaining}}


def _condition(
    kind: str, true: tuple[str, str], false: tuple[str, str], *, holds: bool
) -> dict[str, Any]:
    reason, message = true if holds else false
    status = "True" if holds else "False"
    return {"type": kind, "status": status, "reason": reason, "message": message}
