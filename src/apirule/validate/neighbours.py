"""Hosts within a wildcard host that have rules of their own: there, those decide.

A policy is bound to a workload and names a host. So what ``*.example.org`` opens would be open
under ``shop.example.org`` as well, wherever the rules of that host lead, now or after a change.
The gateway never uses the routes of a wildcard for a host that has its own, so leaving such hosts
out of the policies takes nothing away.
"""

from __future__ import annotations

from apirule.apis import networking
from apirule.facts import Facts
from apirule.names import ObjectName
from apirule.ownership import owner_of


def host_within(host: str, pattern: str) -> bool:
    """Whether a name, or all names of a wildcard, are among those of another one."""
    if pattern in ("*", host):
        return True
    return pattern.startswith("*.") and host.removeprefix("*").endswith(pattern[1:])


def narrower_hosts(host: str, facts: Facts, owner: ObjectName) -> tuple[str, ...]:
    """Return the hosts within a wildcard host that others route, or are about to.

    About to: policies come before routes, so a host that policies of another APIRule name counts
    already, and goes on counting while its routes are gone for a moment.
    """
    if not host.startswith("*."):
        return ()
    routed = (
        other
        for other, listing in facts.hosts.items()
        if any(owner_of(routes.labels) != owner and _leads_somewhere(routes) for routes in listing)
    )
    guarded = (other for other, owners in facts.guarded_hosts.items() if owners - {owner})
    return tuple(
        sorted(one for one in {*routed, *guarded} if one != host and host_within(one, host))
    )


def _leads_somewhere(routes: networking.VirtualService) -> bool:
    """Whether routes may lead to a workload. Routes in a form that we do not read may."""
    http = routes.spec.http
    return not http or any(one.direct_response is None and one.redirect is None for one in http)
