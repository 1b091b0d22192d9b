"""ServiceEntry: which hosts there are besides Services, who sees them, what is wrong.

The oldest entry that names a host has it; a Service has its own name before any entry. An entry in
error, or that a proxy refused, is as if it were not there: its hosts are unknown.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping

from apirule import names
from apirule.apis import traffic
from apirule.apis.meta import ObjectRef
from apirule.apis.traffic import ServiceEntry
from apirule.mesh import hosts
from apirule.mesh.proxy import UNIX
from apirule.mesh.snapshot import Snapshot
from apirule.mesh.traffic import export_problems, exported_to, names_problems
from apirule.names import ObjectName
from apirule.problem import SPEC, FieldPath, Problem, Reason, errors

DNS = frozenset({"DNS", "DNS_ROUND_ROBIN"})
HTTP2 = frozenset({"HTTP2", "GRPC", "GRPC-WEB"})
_PROTOCOLS = HTTP2 | {"HTTP"}
_MAX_PORT = 65535
_MAX_WEIGHT = 1_000_000
_SOCKET = re.compile(r"unix://(/[!-~]{1,106})")
"""A path of at most 107 bytes, which is what a socket's address holds."""


def hosts_seen_from(snapshot: Snapshot, namespace: str) -> Mapping[str, ServiceEntry]:
    """Return the entry of each host that a namespace sees, in the order of the hosts."""
    return snapshot.memo(("entries", namespace), lambda: _hosts_seen_from(snapshot, namespace))


def _hosts_seen_from(snapshot: Snapshot, namespace: str) -> Mapping[str, ServiceEntry]:
    found: dict[str, ServiceEntry] = {}
    for entry in snapshot.of_kind(ServiceEntry):
        is_seen = exported_to(entry.spec.export_to, entry.metadata.namespace, namespace)
        if not is_seen or errors(problems(entry)):
            continue
        for host in entry.spec.hosts:
            if not _is_service(snapshot, host):
                found.setdefault(host.lower(), entry)
    return dict(sorted(found.items()))


# Problems


def all_problems(snapshot: Snapshot) -> Mapping[ObjectRef, tuple[Problem, ...]]:
    """Return what is wrong with each entry, by itself and beside the others."""
    return snapshot.memo("service entries", lambda: _all_problems(snapshot))


def _all_problems(snapshot: Snapshot) -> Mapping[ObjectRef, tuple[Problem, ...]]:
    found: dict[ObjectRef, tuple[Problem, ...]] = {}
    taken: dict[str, ServiceEntry] = {}
    for entry in snapshot.of_kind(ServiceEntry):
        wrong = problems(entry)
        for index, host in enumerate(entry.spec.hosts):
            if errors(wrong):
                break
            at = SPEC / "hosts" / index
            older = taken.setdefault(host.lower(), entry)
            if _is_service(snapshot, host):
                wrong.append(_taken(at, host, "a Service has that name"))
            elif older is not entry and _meet(older, entry):
                wrong.append(_taken(at, host, f"ServiceEntry {older.object_name} is older"))
        if wrong:
            found[entry.ref] = tuple(wrong)
    return found


def _meet(older: ServiceEntry, entry: ServiceEntry) -> bool:
    """Whether some namespace may see both; private ones of two namespaces never meet."""
    both_private = older.spec.export_to == entry.spec.export_to == (".",)
    return not both_private or older.metadata.namespace == entry.metadata.namespace


def port_of(entry: ServiceEntry, number: int) -> traffic.EntryPort | None:
    return next((port for port in entry.spec.ports if port.number == number), None)


def _taken(at: FieldPath, host: str, why: str) -> Problem:
    return Problem(
        at,
        Reason.CONFLICT,
        f'"{host}" is served already: {why}. This entry does not add to it.',
        "Remove the host here, or write both entries into one.",
    )


def _is_service(snapshot: Snapshot, host: str) -> bool:
    """Whether a Service is called by this name, in full or in short.

    Two virtual hosts of one name would make Envoy refuse them all.
    """
    bare = host.lower().removesuffix(f".svc.{names.CLUSTER_DOMAIN}").removesuffix(".svc")
    name, _, namespace = bare.partition(".")
    return ObjectName(namespace, name) in snapshot.services


