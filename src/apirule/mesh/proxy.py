"""Gateway or sidecar: what the engine must know of one proxy, read from its Pod."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from enum import StrEnum

import msgspec

from apirule import names
from apirule.apis import core
from apirule.names import ObjectName

PROXY_CONTAINER = "istio-proxy"
PORTS_ANNOTATION = "apirule.local/ports"
OUTBOUND_ANNOTATION = "apirule.local/outbound"
ADMIN_ANNOTATION = "apirule.local/admin"
UNIX = "unix:"
"""Prefix of an address that is a unix socket."""
MAX_PORT = 65535


class Role(StrEnum):
    GATEWAY = "gateway"
    SIDECAR = "sidecar"


class InboundPort(msgspec.Struct, frozen=True):
    """One port of a workload: ``port`` in the Pod, ``listen`` at the sidecar, ``app`` behind it."""

    port: int
    app: str
    """``127.0.0.1:41873`` or ``unix:/path``."""
    listen: int
    """Loopback port of the sidecar's inbound listener; 0 when there is no sidecar."""


class Proxy(msgspec.Struct, frozen=True):
    """``listen`` of a gateway maps each container port to the port it binds on this machine."""

    name: ObjectName
    role: Role
    service_account: str
    labels: Mapping[str, str]
    inbound: tuple[InboundPort, ...] = ()
    outbound_port: int | None = None
    listen: Mapping[int, int] = msgspec.field(default_factory=dict)

    @property
    def node_id(self) -> str:
        return str(self.name)

    @property
    def spiffe_id(self) -> str:
        return names.spiffe_id(self.name.namespace, self.service_account)


def ports_of(pod: core.Pod) -> tuple[InboundPort, ...]:
    """Read where the kubelet put the ports of a Pod; empty before it has.

    Raises ValueError: the annotation is somebody else's work.
    """
    text = pod.annotations.get(PORTS_ANNOTATION, "[]")
    try:
        ports = json.loads(text)
        return tuple(
            InboundPort(
                _port(p["port"]), _application(p["app"]), _port(p.get("sidecar", 0), or_none=True)
            )
            for p in ports
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"the annotation {PORTS_ANNOTATION} cannot be read: {error}") from None


def _port(value: object, *, or_none: bool = False) -> int:
    lowest = 0 if or_none else 1
    if not isinstance(value, int) or not lowest <= value <= MAX_PORT:
        raise ValueError(f"{value!r} is not a port")
    return value


def _application(value: str) -> str:
    """Check where an application listens: ``unix:/path``, or an address with a port."""
    if value.startswith(f"{UNIX}/"):
        return value
    address, _, port = value.rpartition(":")
    ipaddress.ip_address(address.strip("[]"))
    _port(int(port))
    return value


def has_proxy(pod: core.Pod) -> bool:
    containers = (*pod.spec.init_containers, *pod.spec.containers)
    return any(container.name == PROXY_CONTAINER for container in containers)


def proxy_of(pod: core.Pod) -> Proxy | None:
    """Return the proxy of a Pod. A Pod whose only container is the proxy is a gateway.

    Raises ValueError where ports or annotations of the Pod cannot be meant.
    """
    if not has_proxy(pod):
        return None
    identity = pod.spec.service_account_name or "default"
    if len(pod.spec.containers) == 1 and not pod.spec.init_containers:
        ports = pod.spec.containers[0].ports
        listen = {
            _port(port.container_port): _port(port.host_port or port.container_port)
            for port in ports
        }
        return Proxy(pod.object_name, Role.GATEWAY, identity, pod.labels, listen=listen)
    outbound = pod.annotations.get(OUTBOUND_ANNOTATION)
    return Proxy(
        pod.object_name,
        Role.SIDECAR,
        identity,
        pod.labels,
        inbound=ports_of(pod),
        outbound_port=_port(int(outbound)) if outbound else None,
    )
