"""Hosts of Gateways, VirtualServices and Services: how they contain each other.

A host is a DNS name, ``*``, or ``*.`` and a DNS name. Everything is compared in lower case.
"""

from __future__ import annotations

from apirule import names
from apirule.names import ObjectName

_SERVICE_SUFFIX = f".svc.{names.CLUSTER_DOMAIN}"
_MAX_LENGTH = 253


def is_valid(host: str) -> bool:
    """Whether Envoy takes the host as the domain of a virtual host and we can compare it."""
    name = host.removeprefix("*.")
    if host == "*":
        return True
    return len(host) <= _MAX_LENGTH and names.DNS_SUBDOMAIN.fullmatch(name.lower()) is not None


def split_namespace(host: str) -> tuple[str | None, str]:
    """Split ``namespace/host`` of a Gateway server. None: VirtualServices of any namespace."""
    namespace, slash, name = host.rpartition("/")
    return (namespace if slash and namespace != "*" else None), name


def covers(wider: str, host: str) -> bool:
    """Whether every name that matches ``host`` matches ``wider`` too."""
    wider, host = wider.lower(), host.lower()
    if wider in ("*", host):
        return True
    return wider.startswith("*.") and host != "*" and host.endswith(wider[1:])


def intersection(one: str, other: str) -> str | None:
    """Return the host that matches what both match, None for two that have nothing in common."""
    if covers(one, other):
        return other.lower()
    if covers(other, one):
        return one.lower()
    return None


def service_of(host: str) -> ObjectName | None:
    """Return the Service a fully qualified name means."""
    name, dot, namespace = host.removesuffix(_SERVICE_SUFFIX).partition(".")
    if not host.endswith(_SERVICE_SUFFIX) or not dot or not namespace or "." in namespace:
        return None
    return ObjectName(namespace, name)


def short_for(host: str) -> ObjectName | None:
    """Return the Service that ``NAME.NAMESPACE`` or ``NAME.NAMESPACE.svc`` would mean."""
    name, dot, namespace = host.removesuffix(".svc").partition(".")
    return ObjectName(namespace, name) if dot and "." not in namespace else None


def aliases(service: ObjectName, *, seen_from: str) -> tuple[str, ...]:
    """Return the names a workload of a namespace may call a Service by, the longest first."""
    full = names.service_host(service)
    short = f"{service.name}.{service.namespace}"
    own = (service.name,) if service.namespace == seen_from else ()
    return (full, f"{short}.svc", short, *own)
