"""What Kubernetes does with its own kinds beyond their schema: completes them, and what may change.

A table by resource of functions from objects to objects and to problems. Nothing is changed in
place: the parts of an object may be shared with schema defaults.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from apirule.apis.meta import Object
from apirule.local.apiserver import services
from apirule.local.apiserver.metadata import immutable
from apirule.problem import SPEC, FieldPath, Problem, Reason

NAME_LABEL = "kubernetes.io/metadata.name"

_PROXY = "istio-proxy"
_WORKLOADS = frozenset(("deployments.apps", "replicasets.apps"))

_MUTABLE_IN_PODS = frozenset(
    ("activeDeadlineSeconds", "terminationGracePeriodSeconds", "tolerations", "schedulingGates")
)


def prepare(resource: str, obj: Object, old: Object | None) -> Object:
    """Return an object as the client means it, before it is looked at."""
    if resource == services.RESOURCE and old is not None:
        return services.without_old_type(obj, old)
    return obj


def has_defaults(resource: str) -> bool:
    return resource in _DEFAULTS


def with_defaults(resource: str, obj: Object) -> Object:
    """Return a stored object with the defaults that its kind has by now."""
    step = _DEFAULTS.get(resource)
    return step(obj) if step else obj


def complete(
    resource: str, obj: Object, old: Object | None, others: Callable[[], Iterable[Object]]
) -> Object:
    """Return the object with what the API server fills in; ``others`` are those of its kind."""
    if resource == services.RESOURCE:
        return services.complete(obj, old, services.Taken.of(others()))
    step = _COMPLETE.get(resource)
    return step(obj, old) if step else with_defaults(resource, obj)


def check(
    resource: str, obj: Object, old: Object | None, others: Callable[[], Iterable[Object]]
) -> list[Problem]:
    """Return what an update must not change, and what of the object another one has."""
    found: list[Problem] = []
    if resource == services.RESOURCE:
        found += services.check(obj, old, services.Taken.of(others()))
    if old is not None and resource in _CHECK:
        found += _CHECK[resource](obj, old)
    return found


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


def _secret(obj: Object, old: Object | None) -> Object:
    obj = {"type": "Opaque", **obj}
    written = obj.pop("stringData", None)
    if written:
        encoded = {key: base64.b64encode(text.encode()).decode() for key, text in written.items()}
        obj["data"] = {**(obj.get("data") or {}), **encoded}
    return obj


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


def _pod(obj: Object) -> Object:
    spec = _pod_spec(obj.get("spec") or {})
    account = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
    return {**obj, "spec": {**spec, "serviceAccountName": account, "serviceAccount": account}}


def _deployment(obj: Object) -> Object:
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


def _replica_set(obj: Object) -> Object:
    spec = {"replicas": 1, **_without_null(obj.get("spec") or {})}
    return {**obj, "spec": _with_template(spec)}


def _with_template(spec: dict[str, Any]) -> dict[str, Any]:
    template = spec.get("template") or {}
    return {**spec, "template": {**template, "spec": _pod_spec(template.get("spec") or {})}}


def _without_null(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if value is not None}


# What depends on the object alone, so that it can be done again to what an older version stored.
_DEFAULTS: Mapping[str, Callable[[Object], Object]] = {
    "pods": _pod,
    "deployments.apps": _deployment,
    "replicasets.apps": _replica_set,
    services.RESOURCE: services.with_defaults,
}

_COMPLETE: Mapping[str, Callable[[Object, Object | None], Object]] = {
    "namespaces": _namespace,
    "secrets": _secret,
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


def _check_data(obj: Object, old: Object) -> Iterator[Problem]:
    if old.get("immutable") is True:
        for key in ("data", "binaryData", "immutable"):
            if obj.get(key) != old.get(key):
                message = "Forbidden: field is immutable when `immutable` is set"
                yield Problem(FieldPath(key), Reason.FORBIDDEN, message, "Delete and recreate it.")
    if old.get("type") != obj.get("type"):
        yield immutable(FieldPath("type"), obj.get("type"))


def _check_pod(obj: Object, old: Object) -> Iterator[Problem]:
    fixed, now = _fixed_part(old["spec"]), _fixed_part(obj["spec"])
    if "nodeName" not in fixed:
        # That it is on a node is said once.
        now.pop("nodeName", None)
    if fixed != now:
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
    fixed = {k: v for k, v in spec.items() if k not in _MUTABLE_IN_PODS}
    for key in ("containers", "initContainers"):
        fixed[key] = [
            {k: v for k, v in container.items() if k not in ("image", "imagePullPolicy")}
            for container in spec.get(key) or ()
        ]
    return fixed


def _check_workload(obj: Object, old: Object) -> Iterator[Problem]:
    if old["spec"].get("selector") != obj["spec"].get("selector"):
        yield immutable(SPEC / "selector", obj["spec"].get("selector"))


def _check_slice(obj: Object, old: Object) -> Iterator[Problem]:
    if old.get("addressType") != obj.get("addressType"):
        yield immutable(FieldPath("addressType"), obj.get("addressType"))


_CHECK: Mapping[str, Callable[[Object, Object], Iterator[Problem]]] = {
    "services": services.check_change,
    "secrets": _check_data,
    "configmaps": _check_data,
    "endpointslices.discovery.k8s.io": _check_slice,
    "pods": _check_pod,
    "deployments.apps": _check_workload,
    "replicasets.apps": _check_workload,
}


__all__ = [
    "NAME_LABEL",
    "check",
    "check_sent",
    "complete",
    "has_defaults",
    "initial_status",
    "prepare",
    "with_defaults",
]
