"""Policies of a wildcard host that still open a host within it, which has rules of its own.

They are changed by the reconciliation of their own rule, a moment later. Until then the narrower
rule is not enforced, and must not say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from apirule.apis import security
from apirule.apis.meta import Object, ObjectRef, Resource
from apirule.controllers.triggers import NAMESPACE
from apirule.kube.informer import Delta, Informer, name_of
from apirule.names import ObjectName
from apirule.ownership import owner_of
from apirule.translate.status import Enforcement, Verdict
from apirule.validate.neighbours import host_within

WIDE = "wide"


class Openings:
    def __init__(self, rules: Informer, policies: Informer) -> None:
        self._rules = rules
        self._policies = policies
        policies.add_index(WIDE, _namespace_if_wide)

    def of(self, rule: ObjectName, resources: Iterable[Resource]) -> Enforcement | None:
        """Return what a rule waits for; None if no policy of another one opens its host."""
        for own in resources:
            if not isinstance(own, security.AuthorizationPolicy):
                continue
            for other in self._policies.by_index(WIDE, own.metadata.namespace):
                owner = owner_of(other["metadata"].get("labels") or {})
                if owner in (None, rule) or not _meet(own, other):
                    continue
                for host in _hosts(own):
                    if _opens(other, host):
                        text = f"{ObjectRef.of(other)} of APIRule {owner} still opens {host}."
                        return Enforcement(Verdict.FALSE, "Waiting", text)
        return None

    def concerned(self, delta: Delta) -> Iterator[ObjectName]:
        """Yield the rules with Services in the namespace of a policy of a wildcard host."""
        if any(one is not None and _operations(one) for one in (delta.old, delta.new)):
            namespace = name_of(delta.current).namespace
            yield from (name_of(rule) for rule in self._rules.by_index(NAMESPACE, namespace))


def _namespace_if_wide(policy: Object) -> Iterable[str]:
    return (name_of(policy).namespace,) if _operations(policy) else ()


def _operations(policy: Object) -> list[dict[str, Any]]:
    """Return the operations that an ALLOW policy lets in under a wildcard host."""
    spec = policy.get("spec") or {}
    if spec.get("action", "ALLOW") != "ALLOW":
        return []
    return [
        operation
        for rule in spec.get("rules") or ()
        for to in rule.get("to") or ()
        if (operation := to.get("operation") or {})
        if any(host.startswith("*.") for host in operation.get("hosts") or ())
    ]


def _hosts(policy: security.AuthorizationPolicy) -> set[str]:
    return {host for rule in policy.spec.rules for to in rule.to for host in to.operation.hosts}


def _meet(own: security.AuthorizationPolicy, other: Object) -> bool:
    """Whether two policies may select a common Pod."""
    selector = ((other.get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
    labels = (own.spec.selector.match_labels if own.spec.selector else None) or {}
    return all(labels.get(key, value) == value for key, value in selector.items())


def _opens(policy: Object, host: str) -> bool:
    return any(
        pattern != host and host_within(host, pattern)
        for operation in _operations(policy)
        for pattern in operation.get("hosts") or ()
        if not any(host_within(host, left_out) for left_out in operation.get("notHosts") or ())
    )
