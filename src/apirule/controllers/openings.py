"""Policies of a wildcard host that still open a host within it, which has rules of its own.

They are changed by the reconciliation of their own rule, once the guards of the narrower one are
there. Until every proxy has them, the narrower rule must not route anything: under its host the
wildcard would let in whoever may not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from apirule.apis import security
from apirule.apis.meta import Object, ObjectRef, Resource
from apirule.controllers.triggers import NAMESPACE
from apirule.facts import policy_hosts
from apirule.kube.informer import Delta, Informer, name_of
from apirule.names import ObjectName
from apirule.ownership import owner_of
from apirule.translate.status import Enforcement, Verdict, is_in_force
from apirule.validate.neighbours import host_within

WIDE = "wide"


class Openings:
    """``reports``: the engine says of its objects what its proxies have."""

    def __init__(self, rules: Informer, policies: Informer, *, reports: bool) -> None:
        self._rules = rules
        self._policies = policies
        self._reports = reports
        policies.add_index(WIDE, _namespace_if_wide)

    def of(self, rule: ObjectName, resources: Iterable[Resource]) -> Enforcement | None:
        """Return what a rule waits for; None if no policy of another one opens its host."""
        for own in resources:
            if not isinstance(own, security.AuthorizationPolicy):
                continue
            for other in self._policies.by_index(WIDE, own.metadata.namespace):
                owner = owner_of(other["metadata"].get("labels") or {})
                if owner in (None, rule):
                    continue
                for host in policy_hosts(own):
                    text = self._opens(other, host)
                    if text:
                        text = f"{ObjectRef.of(other)} of APIRule {owner} {text}."
                        return Enforcement(Verdict.FALSE, "Waiting", text)
        return None

    def concerned(self, delta: Delta) -> Iterator[ObjectName]:
        """Yield the rules with Services in the namespace of a policy of a wildcard host."""
        if any(one is not None and _operations(one) for one in (delta.old, delta.new)):
            namespace = name_of(delta.current).namespace
            yield from (name_of(rule) for rule in self._rules.by_index(NAMESPACE, namespace))

    def _opens(self, policy: Object, host: str) -> str:
        around = [
            operation
            for operation in _operations(policy)
            if any(pattern != host and host_within(host, pattern) for pattern in operation["hosts"])
        ]
        if not all(_leaves_out(operation, host) for operation in around):
            return f"still opens {host}"
        if around and self._reports and not is_in_force(policy):
            return f"is not in force yet without {host}"
        return ""


def _leaves_out(operation: dict[str, Any], host: str) -> bool:
    return any(host_within(host, one) for one in operation.get("notHosts") or ())


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
