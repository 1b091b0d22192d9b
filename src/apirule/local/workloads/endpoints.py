"""The EndpointSlice controller: where each Service is served.

All Pods share 127.0.0.1, and a slice has one set of ports for all of its addresses; so there is
one slice for each Pod of a Service. Services without a selector are left alone: others write
their slices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import anyio
from anyio.abc import TaskStatus

from apirule import names
from apirule.apis import core
from apirule.apis.meta import GroupVersionKind, Object
from apirule.kube.client import Client
from apirule.kube.controller import DONE, Controller, ControllerMetrics, Result, Source
from apirule.kube.errors import NoKindMatch, NotFound
from apirule.kube.informer import Delta, Informers, label_index, name_of
from apirule.local.processes.containers import complete, typed
from apirule.local.processes.ports import LOOPBACK, Place, Placement, read, tcp_port
from apirule.local.workloads.deployment import owner_reference
from apirule.local.workloads.replicaset import ready_since
from apirule.mesh.proxy import UNIX
from apirule.mesh.snapshot import APP_ANNOTATION, SERVICE_NAME_LABEL
from apirule.names import ObjectName

SERVICE = core.Service.gvk
POD = core.Pod.gvk
SLICE = core.EndpointSlice.gvk
ENDPOINTS = GroupVersionKind("", "v1", "Endpoints")

MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"
MANAGER = "apirule-endpoints"


class EndpointSlices:
    def __init__(
        self,
        client: Client,
        informers: Informers,
        *,
        metrics: ControllerMetrics | None = None,
    ) -> None:
        self._client = client
        self._services = informers.of(SERVICE)
        self._pods = informers.of(POD)
        self._slices = informers.of(SLICE)
        self._slices.add_index("service", label_index(SERVICE_NAME_LABEL))
        self._legacy: dict[ObjectName, Object] = {}
        self._controller = Controller(
            "endpoints",
            self._reconcile,
            [
                Source(self._services),
                Source(self._pods, self._selecting),
                Source(self._slices, _service_of),
            ],
            base_delay_s=0.1,
            max_delay_s=30.0,
            metrics=metrics,
        )

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        await self._controller.run(task_status=task_status)

    def _selecting(self, delta: Delta) -> Iterable[ObjectName]:
        """Return the Services that select a Pod, as it was or as it is."""
        namespace = name_of(delta.current).namespace
        forms = [pod["metadata"].get("labels") or {} for pod in delta if pod is not None]
        for service in self._services:
            if service["metadata"]["namespace"] == namespace:
                selector = (service.get("spec") or {}).get("selector") or {}
                if any(_selects(selector, labels) for labels in forms):
                    yield name_of(service)

    async def _reconcile(self, name: ObjectName) -> Result:
        service = self._services.get(name)
        present = {
            name_of(piece): piece
            for piece in self._slices.by_index("service", name.name)
            if name_of(piece).namespace == name.namespace and _is_ours(piece)
        }
        selector = ((service or {}).get("spec") or {}).get("selector")
        pods = self._pods_of(name.namespace, selector) if service and selector else []
        wanted = {
            name_of(piece): piece
            for pod in pods
            if service is not None and (piece := slice_of(service, pod)) is not None
        }
        for piece_name, piece in wanted.items():
            if not _same(present.get(piece_name), piece):
                await self._client.apply(piece, field_manager=MANAGER)
        for piece_name, piece in present.items():
            if piece_name not in wanted:
                await self._remove(SLICE, piece_name, piece["metadata"]["uid"])
        if service is not None and selector:
            await self._write_legacy(service, list(wanted.values()))
        else:
            self._legacy.pop(name, None)
        return DONE

    def _pods_of(self, namespace: str, selector: Mapping[str, str]) -> list[Object]:
        return [
            pod
            for pod in self._pods
            if pod["metadata"]["namespace"] == namespace
            and _selects(selector, pod["metadata"].get("labels") or {})
            and not core.has_ended(pod)
        ]

    async def _remove(self, kind: GroupVersionKind, name: ObjectName, uid: str) -> None:
        try:
            await self._client.delete(kind, name, uid=uid)
        except NotFound:
            return

    async def _write_legacy(self, service: Object, slices: list[Object]) -> None:
        """Write the Endpoints object that kubectl before 1.31 describes a Service by."""
        wanted = endpoints_of(service, slices)
        name = name_of(service)
        if self._legacy.get(name) == wanted:
            return
        try:
            await self._client.apply(wanted, field_manager=MANAGER)
        except NoKindMatch:
            return  # not served: newer clients do not ask for it
        self._legacy[name] = wanted


def slice_of(service: Object, pod: Object) -> Object | None:
    """Return the slice for one Pod. None: the Pod has no place on this machine yet."""
    pod = complete(pod)
    readable = typed(pod)
    placement = read(readable) if readable else None
    if placement is None:
        return None
    meta, pod_meta = service["metadata"], pod["metadata"]
    pairs = list(_ports(service, pod, placement))
    ready = ready_since(pod) is not None or bool(service["spec"].get("publishNotReadyAddresses"))
    terminating = bool(pod_meta.get("deletionTimestamp"))
    slice_: Object = {
        "apiVersion": SLICE.api_version,
        "kind": SLICE.kind,
        "metadata": {
            "name": f"{meta['name']}-{names.digest(meta['uid'], pod_meta['uid'])}",
            "namespace": meta["namespace"],
            "labels": {SERVICE_NAME_LABEL: meta["name"], MANAGED_BY_LABEL: MANAGER},
            "ownerReferences": [owner_reference({**service, **_type(SERVICE)})],
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [LOOPBACK],
                "conditions": {
                    "ready": ready and not terminating,
                    "serving": ready,
                    "terminating": terminating,
                },
                "targetRef": {
                    "kind": "Pod",
                    "namespace": pod_meta["namespace"],
                    "name": pod_meta["name"],
                    "uid": pod_meta["uid"],
                },
            }
        ],
        "ports": [port for port, _ in pairs],
    }
    sockets = [place.app for _, place in pairs if not place.sidecar and place.app.startswith(UNIX)]
    if sockets:
        slice_["metadata"]["annotations"] = {APP_ANNOTATION: sockets[0]}
    return slice_


def endpoints_of(service: Object, slices: Iterable[Object]) -> Object:
    """Return the same as one Endpoints object: a subset for each Pod, as their ports differ."""
    subsets = []
    for piece in slices:
        endpoint = piece["endpoints"][0]
        field = "addresses" if endpoint["conditions"]["ready"] else "notReadyAddresses"
        address = {"ip": LOOPBACK, "targetRef": endpoint["targetRef"]}
        if piece["ports"]:
            subsets.append({field: [address], "ports": piece["ports"]})
    return {
        "apiVersion": ENDPOINTS.api_version,
        "kind": ENDPOINTS.kind,
        "metadata": {
            "name": service["metadata"]["name"],
            "namespace": service["metadata"]["namespace"],
            "ownerReferences": [owner_reference({**service, **_type(SERVICE)})],
        },
        "subsets": subsets,
    }


def _ports(
    service: Object, pod: Object, placement: Placement
) -> Iterator[tuple[dict[str, Any], Place]]:
    """Yield each port of the Service that this Pod serves, and where it does."""
    for port in service["spec"].get("ports") or []:
        number = _target(port, pod)
        for place in placement.places:
            if place.port == number:
                # A unix socket has no number: the annotation says where it is.
                found = place.sidecar or tcp_port(place.app) or place.port
                named = {"name": port["name"]} if port.get("name") else {"name": ""}
                yield {**named, "port": found, "protocol": "TCP"}, place


def _target(port: Mapping[str, Any], pod: Object) -> int | None:
    """Return the port of the Pod that a Service port means; a name is one of a container port."""
    target = port.get("targetPort") or port["port"]
    if isinstance(target, int):
        return target
    for container in pod["spec"]["containers"]:
        for declared in container.get("ports") or []:
            if declared.get("name") == target:
                return int(declared["containerPort"])
    return int(target) if str(target).isdecimal() else None


def _same(present: Object | None, wanted: Object) -> bool:
    """Compare what we write; the rest of the object is the API server's."""
    if present is None:
        return False
    meta = present["metadata"]
    return (
        present.get("endpoints") == wanted["endpoints"]
        and (present.get("ports") or []) == wanted["ports"]
        and (meta.get("annotations") or {}) == (wanted["metadata"].get("annotations") or {})
        and (meta.get("labels") or {}) == wanted["metadata"]["labels"]
    )


def _is_ours(piece: Object) -> bool:
    return (piece["metadata"].get("labels") or {}).get(MANAGED_BY_LABEL) == MANAGER


def _service_of(delta: Delta) -> Iterable[ObjectName]:
    piece = delta.current
    if _is_ours(piece):
        service = piece["metadata"]["labels"].get(SERVICE_NAME_LABEL, "")
        yield ObjectName(piece["metadata"]["namespace"], service)


def _selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def _type(gvk: GroupVersionKind) -> dict[str, str]:
    return {"apiVersion": gvk.api_version, "kind": gvk.kind}
