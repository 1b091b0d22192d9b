"""The scale subresource of Deployments and ReplicaSets: how many, as an object of its own."""

from __future__ import annotations

from typing import Any

from apirule.apis.meta import Object
from apirule.local.apiserver import errors


def read(obj: Object) -> Object:
    """Return the Scale of a workload."""
    metadata, spec = obj["metadata"], obj.get("spec") or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    labels = (spec.get("selector") or {}).get("matchLabels") or {}
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": {"replicas": spec.get("replicas", 1)},
        "status": {
            "replicas": (obj.get("status") or {}).get("replicas", 0),
            "selector": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        },
    }


def write(obj: Object, scale: Any) -> Object:
    """Return the workload with the replicas of a Scale. StatusError 400, 422."""
    if not isinstance(scale, dict) or not isinstance(scale.get("metadata"), dict):
        raise errors.bad_request("the body is not a Scale of autoscaling/v1")
    replicas = (scale.get("spec") or {}).get("replicas", 0)
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
        raise errors.invalid(
            errors.Subject("autoscaling", "Scale", obj["metadata"]["name"]),
            [
                errors.Cause(
                    "spec.replicas",
                    "FieldValueInvalid",
                    f"Invalid value: {replicas!r}: must be greater than or equal to 0",
                )
            ],
        )
    version = scale["metadata"].get("resourceVersion") or obj["metadata"]["resourceVersion"]
    return {
        **obj,
        "metadata": {**obj["metadata"], "resourceVersion": version},
        "spec": {**obj["spec"], "replicas": replicas},
    }
