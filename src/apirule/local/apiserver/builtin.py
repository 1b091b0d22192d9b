"""What Kubernetes does with its own kinds beyond their schema: completes them, and what may change.

A table by resource of functions from objects to objects and to problems. Nothing is changed in
place: the parts of an object may be shared with schema defaults.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from typing import Any

from apirule.apis.meta import Object
from apirule.problem import SPEC, FieldPath, Problem, Reason

NAME_LABEL = "kubernetes.io/metadata.name"

_PROXY = "istio-proxy"
_WORKLOADS = frozenset(("deployments.apps", "replicasets.apps"))

_MUTABLE_IN_PODS = frozenset(
    ("activeDeadlineSeconds", "terminationGracePeriodSeconds", "tolerations", "schedulingGates")
)


def complete(resource: str, obj: Object, old: Object | None) -> Object:
    """Return the object with what the API server fills in."""
    step = _COMPLETE.get(resource)
    return step(obj, old) if step else obj


def check_change(resource: str, obj: Object, old: Object) -> list[Problem]:
    """Return what an update must not change."""
    step = _CHECK.get(resource)
    return list(step(obj, old)) if step else []


def check_sent(resource: str, obj: Object, old: Object | None) -> list[Problem]:
    """Return what a client must not send, though a hook may add it."""
    if resource == "pods" and old is None:
        return list(_check_proxy(obj["spec"], SPEC))
    if resource in _WORKLOADS:
        return list(_check_proxy(obj["spec"]["template"]["spec"], SPEC / "template" / "spec"))
    return []


def initial_status(resource: str) -> dict[str, Any] | None:
    """Return the status of a new object. None: it has none yet."""
    status = _INITIAL_STATUS.get(resource)
    return dict(status) if status is not None else None


_INITIAL_STATUS: Mapping[str, Mapping[str, Any]] = {
    "namespaces": {"phase": "Active"},
    "pods": {"phase": "Pending", "qosClass": "BestEffort"},
    "services": {"loadBalancer": {}},
    "deployments.apps": {},
    "replicasets.apps": {"replicas": 0},
}


def _namespace(obj: Object, old: Object | None) -> Object:
    spec = {**(obj.get("spec") or {})}
    if old is None:
        spec["finalizers"] = ["kubernetes"]
    elif old.get("spec", {}).get("finalizers"):
        spec["finalizers"] = old["spec"]["finalizers"]
    metadata = obj["metadata"]
    labels = {**(metadata.get("labels") or {})}
    if metadata.get("name"):
        labels[NAME_LABEL] = metadata["name"]
    return {**obj, "metadata": {**metadata, "labels": labels}, "spec": spec}


def _service(obj: Object, old: Object | None) -> Object:
    spec = {"sessionAffinity": "None", "type": "ClusterIP", **(obj.get("spec") or {})}
    spec["ports"] = [_service_port(port) for port in spec.get("ports") or ()]
    if not spec["ports"]:
        del spec["ports"]
    if spec["type"] != "ExternalName":
        spec = _with_address(spec, obj, (old or {}).get("spec") or {})
    return {**obj, "spec": spec}


def _service_port(port: Mapping[str, Any]) -> dict[str, Any]:
    completed = {"protocol": "TCP", **port}
    completed.setdefault("targetPort", port.get("port"))
    return completed


def _with_address(spec: dict[str, Any], obj: Object, old: Mapping[str, Any]) -> dict[str, Any]:
    """Give a Service the address that people expect to see.

    Nothing listens on it: a Service is reached through the gateway or a sidecar, as on a cluster
    seen from outside. It depends on the name alone, so it survives being deleted and made anew.
    """
    spec = {
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "internalTrafficPolicy": "Cluster",
        **spec,
    }
    metadata = obj["metadata"]
    address = spec.get("clusterIP") or old.get("clusterIP")
    if not address:
        name = f"{metadata.get('namespace')}/{metadata.get('name')}"
        number = int.from_bytes(sha256(name.encode()).digest()[:2])
        address = f"10.96.{number >> 8}.{max(1, number & 0xFF)}"
    return {**spec, "clusterIP": address, "clusterIPs": [address]}


def _secret(obj: Object, old: Object | None) -> Object:
    obj = {"type": "Opaque", **obj}
    written = obj.pop("stringData", None)
    if written:
        encoded = {key: base64.b64encode(text.encode()).decode() for key, text in written.items()}
        obj["data"] = {**(obj.get("data") or {}), **encoded}
    return obj


def _pod(obj: Object, old: Object | None) -> Object:
    return {**obj, "spec": _pod_spec(obj.get("spec") or {})}


def _pod_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    completed: dict[str, Any] = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "securityContext": {},
        "schedulerName": "default-scheduler",
        **spec,
    }
    for key in ("containers", "initContainers"):
        if key in spec:
            completed[key] = [_container(container) for container in spec[key] or ()]
    return completed


def _container(container: Mapping[str, Any]) -> dict[str, Any]:
    image = str(container.get("image", ""))
    tag = image.rpartition("/")[2].partition(":")[2]
    completed: dict[str, Any] = {
        "resources": {},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "IfNotPresent" if tag not in ("", "latest") else "Always",
        **container,
    }
    if "ports" in container:
        ports = container["ports"] or ()
        completed["ports"] = [{"protocol": "TCP", **port} for port in ports]
    for key in ("livenessProbe", "readinessProbe", "startupProbe"):
        if key in container:
            completed[key] = _probe(container[key])
    return completed


def _probe(probe: Mapping[str, Any]) -> dict[str, Any]:
    # Here 0 stands for a field that is left out.
    missing = {key: value for key, value in _PROBE_DEFAULTS.items() if not probe.get(key)}
    return {**probe, **missing}


_PROBE_DEFAULTS = {
    "timeoutSeconds": 1,
    "periodSeconds": 10,
    "successThreshold": 1,
    "failureThreshold": 3,
}


def _created_pod(obj: Object, old: Object | None) -> Object:
    obj = _pod(obj, old)
    spec = obj["spec"]
    account = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
    return {**obj, "spec": {**spec, "serviceAccountName": account, "serviceAccount": account}}


def _deployment(obj: Object, old: Object | None) -> Object:
    spec = {
        "replicas": 1,
        "revisionHistoryLimit": 10,
        "progressDeadlineSeconds": 600,
        **_without_null(obj.get("spec") or {}),
    }
    spec["strategy"] = strategy = {"type": "RollingUpdate", **(spec.get("strategy") or {})}
    if strategy["type"] == "RollingUpdate":
        strategy["rollingUpdate"] = {
            "maxSurge": "25%",
            "maxUnavailable": "25%",
            **(strategy.get("rollingUpdate") or {}),
        }
    return {**obj, "spec": _with_template(spec)}


def _replica_set(obj: Object, old: Object | None) -> Object:
    spec = {"replicas": 1, **_without_null(obj.get("spec") or {})}
    return {**obj, "spec": _with_template(spec)}


def _with_template(spec: dict[str, Any]) -> dict[str, Any]:
    template = spec.get("template") or {}
    return {**spec, "template": {**template, "spec": _pod_spec(template.get("spec") or {})}}


def _without_null(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if value is not None}


_COMPLETE: Mapping[str, Callable[[Object, Object | None], Object]] = {
    "namespaces": _namespace,
    "services": _service,
    "secrets": _secret,
    "pods": _created_pod,
    "deployments.apps": _deployment,
    "replicasets.apps": _replica_set,
}


def _check_proxy(spec: Mapping[str, Any], at: FieldPath) -> Iterator[Problem]:
    """Yield a problem for a sidecar that was not injected. Alone in its Pod it is a gateway."""
    many = len(spec["containers"]) > 1
    for key in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(key) or ()):
            if container["name"] == _PROXY and (many or key == "initContainers"):
                message = (
                    f"Forbidden: {_PROXY} is the name of the sidecar, which is injected here and"
                    " cannot be brought along"
                )
                fix = "Rename the container, or label the namespace istio-injection=enabled."
                yield Problem(at / key / index / "name", Reason.FORBIDDEN, message, fix)


def _check_service(obj: Object, old: Object) -> Iterator[Problem]:
    spec, before = obj["spec"], old.get("spec") or {}
    was = before.get("clusterIP")
    if was and before.get("type") == spec["type"] and spec.get("clusterIP") != was:
        yield _immutable(SPEC / "clusterIP", spec.get("clusterIP"))


def _check_data(obj: Object, old: Object) -> Iterator[Problem]:
    if old.get("immutable") is True:
        for key in ("data", "binaryData", "immutable"):
            if obj.get(key) != old.get(key):
                message = "Forbidden: field is immutable when `immutable` is set"
                yield Problem(FieldPath(key), Reason.FORBIDDEN, message, "Delete and recreate it.")
    if old.get("type") != obj.get("type"):
        yield _immutable(FieldPath("type"), obj.get("type"))


def _check_pod(obj: Object, old: Object) -> Iterator[Problem]:
    if _fixed_part(old["spec"]) != _fixed_part(obj["spec"]):
        yield Problem(
            SPEC,
            Reason.FORBIDDEN,
            "Forbidden: pod updates may not change fields other than"
            " `spec.containers[*].image`,`spec.initContainers[*].image`,"
            "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing"
            " tolerations),`spec.terminationGracePeriodSeconds`",
            "Delete the Pod and create it anew, or change its Deployment.",
        )


def _fixed_part(spec: Mapping[str, Any]) -> dict[str, Any]:
    fixed = {k: v for k, v in spec.items() if k not in _MUTABLE_IN_PODS and k != "nodeName"}
    for key in ("containers", "initContainers"):
        fixed[key] = [
            {k: v for k, v in container.items() if k not in ("image", "imagePullPolicy")}
            for container in spec.get(key) or ()
        ]
    return fixed


def _check_workload(obj: Object, old: Object) -> Iterator[Problem]:
    if old["spec"].get("selector") != obj["spec"].get("selector"):
        yield _immutable(SPEC / "selector", obj["spec"].get("selector"))


def _check_slice(obj: Object, old: Object) -> Iterator[Problem]:
    if old.get("addressType") != obj.get("addressType"):
        yield _immutable(FieldPath("addressType"), obj.get("addressType"))


_CHECK: Mapping[str, Callable[[Object, Object], Iterator[Problem]]] = {
    "services": _check_service,
    "secrets": _check_data,
    "configmaps": _check_data,
    "endpointslices.discovery.k8s.io": _check_slice,
    "pods": _check_pod,
    "deployments.apps": _check_workload,
    "replicasets.apps": _check_workload,
}


def _immutable(at: FieldPath, value: object) -> Problem:
    message = f"Invalid value: {value!r}: field is immutable"
    return Problem(at, Reason.INVALID, message, "Delete the object and create it anew.")


__all__ = ["NAME_LABEL", "check_change", "check_sent", "complete", "initial_status"]
