"""The annotation that says in which version the user wrote an APIRule."""

from __future__ import annotations

from apirule.apis.meta import GroupVersionKind, Object

ORIGINAL_VERSION = "gateway.kyma-project.io/original-version"


def original_version(obj: Object) -> str | None:
    annotations = (obj.get("metadata") or {}).get("annotations") or {}
    version = annotations.get(ORIGINAL_VERSION)
    return version if isinstance(version, str) else None


def stamp(obj: Object) -> Object:
    """Return a written v2 or v2alpha1 object with its version noted.

    One that came from v1beta1 is that until someone gives it rules of the new form.
    """
    known = original_version(obj)
    rules = (obj.get("spec") or {}).get("rules")
    if known is not None and not (known == "v1beta1" and rules):
        return obj
    metadata = obj.get("metadata") or {}
    annotations = metadata.get("annotations") or {}
    version = GroupVersionKind.of(obj).version
    return {
        **obj,
        "metadata": {**metadata, "annotations": {**annotations, ORIGINAL_VERSION: version}},
    }
