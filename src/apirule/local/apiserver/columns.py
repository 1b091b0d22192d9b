"""The columns of the built-in kinds: name, what stands in it, and 1 for those of ``-o wide``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from apirule.apis.meta import Object
from apirule.local.apiserver import pod_columns
from apirule.local.apiserver.ages import UNKNOWN, age
from apirule.local.apiserver.http import encode

NONE = "<none>"

Cell = Callable[[Object, datetime], Any]
Row = tuple[str, Cell, int]

_SHOWN_ENDPOINTS = 3


def text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return encode(value).decode()


def name(obj: Object, now: datetime) -> str:
    return str(obj["metadata"]["name"])


def created(obj: Object, now: datetime) -> str:
    return age(obj["metadata"].get("creationTimestamp"), now)


def _at(*path: str, default: Any = None) -> Cell:
    def cell(obj: Object, now: datetime) -> Any:
        value: Any = obj
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        return default if value is None else value

    return cell


def _size(*keys: str) -> Cell:
    return lambda obj, now: sum(len(obj.get(key) or ()) for key in keys)


def _service_ports(obj: Object, now: datetime) -> str:
    def shown(port: Mapping[str, Any]) -> str:
        node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
        return f"{port.get('port')}{node_port}/{port.get('protocol', 'TCP')}"

    return _joined(shown(port) for port in (obj.get("spec") or {}).get("ports") or ())


def _external_address(obj: Object, now: datetime) -> str:
    spec = obj.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return str(spec.get("externalName", NONE))
    balancer = (obj.get("status") or {}).get("loadBalancer") or {}
    found = [
        *(spec.get("externalIPs") or ()),
        *(given.get("ip") or given.get("hostname") for given in balancer.get("ingress") or ()),
    ]
    if not found and spec.get("type") == "LoadBalancer":
        return "<pending>"
    return _joined(found)


def _of(parts: Iterable[str]) -> Callable[[Object], Any]:
    def find(obj: Object) -> Any:
        value: Any = obj
        for part in parts:
            value = value.get(part) if isinstance(value, dict) else None
        return value

    return find


def _labels(*path: str) -> Cell:
    find = _of(path)
    return lambda obj, now: _joined(f"{k}={v}" for k, v in (find(obj) or {}).items())


def _containers(key: str) -> Cell:
    find = _of(("spec", "template", "spec", "containers"))
    return lambda obj, now: _joined(str(c.get(key, "")) for c in find(obj) or ())


def _deployment_ready(obj: Object, now: datetime) -> str:
    ready = (obj.get("status") or {}).get("readyReplicas", 0)
    return f"{ready}/{(obj.get('spec') or {}).get('replicas', 1)}"


def _event_seen(obj: Object, now: datetime) -> str:
    series = obj.get("series") or {}
    moment = obj.get("lastTimestamp") or series.get("lastObservedTime") or obj.get("eventTime")
    seen = age(moment or obj["metadata"].get("creationTimestamp"), now)
    first = _event_first(obj, now)
    count = obj.get("count") or series.get("count") or 1
    return f"{seen} (x{count} over {first})" if count > 1 and first != UNKNOWN else seen


def _event_first(obj: Object, now: datetime) -> str:
    return age(obj.get("firstTimestamp") or obj.get("eventTime"), now)


def _event_object(obj: Object, now: datetime) -> str:
    involved = obj.get("involvedObject") or {}
    return f"{str(involved.get('kind', '')).lower()}/{involved.get('name', '')}"


def _event_source(obj: Object, now: datetime) -> str:
    source = obj.get("source") or {}
    parts = (source.get("component") or obj.get("reportingComponent"), source.get("host"))
    return ", ".join(part for part in parts if part)


def _endpoints(obj: Object, now: datetime) -> str:
    found = [
        f"{address.get('ip')}:{port.get('port')}"
        for subset in obj.get("subsets") or ()
        for address in subset.get("addresses") or ()
        for port in subset.get("ports") or ()
    ]
    return _shortened(found)


def _slice_endpoints(obj: Object, now: datetime) -> str:
    found = [a for e in obj.get("endpoints") or () for a in e.get("addresses") or ()]
    return _shortened(found) if found else "<unset>"


def _slice_ports(obj: Object, now: datetime) -> str:
    ports = [str(port.get("port", "*")) for port in obj.get("ports") or ()]
    return _joined(ports) if ports else "<unset>"


def _shortened(found: list[str]) -> str:
    shown = _joined(found[:_SHOWN_ENDPOINTS])
    more = len(found) - _SHOWN_ENDPOINTS
    return f"{shown} + {more} more..." if more > 0 else shown


def _joined(parts: Iterable[Any]) -> str:
    return ",".join(str(part) for part in parts) or NONE


_NAME: Row = ("Name", name, 0)
_AGE: Row = ("Age", created, 0)

_WORKLOAD: tuple[Row, ...] = (
    ("Containers", _containers("name"), 1),
    ("Images", _containers("image"), 1),
    ("Selector", _labels("spec", "selector", "matchLabels"), 1),
)

SCALE: tuple[Row, ...] = (
    _NAME,
    ("Desired", _at("spec", "replicas", default=0), 0),
    ("Available", _at("status", "replicas", default=0), 0),
    _AGE,
)

BUILTIN: Mapping[str, tuple[Row, ...]] = {
    "namespaces": (_NAME, ("Status", _at("status", "phase", default=""), 0), _AGE),
    "pods": (
        _NAME,
        ("Ready", pod_columns.ready, 0),
        ("Status", pod_columns.status, 0),
        ("Restarts", pod_columns.restarts, 0),
        _AGE,
        ("IP", _at("status", "podIP", default=NONE), 1),
        ("Node", _at("spec", "nodeName", default=NONE), 1),
        ("Nominated Node", _at("status", "nominatedNodeName", default=NONE), 1),
        ("Readiness Gates", lambda obj, now: NONE, 1),
    ),
    "services": (
        _NAME,
        ("Type", _at("spec", "type", default=""), 0),
        ("Cluster-IP", _at("spec", "clusterIP", default=NONE), 0),
        ("External-IP", _external_address, 0),
        ("Port(s)", _service_ports, 0),
        _AGE,
        ("Selector", _labels("spec", "selector"), 1),
    ),
    "deployments.apps": (
        _NAME,
        ("Ready", _deployment_ready, 0),
        ("Up-to-date", _at("status", "updatedReplicas", default=0), 0),
        ("Available", _at("status", "availableReplicas", default=0), 0),
        _AGE,
        *_WORKLOAD,
    ),
    "replicasets.apps": (
        _NAME,
        ("Desired", _at("spec", "replicas", default=0), 0),
        ("Current", _at("status", "replicas", default=0), 0),
        ("Ready", _at("status", "readyReplicas", default=0), 0),
        _AGE,
        *_WORKLOAD,
    ),
    "secrets": (_NAME, ("Type", _at("type", default=""), 0), ("Data", _size("data"), 0), _AGE),
    "configmaps": (_NAME, ("Data", _size("data", "binaryData"), 0), _AGE),
    "serviceaccounts": (_NAME, ("Secrets", _size("secrets"), 0), _AGE),
    "events": (
        ("Last Seen", _event_seen, 0),
        ("Type", _at("type", default=""), 0),
        ("Reason", _at("reason", default=""), 0),
        ("Object", _event_object, 0),
        ("Subobject", _at("involvedObject", "fieldPath", default=""), 1),
        ("Source", _event_source, 1),
        ("Message", lambda obj, now: str(obj.get("message", "")).strip(), 0),
        ("First Seen", _event_first, 1),
        ("Count", _at("count", default=1), 1),
        ("Name", name, 1),
    ),
    "endpoints": (_NAME, ("Endpoints", _endpoints, 0), _AGE),
    "endpointslices.discovery.k8s.io": (
        _NAME,
        ("AddressType", _at("addressType", default=""), 0),
        ("Ports", _slice_ports, 0),
        ("Endpoints", _slice_endpoints, 0),
        _AGE,
    ),
    "leases.coordination.k8s.io": (
        _NAME,
        ("Holder", _at("spec", "holderIdentity", default=""), 0),
        _AGE,
    ),
    "customresourcedefinitions.apiextensions.k8s.io": (
        _NAME,
        ("Created At", _at("metadata", "creationTimestamp", default=""), 0),
    ),
}
