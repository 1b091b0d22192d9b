"""Which APIRules a change elsewhere concerns: no more than those, and none forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from apirule.apis.meta import Object
from apirule.kube.informer import Delta, Informer, name_of
from apirule.names import ObjectName
from apirule.ownership import owner_of

GATEWAY = "gateway"
SERVICE = "service"
HOST = "host"
NAMESPACE = "namespace"
OWNER = "owner"
AUTHORIZERS = "authorizers"
_ANY = "any"


def add_rule_indexes(rules: Informer) -> None:
    rules.add_index(GATEWAY, _gateways)
    rules.add_index(SERVICE, _services)
    rules.add_index(HOST, _hosts)
    rules.add_index(NAMESPACE, _namespaces)
    rules.add_index(AUTHORIZERS, _authorizers)


def owner_index(obj: Object) -> Iterable[str]:
    owner = owner_of(_labels(obj))
    return () if owner is None else (str(owner),)


def is_more_than_status(delta: Delta) -> bool:
    """Whether something else than the status of an object changed."""
    return (
        delta.old is None
        or delta.new is None
        or _without_status(delta.old) != _without_status(delta.new)
    )


class Triggers:
    """Maps changes of other kinds to rules. All look-ups go through indexes."""

    def __init__(self, rules: Informer, services: Informer) -> None:
        self._rules = rules
        self._services = services

    def of_gateway(self, delta: Delta) -> Iterator[ObjectName]:
        if _differ(delta, _spec_and_labels):
            yield from self._by(GATEWAY, str(name_of(delta.current)))

    def of_service(self, delta: Delta) -> Iterator[ObjectName]:
        if _differ(delta, _spec_and_labels):
            yield from self._by(SERVICE, str(name_of(delta.current)))

    def of_mesh_config(self, delta: Delta) -> Iterator[ObjectName]:
        """Yield the rules that ask external authorizers, which the mesh configuration names."""
        if _differ(delta, _data):
            yield from self._by(AUTHORIZERS, _ANY)

    def of_pod(self, delta: Delta) -> Iterator[ObjectName]:
        """Yield the rules whose Services select a Pod that came, went or changed its labels."""
        if not _differ(delta, _spec_and_labels):
            return
        namespace = name_of(delta.current).namespace
        sets = [_labels(one).items() for one in (delta.old, delta.new) if one is not None]
        for service in self._services.by_index(NAMESPACE, namespace):
            selector = (service.get("spec") or {}).get("selector") or {}
            if selector and any(selector.items() <= labels for labels in sets):
                yield from self._by(SERVICE, str(name_of(service)))

    def of_namespace(self, delta: Delta) -> Iterator[ObjectName]:
        if _differ(delta, _labels):
            yield from self._by(NAMESPACE, name_of(delta.current).name)

    def of_routes(self, delta: Delta) -> Iterator[ObjectName]:
        """Yield the rules that want, wanted or overlap a host of a VirtualService."""
        if not _differ(delta, _spec_and_labels):
            return
        hosts = {
            str(host)
            for one in (delta.old, delta.new)
            if one is not None
            for host in (one.get("spec") or {}).get("hosts") or ()
        }
        for host in hosts:
            yield from self._of_host(host)

    def of_guards(self, delta: Delta) -> Iterator[ObjectName]:
        """Yield the rules of wildcard hosts around a host that policies came to name, or ceased."""
        before, after = (_policy_hosts(one) for one in (delta.old, delta.new))
        for host in before ^ after:
            yield from self._around(host)

    def _of_host(self, host: str) -> Iterator[ObjectName]:
        if host.startswith("*"):
            # Few Virtual Services have a wildcard; then every rule may lie under it.
            yield from (name_of(rule) for rule in self._rules)
            return
        yield from self._by(HOST, host)
        yield from self._by(HOST, host.partition(".")[0])
        yield from self._around(host)

    def _around(self, host: str) -> Iterator[ObjectName]:
        labels = host.split(".")
        for index in range(1, len(labels)):
            yield from self._by(HOST, ".".join(["*", *labels[index:]]))

    def _by(self, index: str, value: str) -> Iterator[ObjectName]:
        return (name_of(rule) for rule in self._rules.by_index(index, value))


def owner_of_change(*, reports: bool) -> Callable[[Delta], Iterator[ObjectName]]:
    """Return a mapping from an owned object to its APIRule, before and after the change.

    Without ``reports`` a change of nothing but the status concerns nobody.
    """

    def owners(delta: Delta) -> Iterator[ObjectName]:
        if not reports and not _differ(delta, _spec_and_labels):
            return
        for one in (delta.old, delta.new):
            owner = owner_of(_labels(one)) if one is not None else None
            if owner is not None:
                yield owner

    return owners


def _differ(delta: Delta, part: Callable[[Object], Any]) -> bool:
    if delta.old is None or delta.new is None:
        return True
    return bool(part(delta.old) != part(delta.new))


def _spec_and_labels(obj: Object) -> Any:
    return obj.get("spec"), _labels(obj)


def _without_status(obj: Object) -> Any:
    meta = {k: v for k, v in obj["metadata"].items() if k != "resourceVersion"}
    return meta, obj.get("spec")


def _data(obj: Object) -> Any:
    return obj.get("data")


def _policy_hosts(policy: Object | None) -> set[str]:
    spec = (policy or {}).get("spec") or {}
    return {
        str(host)
        for rule in spec.get("rules") or ()
        for to in rule.get("to") or ()
        for host in (to.get("operation") or {}).get("hosts") or ()
    }


def _labels(obj: Object) -> dict[str, str]:
    return obj["metadata"].get("labels") or {}


# ── what a rule refers to ────────────────────────────────────────────────────────────────────
# Rules are read as they stand, for one that does not decode wants to be looked at as well.


def _gateways(rule: Object) -> Iterable[str]:
    """Return the Gateway in both readings, since the two halves may have been swapped."""
    first, slash, second = str((rule.get("spec") or {}).get("gateway") or "").partition("/")
    return (f"{first}/{second}", f"{second}/{first}") if slash else ()


def _services(rule: Object) -> Iterable[str]:
    spec = rule.get("spec") or {}
    common = spec.get("service") or {}
    own = name_of(rule).namespace
    names: set[str] = set()
    for service in (common, *(one.get("service") or {} for one in spec.get("rules") or ())):
        namespace = service.get("namespace") or common.get("namespace") or own
        if service.get("name"):
            names.add(f"{namespace}/{service['name']}")
    return names


def _authorizers(rule: Object) -> Iterable[str]:
    rules = (rule.get("spec") or {}).get("rules") or ()
    return (_ANY,) if any(one.get("extAuth") for one in rules) else ()


def _namespaces(rule: Object) -> Iterable[str]:
    of_services = {one.partition("/")[0] for one in _services(rule)}
    return of_services | {name_of(rule).namespace}


def _hosts(rule: Object) -> Iterable[str]:
    return {str(host) for host in (rule.get("spec") or {}).get("hosts") or ()}


def namespace_index(obj: Object) -> Iterable[str]:
    return (name_of(obj).namespace,)