def problems(entry: ServiceEntry) -> list[Problem]:
    spec = entry.spec
    found = [*_of_hosts(spec), *_of_ports(spec)]
    found += _of_resolution(spec)
    if spec.resolution == "STATIC" or spec.resolution in DNS:
        for index, endpoint in enumerate(spec.endpoints):
            found += _of_endpoint(spec, endpoint, SPEC / "endpoints" / index)
    found += export_problems(spec.export_to)
    found += names_problems(spec.subject_alt_names, SPEC / "subjectAltNames")
    return found


def _of_hosts(spec: traffic.ServiceEntrySpec) -> Iterator[Problem]:
    if not spec.hosts:
        yield _invalid(SPEC / "hosts", "", "an entry has a host")
    for index, host in enumerate(spec.hosts):
        at = SPEC / "hosts" / index
        if host == "*" or not hosts.is_valid(host) or "." not in host:
            yield _invalid(at, host, "it is not a full name")
        elif host.startswith("*") and spec.resolution in DNS and not spec.endpoints:
            yield _invalid(at, host, "DNS cannot be asked for it, and there are no endpoints")


def _of_ports(spec: traffic.ServiceEntrySpec) -> Iterator[Problem]:
    if not spec.ports:
        yield _invalid(SPEC / "ports", "", "an entry has a port")
    seen: set[int | str] = set()
    for index, port in enumerate(spec.ports):
        at = SPEC / "ports" / index
        for name, number in (("number", port.number), ("targetPort", port.target_port or 1)):
            if not 0 < number <= _MAX_PORT:
                yield _invalid(at / name, number, "it is not a port")
        if port.number in seen or port.name in seen:
            yield _invalid(at, port.name, "numbers and names of ports must differ")
        seen |= {port.number, port.name}
        if port.protocol.upper() not in _PROTOCOLS:
            yield Problem(
                at / "protocol",
                Reason.NOT_IMPLEMENTED,
                f"A sidecar of the local engine is called by HTTP, not by {port.protocol}.",
                "Use HTTP, HTTP2 or GRPC; for a server that speaks TLS, a DestinationRule with "
                "tls.mode SIMPLE makes the proxy encrypt.",
            )


def _of_resolution(spec: traffic.ServiceEntrySpec) -> Iterator[Problem]:
    at = SPEC / "resolution"
    if spec.location not in ("MESH_EXTERNAL", "MESH_INTERNAL"):
        why = "it is neither MESH_EXTERNAL nor MESH_INTERNAL"
        yield _invalid(SPEC / "location", spec.location, why)
    if spec.resolution != "STATIC" and spec.resolution not in DNS:
        yield Problem(
            at,
            Reason.NOT_IMPLEMENTED,
            f"The resolution {spec.resolution} is not implemented by the local engine, "
            "which does not know where a connection was going.",
            "Use STATIC, DNS or DNS_ROUND_ROBIN.",
        )
    if spec.resolution == "STATIC" and not spec.endpoints:
        yield _invalid(SPEC / "endpoints", "", "the resolution STATIC needs endpoints")
    if spec.resolution == "DNS_ROUND_ROBIN" and len(spec.endpoints) > 1:
        yield _invalid(SPEC / "endpoints", len(spec.endpoints), "DNS_ROUND_ROBIN takes one")


def _of_endpoint(
    spec: traffic.ServiceEntrySpec, endpoint: traffic.EntryEndpoint, at: FieldPath
) -> Iterator[Problem]:
    address = endpoint.address
    if address.startswith(UNIX):
        if spec.resolution in DNS or not _SOCKET.fullmatch(address):
            why = "a socket is written unix:///path and goes with the resolution STATIC"
            yield _invalid(at / "address", address, why)
        elif endpoint.ports or len(spec.ports) > 1:
            yield _invalid(at / "ports", address, "a socket has no ports")
    elif not _is_ip(address) and (spec.resolution == "STATIC" or not _is_name(address)):
        yield _invalid(at / "address", address, "it is not an address")
    if not 0 <= endpoint.weight <= _MAX_WEIGHT:
        why = f"a weight lies between 0 and {_MAX_WEIGHT}"
        yield _invalid(at / "weight", endpoint.weight, why)
    known = {port.name for port in spec.ports}
    for name, number in (endpoint.ports or {}).items():
        if name not in known or not 0 < number <= _MAX_PORT:
            yield _invalid(at / "ports" / name, number, "the entry has no such port")


def _is_name(text: str) -> bool:
    return not text.startswith("*") and hosts.is_valid(text)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _invalid(at: FieldPath, value: object, why: str) -> Problem:
    return Problem(at, Reason.INVALID, f'"{value}" cannot be used: {why}.', "Correct the value.")
