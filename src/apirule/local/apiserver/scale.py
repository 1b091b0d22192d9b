"""The scale subresource: how many there are to be, as an object of its own.

Deployments and ReplicaSets have it, and custom resources whose CRD says where the numbers are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from apirule.apis.meta import Object
from apirule.local.apiserver import errors
from apirule.schema.messages import show

_MOST = 2**31 - 1


class Places(msgspec.Struct, frozen=True):
    """Where an object keeps its numbers. ``selector`` empty: in ``spec.selector``, as an object."""

    wanted: tuple[str, ...] = ("spec", "replicas")
    present: tuple[str, ...] = ("status", "replicas")
    selector: tuple[str, ...] = ()
    custom: bool = False

    @classmethod
    def of(cls, paths: Mapping[str, str] | None) -> Places:
        """Read what a CRD says; None: a built-in kind."""
        if paths is None:
            return cls()
        return cls(
            wanted=_steps(paths["specReplicasPath"]),
            present=_steps(paths["statusReplicasPath"]),
            selector=_steps(paths.get("labelSelectorPath") or ""),
            custom=True,
        )


def read(obj: Object, places: Places) -> Object:
    """Return the Scale of an object. StatusError 500: it has no number, as a real server says."""
    metadata = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    wanted = _at(obj, places.wanted)
    if wanted is None:
        if places.custom:
            path = ".".join(("", *places.wanted))
            raise errors.internal(f'the spec replicas field "{path}" does not exist')
        wanted = 1
    status: Object = {"replicas": _at(obj, places.present) or 0}
    if selector := _selector(obj, places):
        status["selector"] = selector
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": {"replicas": wanted},
        "status": status,
    }


def write(obj: Object, scale: Any, places: Places) -> Object:
    """Return the object with the replicas of a Scale. StatusError 400, 422."""
    if not isinstance(scale, dict) or not isinstance(scale.get("metadata"), dict):
        raise errors.bad_request("the body is not a Scale of autoscaling/v1")
    spec = scale.get("spec") or {}
    replicas = spec.get("replicas", 0) if isinstance(spec, dict) else spec
    if not isinstance(replicas, int) or isinstance(replicas, bool) or not 0 <= replicas <= _MOST:
        raise errors.invalid(
            errors.Subject("autoscaling", "Scale", obj["metadata"]["name"]),
            [
                errors.Cause(
                    "spec.replicas",
                    "FieldValueInvalid",
                    f"Invalid value: {show(replicas)}: must be greater than or equal to 0",
                )
            ],
        )
    version = scale["metadata"].get("resourceVersion") or obj["metadata"]["resourceVersion"]
    changed = _with(obj, places.wanted, replicas)
    return {**changed, "metadata": {**obj["metadata"], "resourceVersion": version}}


def _selector(obj: Object, places: Places) -> str:
    if places.custom:
        return str(_at(obj, places.selector) or "") if places.selector else ""
    labels = _at(obj, ("spec", "selector", "matchLabels")) or {}
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _steps(path: str) -> tuple[str, ...]:
    return tuple(path.split(".")[1:])


def _at(value: Any, steps: tuple[str, ...]) -> Any:
    for step in steps:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _with(obj: Object, steps: tuple[str, ...], value: Any) -> Object:
    first, *rest = steps
    if not rest:
        return {**obj, first: value}
    below = obj.get(first)
    return {**obj, first: _with(below if isinstance(below, dict) else {}, tuple(rest), value)}
