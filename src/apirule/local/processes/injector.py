"""Gives a new Pod its sidecar, by Istio's rules for labels and annotations.

Pure, and called by the API server when a Pod is created.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from apirule.apis import core
from apirule.apis.meta import Object
from apirule.local.apiserver.admission import AdmissionRequest, AdmissionResult
from apirule.local.processes.ports import STATUS_ANNOTATION
from apirule.mesh.proxy import PROXY_CONTAINER

IMAGE = "docker.io/istio/proxyv2"
INJECT = "sidecar.istio.io/inject"
DEFAULT_ANNOTATIONS = (
    "kubectl.kubernetes.io/default-container",
    "kubectl.kubernetes.io/default-logs-container",
)
NAMESPACE_LABEL = "istio-injection"
REVISION_LABEL = "istio.io/rev"


def inject(pod: Object, namespace: Mapping[str, Any] | None) -> Object:
    """Return the Pod with a sidecar if it is to have one; the Pod given is not changed.

    A Pod of the host's network gets none, as in Istio.
    """
    spec = pod.get("spec") or {}
    containers = spec.get("containers") or []
    everyone = (*containers, *(spec.get("initContainers") or []))
    if any(container.get("name") == PROXY_CONTAINER for container in everyone):
        return pod
    if not containers or spec.get("hostNetwork") or not wants_sidecar(pod, namespace):
        return pod
    metadata = pod.get("metadata") or {}
    annotations = {
        # So that kubectl logs and exec need not be told that the proxy is not meant.
        **dict.fromkeys(DEFAULT_ANNOTATIONS, containers[0]["name"]),
        **(metadata.get("annotations") or {}),
        STATUS_ANNOTATION: json.dumps({"containers": [PROXY_CONTAINER]}),
    }
    proxy = {"name": PROXY_CONTAINER, "image": IMAGE}
    return {
        **pod,
        "metadata": {**metadata, "annotations": annotations},
        "spec": {**spec, "containers": [*containers, proxy]},
    }


def admit(request: AdmissionRequest) -> AdmissionResult:
    """Inject into Pods that are created; the form in which the API server calls it."""
    created = request.operation == "CREATE" and not request.subresource
    if request.gvk != core.Pod.gvk or not created:
        return AdmissionResult(request.object)
    return AdmissionResult(inject(request.object, request.namespace))


def wants_sidecar(pod: Object, namespace: Mapping[str, Any] | None) -> bool:
    """Say whether a Pod asks for a sidecar: it may say no, or its namespace yes, in that order."""
    meta = pod.get("metadata") or {}
    labels = _labels(namespace)
    # The label is Istio's newer form, and goes before the annotation.
    own = (meta.get("labels") or {}).get(INJECT) or (meta.get("annotations") or {}).get(INJECT)
    if labels.get(NAMESPACE_LABEL) == "disabled" or own == "false":
        return False
    if own == "true":
        return True
    return labels.get(NAMESPACE_LABEL) == "enabled" or REVISION_LABEL in labels


def _labels(namespace: Mapping[str, Any] | None) -> Mapping[str, str]:
    return ((namespace or {}).get("metadata") or {}).get("labels") or {}
