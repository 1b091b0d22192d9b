"""What the API server remarks when an object of Istio is written: nothing is refused here.

The engine reads the object a moment later and says on it what is wrong; but whoever writes a field
that is misspelt should not have to look there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from apirule import providers
from apirule.apis import core, scheme
from apirule.apis.meta import Object, ObjectRef
from apirule.local.apiserver.admission import AdmissionRequest, AdmissionResult
from apirule.mesh import fields, soundness
from apirule.mesh.config import MeshSettings


def hook(settings: MeshSettings) -> Callable[[AdmissionRequest], AdmissionResult]:
    def remark(request: AdmissionRequest) -> AdmissionResult:
        obj = request.object
        if request.subresource:
            return AdmissionResult(obj)
        return AdmissionResult(obj, warnings=tuple(remarks(obj, settings)))

    return remark


def remarks(obj: Object, settings: MeshSettings) -> Iterator[str]:
    """Yield what has no effect in an object, or keeps it from having any, in a sentence each."""
    ref = ObjectRef.of(obj)
    if ref.kind == core.ConfigMap.gvk.kind and ref.object_name == providers.CONFIG_MAP:
        text = (obj.get("data") or {}).get(providers.KEY)
        yield from (f"mesh: {sentence}" for sentence in providers.remarks(text or ""))
    kind = next(
        (k for k in fields.KINDS if (k.gvk.group, k.gvk.kind) == (ref.group, ref.kind)), None
    )
    if kind is None:
        return
    found = list(fields.problems(obj, kind))
    try:
        found += soundness.problems_of(scheme.decode(obj, kind), settings)
    except msgspec.ValidationError as error:
        yield f"It cannot be read: {error}."
    for problem in found:
        yield f"{problem} {problem.fix}".rstrip()
