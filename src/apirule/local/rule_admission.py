"""What happens to an APIRule while it is written: its version is noted, its writer is warned.

In a cluster this is the work of webhooks, so it knows the cluster by what the controllers know of
it, and knows nothing before they run.
"""

from __future__ import annotations

from collections.abc import Callable

from apirule.apis.gateway import v2
from apirule.convert import stamp
from apirule.facts import Facts
from apirule.local.apiserver.admission import AdmissionRequest, AdmissionResult
from apirule.validate import admission_warnings


class RuleAdmission:
    """A hook of the API server. Give it ``facts`` as soon as they are complete."""

    def __init__(self) -> None:
        self.facts: Callable[[], Facts] | None = None

    def __call__(self, request: AdmissionRequest) -> AdmissionResult:
        obj = request.object
        if request.subresource:
            return AdmissionResult(obj)
        if (request.gvk.group, request.gvk.kind) == (v2.GROUP, v2.APIRule.gvk.kind):
            obj = stamp(obj)
        return AdmissionResult(obj, warnings=admission_warnings(obj, request.old, self._known))

    def _known(self) -> Facts | None:
        return None if self.facts is None else self.facts()
