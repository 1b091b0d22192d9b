"""Advice that needs to know the cluster: Gateway, Services, and who else uses the workload."""

from __future__ import annotations

from collections.abc import Iterator

from apirule import names
from apirule.apis import networking
from apirule.apis.gateway import v2
from apirule.facts import Facts, full_host, gateway_hosts
from apirule.names import ObjectName
from apirule.problem import SPEC, FieldPath, Problem, Reason, Severity
from apirule.validate.exposing import find_gateway
from apirule.validate.neighbours import host_within, narrower_hosts

_NAMED = 3
"""How many hosts are named one by one."""
_INGRESS_LABELS = {"app": "istio-ingressgateway", "istio": "ingressgateway"}


def advise(rule: v2.APIRule, facts: Facts) -> Iterator[Problem]:
    gateway = find_gateway(rule, facts)
    if gateway is not None:
        yield from _swapped(rule, facts)
        yield from _other_ingress(gateway)
        for index, host in enumerate(rule.spec.hosts):
            yield from _outside(host, gateway, SPEC / "hosts" / index)
            yield from _left_out(host, rule, facts, SPEC / "hosts" / index)
    yield from _services(rule, facts)


def _swapped(rule: v2.APIRule, facts: Facts) -> Iterator[Problem]:
    found = facts.find_gateway(ObjectName.parse(rule.spec.gateway or ""))
    if found is not None and found.swapped:
        yield Problem(
            SPEC / "gateway",
            Reason.MISLEADING,
            f"There is no Gateway {rule.spec.gateway}; {found.gateway.object_name} is used",
            f"Write the namespace first: {found.gateway.object_name}.",
            Severity.WARNING,
        )


def _other_ingress(gateway: networking.Gateway) -> Iterator[Problem]:
    selector = gateway.spec.selector or {}
    if not selector.items() <= _INGRESS_LABELS.items():
        yield Problem(
            SPEC / "gateway",
            Reason.MISLEADING,
            f"Gateway {gateway.object_name} selects another gateway workload than"
            f" {names.INGRESS_PRINCIPAL}, and only that one may call the Service",
            "Use a Gateway with the selector {istio: ingressgateway}.",
            Severity.WARNING,
        )


def _outside(host: str, gateway: networking.Gateway, at: FieldPath) -> Iterator[Problem]:
    full = full_host(host, gateway)
    if not any(host_within(full, served) for served in gateway_hosts(gateway)):
        yield Problem(
            at,
            Reason.MISLEADING,
            f"Gateway {gateway.object_name} does not serve {full}, so nobody reaches it",
            f"Choose a host within {', '.join(dict.fromkeys(gateway_hosts(gateway))) or 'it'}, or"
            " add the host to a server of the Gateway.",
            Severity.WARNING,
        )


def _services(rule: v2.APIRule, facts: Facts) -> Iterator[Problem]:
    for given, name, at in _named(rule):
        service = facts.services.get(name)
        ports = [one.port for one in service.spec.ports] if service else []
        if service is not None and given.port not in ports:
            listed = ", ".join(map(str, ports)) or "none"
            yield Problem(
                at / "port",
                Reason.NOT_FOUND,
                f"Service {name} has no port {given.port}, so requests are answered with 503",
                f"Use a port of the Service: {listed}.",
                Severity.WARNING,
            )
        if given.external is not None:
            yield Problem(
                at / "external",
                Reason.MISLEADING,
                "external has no effect",
                "Remove it.",
                Severity.WARNING,
            )


def idle(rule: v2.APIRule, facts: Facts) -> Iterator[Problem]:
    """Yield a warning for each Service that nobody answers for, or not yet."""
    for _, name, at in _named(rule):
        service = facts.services.get(name)
        if service is None or any(facts.selected_pods(name.namespace, service.spec.selector or {})):
            continue
        yield Problem(
            at / "name",
            Reason.NOT_FOUND,
            f"Service {name} selects no Pod, so requests are answered with 503",
            f"Start the workload in namespace {name.namespace}; it needs the labels of the"
            " Service's selector.",
            Severity.WARNING,
        )


def _named(rule: v2.APIRule) -> Iterator[tuple[v2.Service, ObjectName, FieldPath]]:
    """Yield each Service and port that a rule names, once, and where."""
    seen: set[tuple[ObjectName, int]] = set()
    for index, one in enumerate(rule.spec.rules):
        given, name = one.service or rule.spec.service, rule.service_of(one)
        if given is None or name is None or (name, given.port) in seen:
            continue
        seen.add((name, given.port))
        own = one.service is not None
        yield given, name, SPEC / "rules" / index / "service" if own else SPEC / "service"


def _left_out(host: str, rule: v2.APIRule, facts: Facts, at: FieldPath) -> Iterator[Problem]:
    """Yield a note where hosts within a wildcard host are left to the rules of others."""
    hosts = narrower_hosts(host, facts, rule.object_name)
    if hosts:
        more = f" and {len(hosts) - _NAMED} more" if len(hosts) > _NAMED else ""
        yield Problem(
            at,
            Reason.MISLEADING,
            f"Other rules decide about {', '.join(hosts[:_NAMED])}{more}, within {host}",
            "Take the other rules away if this one should answer for those hosts too.",
            Severity.NOTE,
        )
