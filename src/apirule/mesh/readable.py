"""Objects of Kubernetes with values that no proxy can be told, such as a port above 65535.

They are as if they were not there, but for a Pod: nobody calls it, and what guards it is known not
to be in force.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from apirule.apis import core
from apirule.apis.meta import Resource
from apirule.mesh.proxy import MAX_PORT, proxy_of


def unreadable(resource: Resource) -> str:
    """Say what is wrong with the values of an object; empty: nothing."""
    match resource:
        case core.Pod():
            return _of_pod(resource)
        case core.Service():
            return " ".join(_of_service(resource))
        case core.EndpointSlice():
            return " ".join(_of_slice(resource))
        case _:
            return ""


def _of_pod(pod: core.Pod) -> str:
    try:
        proxy_of(pod)
    except ValueError as error:
        return f"{error}."
    return ""


def _of_service(service: core.Service) -> Iterator[str]:
    for port in service.spec.ports:
        target = port.target_port if isinstance(port.target_port, int) else port.port
        for number in dict.fromkeys((port.port, target)):
            if not 0 < number <= MAX_PORT:
                yield f"{number} is not a port."


def _of_slice(piece: core.EndpointSlice) -> Iterator[str]:
    for port in piece.ports:
        # Without a number the slice says nothing of a port.
        if not 0 <= port.port <= MAX_PORT:
            yield f"{port.port} is not a port."
    for endpoint in piece.endpoints:
        for address in endpoint.addresses:
            try:
                ipaddress.ip_address(address)
            except ValueError:
                yield f"{address!r} is not an IP address."
