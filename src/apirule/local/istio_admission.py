"""What the API server remarks when an object of Istio is written: nothing is refused here.

The engine reads the object a moment later and says on it what is wrong; but whoever writes a field
that is misspelt should not have to look there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from apirule.apis.meta import Object
from apirule.local.apiserver.admission import AdmissionRequest, AdmissionResult
from apirule.mesh import soundness
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
    for problem in soundness.problems_as_written(obj, settings):
        yield f"{problem} {problem.fix}".rstrip()
