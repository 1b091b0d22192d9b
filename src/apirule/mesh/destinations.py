"""What a VirtualService sends requests to: Service, port, and the name of their cluster."""

from __future__ import annotations

import msgspec

from apirule import names
from apirule.apis import core, networking
from apirule.apis.meta import ObjectRef
from apirule.apis.traffic import ConsistentHash
from apirule.mesh import entries, traffic
from apirule.mesh.snapshot import Snapshot
from apirule.names import ObjectName
from apirule.problem import FieldPath, Problem, Reason


class Upstream(msgspec.Struct, frozen=True):
    """A cluster that routes name, and what it takes to build it.

    ``service`` and ``entry`` are None for one that does not exist: its cluster is not there, Envoy
    says 503.
    """

    cluster: str
    service: ObjectName | None
    port: int
    problem: Problem | None = None
    subset: str = ""
    entry: str | None = None
    """The host of a ServiceEntry."""
    alike: ConsistentHash | None = None
    """Which requests the cluster keeps together; its routes must hash them."""
    rule: ObjectRef | None = None
    """The DestinationRule that says so, and so is in the route."""

    @property
    def exists(self) -> bool:
        return self.service is not None or self.entry is not None


def cluster_name(host: str, port: int, subset: str = "") -> str:
    return f"outbound|{port}|{subset}|{host}"


def inbound_cluster_name(port: int) -> str:
    return f"inbound|{port}||"


def resolve(
    snapshot: Snapshot,
    destination: networking.Destination,
    *,
    namespace: str,
    caller: str,
    only_services: bool = False,
) -> Upstream:
    """Find the port of a Service or ServiceEntry that a destination means, for one caller.

    ``namespace`` is that of the VirtualService, ``caller`` that of the proxy. Without a port, there
    must be just one. ``only_services``: a ServiceEntry must not take the place of a Service. The
    place of a problem is relative to the destination.
    """
    number = destination.port.number if destination.port else 0
    service = snapshot.service(destination.host, namespace)
    if service is not None:
        ports = [port.port for port in service.spec.ports]
        host, home = names.service_host(service.object_name), service.metadata.namespace
        found = Upstream("", service.object_name, number)
        owner = f"Service {service.object_name}"
    else:
        host = destination.host.lower()
        entry = entries.hosts_seen_from(snapshot, caller).get(host)
        if entry is None or only_services:
            unknown = _unknown_host(destination.host, namespace)
            return Upstream(cluster_name(destination.host, number), None, number, unknown)
        ports = [port.number for port in entry.spec.ports]
        home = entry.metadata.namespace
        found = Upstream("", None, number, entry=host)
        owner = f"ServiceEntry {entry.object_name}"
    if not number and len(ports) == 1:
        number = ports[0]
    if number not in ports:
        missing = _unknown_port(owner, number, ports)
        return Upstream(cluster_name(host, number), None, number, missing)
    subset = destination.subset
    rules = traffic.ruling(snapshot, host, port=number, subset=subset, home=home, caller=caller)
    name = cluster_name(host, number, subset)
    if rules is None:
        return Upstream(name, None, number, _unknown_subset(host, subset))
    balancer = rules.settings.load_balancer
    alike = balancer.consistent_hash if balancer and not rules.closed else None
    return msgspec.structs.replace(
        found,
        cluster=name,
        port=number,
        subset=subset,
        alike=alike,
        rule=rules.rule.ref if rules.rule and alike else None,
    )


def port_of(service: core.Service, number: int) -> core.ServicePort | None:
    return next((port for port in service.spec.ports if port.port == number), None)


def is_http2(port: core.ServicePort) -> bool:
    """Whether the application speaks HTTP/2 without TLS: appProtocol or Istio's port names."""
    declared = (port.app_protocol or port.name.partition("-")[0]).lower()
    return declared in ("http2", "grpc", "grpc-web", "kubernetes.io/h2c")


def _unknown_port(owner: str, number: int, ports: list[int]) -> Problem:
    named = f"port {number}" if number else "no port"
    return Problem(
        FieldPath("port", "number"),
        Reason.NOT_FOUND,
        f"The destination names {named}, {owner} has {_listed(ports)}.",
        f"Use a port of the {owner.partition(' ')[0]}.",
    )


def _unknown_subset(host: str, subset: str) -> Problem:
    return Problem(
        FieldPath("subset"),
        Reason.NOT_FOUND,
        f'No DestinationRule for "{host}" has a subset "{subset}".',
        "Add the subset to the DestinationRule of the host.",
    )


def _unknown_host(host: str, namespace: str) -> Problem:
    full = names.service_host(ObjectName(namespace, host)) if "." not in host else host
    return Problem(
        FieldPath("host"),
        Reason.NOT_FOUND,
        f'There is no Service "{full}".',
        "Create the Service, or name one in full: NAME.NAMESPACE.svc.cluster.local. "
        "Other hosts need a ServiceEntry.",
    )


def _listed(ports: list[int]) -> str:
    return ", ".join(str(port) for port in ports) or "none"
