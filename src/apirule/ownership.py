"""Labels that say whose an object is, and the names we derive.

Labels are those of the Kyma operator, so that either one finds the objects of the other.
"""

from __future__ import annotations

from collections.abc import Mapping

from apirule import names
from apirule.apis.meta import ObjectMeta
from apirule.names import ObjectName

OWNER_NAME = "apirule.gateway.kyma-project.io/name"
OWNER_NAMESPACE = "apirule.gateway.kyma-project.io/namespace"
LEGACY_OWNER = "apirule.gateway.kyma-project.io/v1beta1"
"""``NAME.NAMESPACE`` in one value; where it stands, it alone decides."""

HASH = "gateway.kyma-project.io/hash"
INDEX = "gateway.kyma-project.io/index"

MAX_LABEL_VALUE = 63

_COMMON = {
    "kyma-project.io/module": "api-gateway",
    "app.kubernetes.io/managed-by": "api-gateway",
    "app.kubernetes.io/component": "api-gateway",
    "app.kubernetes.io/part-of": "api-gateway",
}


def metadata(
    owner: ObjectName, namespace: str, *identity: str, labels: Mapping[str, str] | None = None
) -> ObjectMeta:
    """Name and label an object; ``identity`` is what tells it from the owner's other objects."""
    return ObjectMeta(
        name=f"{owner.name}-{names.digest(*owner, namespace, *identity)}",
        namespace=namespace,
        labels={
            OWNER_NAME: owner.name,
            OWNER_NAMESPACE: owner.namespace,
            **_COMMON,
            **(labels or {}),
        },
    )


def owner_of(labels: Mapping[str, str]) -> ObjectName | None:
    """Return the APIRule an object belongs to; None if it belongs to none."""
    if (legacy := labels.get(LEGACY_OWNER)) is not None:
        # A namespace holds no dot, so the last one separates.
        name, _, namespace = legacy.rpartition(".")
        return ObjectName(namespace, name)
    if OWNER_NAME in labels and OWNER_NAMESPACE in labels:
        return ObjectName(labels[OWNER_NAMESPACE], labels[OWNER_NAME])
    return None


def selectors(owner: ObjectName) -> tuple[str, ...]:
    """Return the label selectors whose matches, taken together, are all objects of an owner."""
    legacy = f"{owner.name}.{owner.namespace}"
    current = f"{OWNER_NAME}={owner.name},{OWNER_NAMESPACE}={owner.namespace}"
    if len(legacy) > MAX_LABEL_VALUE:
        return (current,)
    return (current, f"{LEGACY_OWNER}={legacy}")
