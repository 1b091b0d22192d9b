"""Where the ports of a Pod are on this machine, and the annotations that say so.

The annotations are the only memory: after a restart of the control plane a Pod is found where it
was. Allocated ports lie below the range that the kernel gives to outgoing connections, so that no
connection can take one while its program is restarted.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec

from apirule import names
from apirule.apis import core
from apirule.local.processes import listening
from apirule.mesh.proxy import (
    ADMIN_ANNOTATION,
    OUTBOUND_ANNOTATION,
    PORTS_ANNOTATION,
    PROXY_CONTAINER,
    UNIX,
    has_proxy,
    ports_of,
)
from apirule.problem import SetupError

LOOPBACK = "127.0.0.1"
STATUS_ANNOTATION = "sidecar.istio.io/status"
FIRST, LAST = 20_000, 32_000
_TRIES = 2_000


class Place(msgspec.Struct, frozen=True):
    """One container port: where its program listens, and its sidecar (0: there is none)."""

    port: int
    app: str
    sidecar: int = 0


class Placement(msgspec.Struct, frozen=True):
    """Where a Pod is. ``outbound`` 0 and ``admin`` "" mean that there is no such proxy."""

    places: tuple[Place, ...]
    outbound: int = 0
    admin: str = ""

    def app(self, port: int) -> str | None:
        return next((place.app for place in self.places if place.port == port), None)

    def annotations(self) -> dict[str, str]:
        ports = [
            {"port": place.port, "app": place.app}
            | ({"sidecar": place.sidecar} if place.sidecar else {})
            for place in self.places
        ]
        annotations = {PORTS_ANNOTATION: json.dumps(ports)}
        if self.outbound:
            annotations[OUTBOUND_ANNOTATION] = str(self.outbound)
        if self.admin:
            annotations[ADMIN_ANNOTATION] = self.admin
        return annotations

    @property
    def allocated(self) -> set[int]:
        """The ports that nobody but us chose."""
        ports = {place.sidecar for place in self.places} | {self.outbound}
        ports |= {port for place in self.places if (port := tcp_port(place.app))}
        return {port for port in ports if FIRST <= port < LAST}


class Allocator:
    """Hands out loopback ports, none twice while the first owner has it."""

    def __init__(self, *, is_free: Callable[[int], bool] | None = None) -> None:
        self._is_free = is_free or is_free_port
        self._taken: set[int] = set()

    def take(self) -> int:
        for _ in range(_TRIES):
            port = random.randrange(FIRST, LAST)  # noqa: S311 - spreads, hides nothing
            if port not in self._taken and self._is_free(port):
                self._taken.add(port)
                return port
        raise SetupError(
            f"No loopback port between {FIRST} and {LAST} is free.",
            "Stop workloads that are not needed.",
        )

    def keep(self, placement: Placement) -> None:
        self._taken |= placement.allocated

    def release(self, placement: Placement) -> None:
        self._taken -= placement.allocated


def place(
    pod: core.Pod, run: Path, allocator: Allocator, *, on_sockets: Collection[str]
) -> Placement:
    """Choose where a Pod goes. ``on_sockets`` are the containers that can listen on a socket."""
    sidecar = is_injected(pod)
    places = []
    for container in pod.spec.containers:
        for port in container.ports:
            if port.protocol != "TCP" or (sidecar and container.name == PROXY_CONTAINER):
                continue
            if port.host_port or container.name == PROXY_CONTAINER:
                app = f"{LOOPBACK}:{port.host_port or port.container_port}"
            elif container.name in on_sockets:
                app = f"{UNIX}{socket_of(pod, run, str(port.container_port))}"
            else:
                app = f"{LOOPBACK}:{allocator.take()}"
            places.append(Place(port.container_port, app, allocator.take() if sidecar else 0))
    admin = f"{UNIX}{socket_of(pod, run, 'admin')}" if has_proxy(pod) else ""
    return Placement(tuple(places), allocator.take() if sidecar else 0, admin)


def read(pod: core.Pod) -> Placement | None:
    """Return where a Pod was put before; None when it was not, or is another by now."""
    if PORTS_ANNOTATION not in pod.annotations:
        return None
    try:
        places = tuple(Place(p.port, p.app, p.listen) for p in ports_of(pod))
        outbound = int(pod.annotations.get(OUTBOUND_ANNOTATION, "0"))
    except (ValueError, KeyError, TypeError):
        return None  # somebody else wrote them
    admin = pod.annotations.get(ADMIN_ANNOTATION, "")
    sidecar = is_injected(pod)
    wanted = {
        port.container_port
        for container in pod.spec.containers
        for port in container.ports
        if port.protocol == "TCP" and not (sidecar and container.name == PROXY_CONTAINER)
    }
    complete = (
        {found.port for found in places} == wanted
        and bool(outbound) == sidecar
        and bool(admin) == has_proxy(pod)
    )
    return Placement(places, outbound, admin) if complete else None


def is_injected(pod: core.Pod) -> bool:
    """Say whether the proxy of a Pod is a sidecar. A gateway has nothing beside it."""
    return has_proxy(pod) and (len(pod.spec.containers) > 1 or bool(pod.spec.init_containers))


def host_ports(pod: core.Pod) -> set[int]:
    ports = (port for container in pod.spec.containers for port in container.ports)
    return {port.host_port for port in ports if port.host_port}


def socket_of(pod: core.Pod, run: Path, purpose: str) -> Path:
    """Return a path that is short, and another one for a Pod that is created anew."""
    return run / "a" / f"{names.digest(str(pod.object_name), pod.metadata.uid, purpose)}.sock"


def tcp_port(address: str) -> int:
    """Return the port of ``127.0.0.1:port``; 0 for a unix socket."""
    return 0 if address.startswith(UNIX) else int(address.rpartition(":")[2])


def is_free_port(port: int) -> bool:
    """Say whether a program could listen there now."""
    return listening.bind_error(port) is None


def why_not_free(port: int) -> str:
    """Return why no program can listen there now, and what to do; "" if one can."""
    match listening.bind_error(port):
        case None:
            return ""
        case PermissionError():
            return f"Port {port} is open to root only: choose one above 1023."
        case _:
            return (
                f"Another program of this machine listens on port {port}: stop it, or choose "
                "another port."
            )
