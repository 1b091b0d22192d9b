"""Hosts within a wildcard host that lead to the same workload: there, their own routes decide.

A policy is bound to a workload and names a host. So what ``*.example.org`` opens would be open
under ``shop.example.org`` as well, whatever the rules of that host say.
"""

from __future__ import annotations

from collections.abc import Mapping

from apirule import names
from apirule.apis import networking
from apirule.facts import Facts
from apirule.names import ObjectName
from apirule.ownership import owner_of


def host_within(host: str, pattern: str) -> bool:
    """Whether a name, or all names of a wildcard, are among those of another one."""
    if pattern in ("*", host):
        return True
    return pattern.startswith("*.") and host.removeprefix("*").endswith(pattern[1:])


def narrower_hosts(
    host: str, service: ObjectName, facts: Facts, owner: ObjectName
) -> tuple[str, ...]:
    """Return the hosts within a wildcard host, routed by others to Pods of the same Service."""
    if not host.startswith("*."):
        return ()
    found = facts.services.get(service)
    selector = (found.spec.selector if found else None) or {}
    return tuple(
        sorted(
            other
            for other, listing in facts.hosts.items()
            if other != host and host_within(other, host)
            if any(
                owner_of(routes.labels) != owner
                and _meets(routes, service.namespace, selector, facts)
                for routes in listing
            )
        )
    )


def _meets(
    routes: networking.VirtualService, namespace: str, selector: Mapping[str, str], facts: Facts
) -> bool:
    """Whether routes may lead to a workload. What cannot be told counts as yes."""
    targets = [to.destination.host for route in routes.spec.http for to in route.route]
    if not targets:
        # Routes in a form that we do not read.
        return True
    for target in targets:
        name = _service(target, routes.metadata.namespace)
        if name is None or name.namespace != namespace:
            continue
        found = facts.services.get(name)
        other = (found.spec.selector if found else None) or {}
        if all(selector.get(key, value) == value for key, value in other.items()):
            return True
    return False


def _service(host: str, namespace: str) -> ObjectName | None:
    """Read the host of a destination: a Service under its short or its full name."""
    name, _, rest = host.partition(".")
    place = rest.partition(".")[0] or namespace
    found = ObjectName(place, name)
    full = names.service_host(found)
    return found if full == host or full.startswith(f"{host}.") else None
