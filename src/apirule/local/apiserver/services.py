"""Services: what the API server fills in, and the addresses and ports that no two of them share.

Nothing listens on the address of a Service or on its node ports: it is reached through the gateway
or a sidecar. They are there because people and tools expect to see them. Both depend on the name,
so they survive that the Service is deleted and made anew, unless another one has them by then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from itertools import chain
from typing import Any

import msgspec

from apirule.apis.meta import Object
from apirule.local.apiserver.metadata import immutable
from apirule.problem import SPEC, Problem, Reason
from apirule.schema import messages

RESOURCE = "services"

_WITH_NODE_PORTS = ("NodePort", "LoadBalancer")
_NODE_PORTS = range(30000, 32768)
# 10.96.0.1 to 10.96.255.254
_ADDRESSES = range(1, 2**16 - 1)

_OF_ADDRESS = ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy")
_OF_NODE_PORTS = ("allocateLoadBalancerNodePorts", "externalTrafficPolicy", "healthCheckNodePort")


class Taken(msgspec.Struct, frozen=True):
    """What the other Services have."""

    addresses: frozenset[str]
    node_ports: frozenset[int]

    @classmethod
    def of(cls, others: Iterable[Object]) -> Taken:
        specs = [other.get("spec") or {} for other in others]
        ports = chain.from_iterable(spec.get("ports") or () for spec in specs)
        return cls(
            frozenset(spec["clusterIP"] for spec in specs if spec.get("clusterIP")),
            frozenset(port["nodePort"] for port in ports if port.get("nodePort")),
        )


def without_old_type(obj: Object, old: Object) -> Object:
    """Return an update without what only the former type had, where the client left it alone."""
    spec, before = obj.get("spec"), old.get("spec")
    if not isinstance(spec, dict) or not isinstance(before, dict):
        return obj
    kind, was = spec.get("type", "ClusterIP"), before.get("type", "ClusterIP")
    gone: tuple[str, ...] = _OF_ADDRESS if kind == "ExternalName" != was else ()
    loses_ports = was in _WITH_NODE_PORTS and kind not in _WITH_NODE_PORTS
    gone += _OF_NODE_PORTS if loses_ports else ()
    spec = {k: v for k, v in spec.items() if k not in gone or v != before.get(k)}
    if loses_ports and isinstance(spec.get("ports"), list):
        former = {port.get("nodePort") for port in before.get("ports") or ()}
        spec["ports"] = [_without_node_port(port, former) for port in spec["ports"]]
    return {**obj, "spec": spec}


def _without_node_port(port: Any, former: set[Any]) -> Any:
    number = port.get("nodePort") if isinstance(port, dict) else None
    if not isinstance(number, int) or number not in former:
        return port
    return {key: value for key, value in port.items() if key != "nodePort"}


def with_defaults(obj: Object) -> Object:
    spec = {"sessionAffinity": "None", "type": "ClusterIP", **(obj.get("spec") or {})}
    spec["ports"] = [_port(port) for port in spec.get("ports") or ()]
    if not spec["ports"]:
        del spec["ports"]
    return {**obj, "spec": spec}


def complete(obj: Object, old: Object | None, taken: Taken) -> Object:
    obj = with_defaults(obj)
    spec = obj["spec"]
    before = (old or {}).get("spec") or {}
    metadata = obj["metadata"]
    name = f"{metadata.get('namespace')}/{metadata.get('name')}"
    if spec["type"] != "ExternalName":
        spec = _with_address(spec, name, before, taken)
    if spec["type"] in _WITH_NODE_PORTS:
        spec = _with_node_ports(spec, name, before, taken)
    return {**obj, "spec": spec}


def _port(port: Mapping[str, Any]) -> dict[str, Any]:
    completed = {"protocol": "TCP", **port}
    # 0 and "" stand for a field that is left out.
    completed["targetPort"] = port.get("targetPort") or port.get("port")
    return completed


def _with_address(
    spec: dict[str, Any], name: str, before: Mapping[str, Any], taken: Taken
) -> dict[str, Any]:
    address = spec.get("clusterIP") or before.get("clusterIP")
    if not address:
        free = (
            found
            for number in _from(_ADDRESSES, name)
            if (found := f"10.96.{number >> 8}.{number & 0xFF}") not in taken.addresses
        )
        address = next(free)
    return {
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "internalTrafficPolicy": "Cluster",
        **spec,
        "clusterIP": address,
        "clusterIPs": [address],
    }


def _with_node_ports(
    spec: dict[str, Any], name: str, before: Mapping[str, Any], taken: Taken
) -> dict[str, Any]:
    spec = {"externalTrafficPolicy": "Cluster", **spec}
    if spec["type"] == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    if spec.get("allocateLoadBalancerNodePorts") is False:
        return spec
    had = {(p.get("port"), p.get("protocol")): p.get("nodePort") for p in before.get("ports") or ()}
    used = {*taken.node_ports, *(port.get("nodePort") for port in spec.get("ports") or ())}
    ports = []
    for port in spec.get("ports") or ():
        key = (port.get("port"), port["protocol"])
        number = port.get("nodePort") or had.get(key)
        if not number:
            wanted = f"{name}/{port['protocol']}/{port.get('port')}"
            number = next(found for found in _from(_NODE_PORTS, wanted) if found not in used)
        used.add(number)
        ports.append({**port, "nodePort": number})
    return {**spec, "ports": ports}


def _from(numbers: range, name: str) -> Iterator[int]:
    """Yield all numbers, beginning with one that depends on the name."""
    first = int.from_bytes(sha256(name.encode()).digest()[:4]) % len(numbers)
    yield from numbers[first:]
    yield from numbers[:first]


def check(obj: Object, old: Object | None, taken: Taken) -> Iterator[Problem]:
    """Yield what another Service has, too; what the Service had before does not count."""
    spec, before = obj.get("spec") or {}, (old or {}).get("spec") or {}
    address = spec.get("clusterIP")
    if address not in ("None", before.get("clusterIP")) and address in taken.addresses:
        detail = f"failed to allocate IP {address}: provided IP is already allocated"
        message = messages.invalid([address], detail)
        yield Problem(SPEC / "clusterIPs", Reason.INVALID, message, "Leave clusterIP out.")
    had = {port.get("nodePort") for port in before.get("ports") or ()}
    for index, port in enumerate(spec.get("ports") or ()):
        number = port.get("nodePort")
        if number in taken.node_ports - had:
            message = messages.invalid(number, "provided port is already allocated")
            at = SPEC / "ports" / index / "nodePort"
            yield Problem(at, Reason.INVALID, message, "Leave nodePort out.")


def check_change(obj: Object, old: Object) -> Iterator[Problem]:
    spec, before = obj["spec"], old.get("spec") or {}
    was = before.get("clusterIP")
    if was and before.get("type") == spec["type"] and spec.get("clusterIP") != was:
        yield immutable(SPEC / "clusterIP", spec.get("clusterIP"))
