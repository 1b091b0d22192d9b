"""Services and the addresses behind them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from apirule.apis.meta import Object
from apirule.names import DNS_SUBDOMAIN
from apirule.problem import SPEC, FieldPath, Problem
from apirule.schema import syntax
from apirule.schema.checks import labels, words

_NO_ADDRESS = ("", "None")
_ADDRESS_TEXT = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
_WITH_NODE_PORTS = ("NodePort", "LoadBalancer")
_NODE_PORTS = range(30000, 32768)
_MOST_ADDRESSES = 100


def service(obj: Object) -> Iterator[Problem]:
    spec = obj.get("spec") or {}
    yield from _service_address(spec)
    yield from _service_ports(spec)
    yield from labels.labels(spec.get("selector") or {}, SPEC / "selector")
    for index, address in enumerate(spec.get("externalIPs") or ()):
        if not _is_address(address):
            at = SPEC / "externalIPs" / index
            yield words.invalid(at, address, _ADDRESS_TEXT, "Write an IP address.")


def _service_address(spec: Mapping[str, Any]) -> Iterator[Problem]:
    kind, address = spec.get("type"), spec.get("clusterIP", "")
    if kind != "ExternalName":
        if address not in _NO_ADDRESS and not _is_address(address):
            fix = "Leave it out, or write None for a headless Service."
            yield words.invalid(SPEC / "clusterIP", address, _ADDRESS_TEXT, fix)
        if address == "None" and kind in _WITH_NODE_PORTS:
            detail = f"may not be set to 'None' for {kind} services"
            yield words.invalid(SPEC / "clusterIP", address, detail, "Leave it out.")
        return
    if address:
        detail = "may not be set when `type` is 'ExternalName'"
        yield words.forbidden(SPEC / "clusterIP", detail, "Leave it out.")
    # A trailing dot says that the name is complete.
    name = str(spec.get("externalName", "")).removesuffix(".")
    if not name:
        yield words.required(SPEC / "externalName", "Name the host that the Service stands for.")
    else:
        yield from words.misspelt(SPEC / "externalName", name, syntax.dns_subdomain)


def _service_ports(spec: Mapping[str, Any]) -> Iterator[Problem]:
    ports = spec.get("ports") or ()
    kind = spec.get("type")
    if not ports and kind != "ExternalName" and spec.get("clusterIP") != "None":
        yield words.required(SPEC / "ports", "List at least one port.")
    names: set[str] = set()
    for index, port in enumerate(ports):
        at = SPEC / "ports" / index
        name = port.get("name", "")
        if not name:
            if len(ports) > 1:
                yield words.required(at / "name", "Name each port when there are several.")
        elif name in names:
            yield words.duplicate(at / "name", name, "Give each port its own name.")
        else:
            yield from words.misspelt(at / "name", name, syntax.dns_label)
        names.add(name)
        # 0 and "" stand for a field that is left out.
        if target := port.get("targetPort"):
            yield from words.misspelt(at / "targetPort", target, syntax.port)
        yield from _node_port(port.get("nodePort", 0), str(kind), at / "nodePort")


def _node_port(number: int, kind: str, at: FieldPath) -> Iterator[Problem]:
    if not number:
        return
    if kind not in _WITH_NODE_PORTS:
        yield words.forbidden(at, f"may not be used when `type` is '{kind}'", "Leave it out.")
    elif number not in _NODE_PORTS:
        detail = (
            "provided port is not in the valid range. The range of valid ports is"
            f" {_NODE_PORTS.start}-{_NODE_PORTS.stop - 1}"
        )
        yield words.invalid(at, number, detail, "Leave it out to have one chosen.")


def endpoint_slice(obj: Object) -> Iterator[Problem]:
    kind = obj.get("addressType", "")
    is_good, wanted = _ADDRESSES.get(kind, (None, ""))
    for index, endpoint in enumerate(obj.get("endpoints") or ()):
        at = FieldPath("endpoints", index, "addresses")
        addresses = endpoint.get("addresses") or ()
        if not addresses:
            detail = "must contain at least 1 address"
            yield words.required(at, "List an address.", detail)
        if len(addresses) > _MOST_ADDRESSES:
            yield words.invalid(at, len(addresses), f"must have at most {_MOST_ADDRESSES} items")
        for number, address in enumerate(addresses):
            if is_good is not None and not is_good(address):
                yield words.invalid(at / number, address, wanted, f"Write {kind} addresses.")
    names: set[str] = set()
    for index, port in enumerate(obj.get("ports") or ()):
        at, name = FieldPath("ports", index), port.get("name", "")
        if name in names:
            yield words.duplicate(at / "name", name, "Give each port its own name.")
        elif name:
            yield from words.misspelt(at / "name", name, syntax.dns_label)
        names.add(name)
        if "port" in port:
            yield from words.misspelt(at / "port", port["port"], syntax.port)


def endpoints(obj: Object) -> Iterator[Problem]:
    for index, subset in enumerate(obj.get("subsets") or ()):
        at = FieldPath("subsets", index)
        for name in ("addresses", "notReadyAddresses"):
            for number, address in enumerate(subset.get(name) or ()):
                if not _is_address(address.get("ip", "")):
                    place = at / name / number / "ip"
                    ip = address.get("ip", "")
                    yield words.invalid(place, ip, _ADDRESS_TEXT, "Write an IP address.")
        for number, port in enumerate(subset.get("ports") or ()):
            place = at / "ports" / number
            if name := port.get("name", ""):
                yield from words.misspelt(place / "name", name, syntax.dns_label)
            yield from words.misspelt(place / "port", port.get("port", 0), syntax.port)


def _is_address(text: str) -> bool:
    return _is_ipv4(text) or _is_ipv6(text)


def _is_ipv4(text: str) -> bool:
    return _reads(ipaddress.IPv4Address, text)


def _is_ipv6(text: str) -> bool:
    # A zone belongs to one machine; no Service is reached by it.
    return "%" not in text and _reads(ipaddress.IPv6Address, text)


def _reads(parse: Callable[[str], object], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


def _is_host(text: str) -> bool:
    name = text.removesuffix(".")
    return "." in name and DNS_SUBDOMAIN.fullmatch(name) is not None


_ADDRESSES: Mapping[str, tuple[Callable[[str], bool], str]] = {
    "IPv4": (_is_ipv4, "must be a valid IPv4 address"),
    "IPv6": (_is_ipv6, "must be a valid IPv6 address"),
    "FQDN": (_is_host, "should be a domain with at least two segments separated by dots"),
}
