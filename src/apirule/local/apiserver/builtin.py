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
from apirule.local.apiserver.metadata import label_selector_matches
from apirule.problem import SPEC, FieldPath, Problem, Reason

NAME_LABEL = "kubernetes.io/metadata.name"

_MUTABLE_IN_PODS = frozenset(
    ("activeDeadlineSeconds", "terminationGracePeriodSeconds", "tolerations", "schedulingGates")
)


def complete(resource: str, obj: Object, old: Object | None) -> Object:
    """Return the object with what the API server fills in."""
    step = _COMPLETE.get(resource)
    return step(obj, old) if step else obj


def check(resource: str, obj: Object, old: Object | None) -> list[Problem]:
    """Return what the API server refuses beyond the schema."""
    step = _CHECK.get(resource)
    return list(step(obj, old)) if step else []


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
    return completed


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


def _check_service(obj: Object, old: Object | None) -> Iterator[Problem]:
    spec = obj["spec"]
    if not spec.get("ports") and spec["type"] != "ExternalName" and spec["clusterIP"] != "None":
        yield _required(SPEC / "ports", "List at least one port.")
    names: set[str] = set()
    pairs: set[tuple[str, int]] = set()
    many = len(spec.get("ports") or ()) > 1
    for index, port in enumerate(spec.get("ports") or ()):
        at = SPEC / "ports" / index
        name = port.get("name", "")
        if many and not name:
            yield _required(at / "name", "Name each port when there are several.")
        if name and name in names:
            yield _duplicate(at / "name", name, "Give each port its own name.")
        pair = (port["protocol"], port.get("port", 0))
        if pair in pairs:
            yield _duplicate(at, port.get("port"), "List each port once.")
        names.add(name)
        pairs.add(pair)
    was = ((old or {}).get("spec") or {}).get("clusterIP")
    kinds_same = old is not None and old["spec"].get("type") == spec["type"]
    if was and kinds_same and spec.get("clusterIP") != was:
        yield _immutable(SPEC / "clusterIP", spec.get("clusterIP"))


def _check_immutable_data(obj: Object, old: Object | None) -> Iterator[Problem]:
    if old is None:
        return
    if old.get("immutable") is True:
        for key in ("data", "binaryData", "immutable"):
            if obj.get(key) != old.get(key):
                message = "Forbidden: field is immutable when `immutable` is set"
                yield Problem(FieldPath(key), Reason.FORBIDDEN, message, "Delete and recreate it.")
    if old.get("type") != obj.get("type"):
        yield _immutable(FieldPath("type"), obj.get("type"))


def _check_pod(obj: Object, old: Object | None) -> Iterator[Problem]:
    if old is None:
        return
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


def _check_workload(obj: Object, old: Object | None) -> Iterator[Problem]:
    spec = obj["spec"]
    selector = spec.get("selector") or {}
    labels = (spec["template"].get("metadata") or {}).get("labels") or {}
    if not (selector.get("matchLabels") or selector.get("matchExpressions")):
        message = "Invalid value: {}: empty selector is invalid for deployment"
        yield Problem(SPEC / "selector", Reason.INVALID, message, "Select the template's labels.")
    elif not label_selector_matches(selector, labels):
        at = SPEC / "template" / "metadata" / "labels"
        message = f"Invalid value: {labels}: `selector` does not match template `labels`"
        yield Problem(at, Reason.INVALID, message, "Give the template the labels selected.")
    if old is not None and old["spec"].get("selector") != selector:
        yield _immutable(SPEC / "selector", selector)
    policy = spec["template"]["spec"].get("restartPolicy")
    if policy != "Always":
        at = SPEC / "template" / "spec" / "restartPolicy"
        message = f'Unsupported value: "{policy}": supported values: "Always"'
        yield Problem(at, Reason.NOT_SUPPORTED, message, "Leave restartPolicy out.")


_CHECK: Mapping[str, Callable[[Object, Object | None], Iterator[Problem]]] = {
    "services": _check_service,
    "secrets": _check_immutable_data,
    "configmaps": _check_immutable_data,
    "pods": _check_pod,
    "deployments.apps": _check_workload,
    "replicasets.apps": _check_workload,
}


def _required(at: FieldPath, fix: str) -> Problem:
    return Problem(at, Reason.REQUIRED, "Required value", fix)


def _duplicate(at: FieldPath, value: object, fix: str) -> Problem:
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return Problem(at, Reason.DUPLICATE, f"Duplicate value: {shown}", fix)


def _immutable(at: FieldPath, value: object) -> Problem:
    message = f"Invalid value: {value!r}: field is immutable"
    return Problem(at, Reason.INVALID, message, "Delete the object and create it anew.")


__all__ = ["NAME_LABEL", "check", "complete", "initial_status"]
