"""What a VirtualService sends requests to: Service, port, and the name of their cluster."""

from __future__ import annotations

from dataclasses import dataclass

from apirule import names
from apirule.apis import core, networking
from apirule.mesh.snapshot import Snapshot
from apirule.names import ObjectName
from apirule.problem import FieldPath, Problem, Reason


@dataclass(frozen=True, slots=True)
class Upstream:
    """``service`` is None for one that does not exist: its cluster is not there, Envoy says 503."""

    cluster: str
    service: ObjectName | None
    port: int
    problem: Problem | None = None


def cluster_name(host: str, port: int) -> str:
    return f"outbound|{port}||{host}"


def inbound_cluster_name(port: int) -> str:
    return f"inbound|{port}||"


def resolve(snapshot: Snapshot, destination: networking.Destination, *, namespace: str) -> Upstream:
    """Find the Service port a destination means. Without a port, a Service must have just one.

    The place of a problem is relative to the destination.
    """
    service = snapshot.service(destination.host, namespace)
    number = destination.port.number if destination.port else 0
    if service is None:
        return Upstream(
            cluster_name(destination.host, number),
            None,
            number,
            _unknown_host(destination.host, namespace),
        )
    host = names.service_host(service.object_name)
    ports = [port.port for port in service.spec.ports]
    if not number and len(ports) == 1:
        number = ports[0]
    if number not in ports:
        named = f"port {number}" if number else "no port"
        return Upstream(
            cluster_name(host, number),
            None,
            number,
            Problem(
                FieldPath("port", "number"),
                Reason.NOT_FOUND,
                f"The destination names {named}, Service {service.object_name} has "
                f"{_listed(ports)}.",
                "Use a port of the Service.",
            ),
        )
    return Upstream(cluster_name(host, number), service.object_name, number)


def port_of(service: core.Service, number: int) -> core.ServicePort | None:
    return next((port for port in service.spec.ports if port.port == number), None)


def _unknown_host(host: str, namespace: str) -> Problem:
    full = names.service_host(ObjectName(namespace, host)) if "." not in host else host
    return Problem(
        FieldPath("host"),
        Reason.NOT_FOUND,
        f'There is no Service "{full}".',
        "Create the Service, or name one in full: NAME.NAMESPACE.svc.cluster.local.",
    )


def _listed(ports: list[int]) -> str:
    return ", ".join(str(port) for port in ports) or "none"
