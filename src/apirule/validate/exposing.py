"""Errors of where a rule is exposed: the Gateway and the hosts."""

from __future__ import annotations

import re
from collections.abc import Iterator

from apirule.apis import networking
from apirule.apis.gateway import v2
from apirule.facts import Facts, full_host, gateway_domain
from apirule.names import ObjectName
from apirule.ownership import owner_of
from apirule.problem import SPEC, FieldPath, Problem, Reason

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_TOP = r"[a-z0-9]{2,63}"
_HOST = re.compile(rf"\*\.(?:{_LABEL}\.)+{_TOP}|{_LABEL}(?:(?:\.{_LABEL})*\.{_TOP})?")
"""A short name, a full name, or ``*.`` and a full name of two labels or more."""
_MAX_HOST = 253
"""What a DNS name has at most. The schema takes two more; Envoy gets no such host."""


def check_gateway(rule: v2.APIRule, facts: Facts | None) -> Iterator[Problem]:
    """Yield what keeps the Gateway from being found; nothing is served without one."""
    gateway, external = rule.spec.gateway, rule.spec.external_gateway
    if not gateway and not external:
        yield Problem(
            SPEC,
            Reason.REQUIRED,
            "Either gateway or externalGateway must be specified",
            "Add spec.gateway, such as kyma-system/kyma-gateway.",
        )
    elif gateway and external:
        yield Problem(
            SPEC,
            Reason.FORBIDDEN,
            # The Kyma operator has a text of its own for this case and never shows it.
            "Either gateway or externalGateway must be specified",
            "Remove spec.externalGateway.",
        )
    if external:
        yield Problem(
            SPEC / "externalGateway",
            Reason.NOT_FOUND,
            "Could not get specified ExternalGateway",
            f"There is no ExternalGateway {external}, as the kind is not served here; name a"
            " Gateway in spec.gateway.",
        )
    if gateway and facts is not None:
        yield from _check_found(gateway, facts)


def find_gateway(rule: v2.APIRule, facts: Facts) -> networking.Gateway | None:
    found = facts.find_gateway(ObjectName.parse(rule.spec.gateway or ""))
    return found.gateway if found else None


def check_hosts(rule: v2.APIRule, facts: Facts | None) -> Iterator[Problem]:
    if not rule.spec.hosts:
        yield Problem(SPEC / "hosts", Reason.REQUIRED, "No hosts defined", "Add a host.")
    if len(rule.spec.hosts) > 1:
        yield Problem(
            SPEC / "hosts",
            Reason.TOO_MANY,
            f"{len(rule.spec.hosts)} hosts are given, and a rule exposes one",
            "Make an APIRule for each host.",
        )
    for index, host in enumerate(rule.spec.hosts):
        at = SPEC / "hosts" / index
        if len(host) > _MAX_HOST or not _HOST.fullmatch(host):
            yield Problem(
                at,
                Reason.INVALID,
                "Host must be a valid FQDN or short host name",
                f"Write {host!r} as one lower-case label, as a full name, or as *. and a full"
                " name.",
            )
            continue
        if facts is None or (gateway := find_gateway(rule, facts)) is None:
            continue
        yield from _check_domain(host, gateway, at)
        yield from _check_free(full_host(host, gateway), rule, facts, at)


def _check_found(gateway: str, facts: Facts) -> Iterator[Problem]:
    if facts.find_gateway(ObjectName.parse(gateway)) is None:
        known = ", ".join(str(name) for name in sorted(facts.gateways)) or "none"
        yield Problem(
            SPEC / "gateway",
            Reason.NOT_FOUND,
            "Could not get specified Gateway",
            f"There is no Gateway {gateway}; write NAMESPACE/NAME of one that exists ({known}).",
        )


def _check_domain(host: str, gateway: networking.Gateway, at: FieldPath) -> Iterator[Problem]:
    if "." in host:
        return
    hosts = [host for server in gateway.spec.servers for host in server.hosts]
    one_each = all(len(server.hosts) == 1 for server in gateway.spec.servers)
    if not hosts or not one_each or len(set(hosts)) > 1 or not _is_wildcard(hosts[0]):
        domain = gateway_domain(gateway) or "example.org"
        yield Problem(
            at,
            Reason.INVALID,
            "Lowercase RFC 1123 label (short host) is only supported as the APIRule host when "
            "selected Gateway has a single host definition matching *.<fqdn> format",
            f"Write the full name, such as {host}.{domain}.",
        )


def _is_wildcard(host: str) -> bool:
    return host.rpartition("/")[2].startswith("*.")


def _check_free(host: str, rule: v2.APIRule, facts: Facts, at: FieldPath) -> Iterator[Problem]:
    listing = facts.hosts.get(host, ())
    own = [service for service in listing if owner_of(service.labels) == rule.object_name]
    first = min(map(_age, own), default=None)
    for service in listing:
        owner = owner_of(service.labels)
        # Of two that came at the same time the older one keeps the host.
        if service in own or (first is not None and first < _age(service)):
            continue
        whose = f"of APIRule {owner}" if owner else "that no APIRule owns"
        yield Problem(
            at,
            Reason.HOST_TAKEN,
            "Host is occupied by another Virtual Service",
            f"{host} belongs to VirtualService {service.object_name} {whose}; choose another"
            " host, or add the rules there.",
        )


def _age(service: networking.VirtualService) -> tuple[str, str, str]:
    return (service.metadata.creation_timestamp or "", *service.object_name)
