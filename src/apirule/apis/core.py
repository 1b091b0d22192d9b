"""Kubernetes' own kinds: the fields the mesh and the controllers read."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from apirule.apis.meta import Condition, GroupVersionKind, Object, Resource, Wire


class Namespace(Resource, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    gvk: ClassVar = GroupVersionKind("", "v1", "Namespace")


class ServicePort(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    port: int
    protocol: str = "TCP"
    target_port: int | str | None = None
    """The port of the Pod, by number or by the name of a container port; absent: ``port``."""
    app_protocol: str | None = None


class ServiceSpec(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    selector: dict[str, str] | None = None
    ports: tuple[ServicePort, ...] = ()
    type: str = "ClusterIP"
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    """``None`` as a word: the Service has none."""
    external_name: str = ""


class Service(Resource, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    gvk: ClassVar = GroupVersionKind("", "v1", "Service")
    spec: ServiceSpec = ServiceSpec()


class Secret(Resource, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    gvk: ClassVar = GroupVersionKind("", "v1", "Secret")
    type: str = "Opaque"
    data: dict[str, str] | None = None
    """Base64, as on the wire."""


class ConfigMap(Resource, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    gvk: ClassVar = GroupVersionKind("", "v1", "ConfigMap")
    data: dict[str, str] | None = None


class ContainerPort(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    container_port: int
    host_port: int = 0
    """Non-zero: the program listens on exactly this port of this machine."""
    protocol: str = "TCP"


class EnvVar(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str
    value: str = ""
    value_from: dict[str, Any] | None = None


class Container(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[EnvVar, ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    working_dir: str = ""
    readiness_probe: dict[str, Any] | None = None


class PodSpec(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    service_account_name: str = "default"
    restart_policy: str = "Always"
    termination_grace_period_seconds: int = 30


class PodStatus(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    phase: str = ""
    conditions: tuple[Condition, ...] = ()
    pod_ip: str = msgspec.field(default="", name="podIP")
    container_statuses: tuple[dict[str, Any], ...] = ()


class Pod(Resource, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    gvk: ClassVar = GroupVersionKind("", "v1", "Pod")
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


ENDED_PHASES = ("Succeeded", "Failed")


def has_ended(pod: Object) -> bool:
    """Say whether all programs of a Pod have ended for ever. One being deleted may still run."""
    return (pod.get("status") or {}).get("phase") in ENDED_PHASES


class EndpointConditions(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    ready: bool = True


class ObjectReference(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class Endpoint(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()
    target_ref: ObjectReference | None = None


class EndpointPort(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    port: int = 0
    protocol: str = "TCP"


class EndpointSlice(Resource, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Where a Service is served. Locally one slice per Pod, as Pods share one address."""

    gvk: ClassVar = GroupVersionKind("discovery.k8s.io", "v1", "EndpointSlice")
    address_type: str = "IPv4"
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()
