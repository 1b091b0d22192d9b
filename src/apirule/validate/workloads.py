"""Errors of what a rule exposes: the Service, and whether sidecars guard its Pods."""

from __future__ import annotations

from collections.abc import Iterator

from apirule.apis import core
from apirule.apis.gateway import v2
from apirule.facts import INJECTION_LABEL, Facts
from apirule.names import ObjectName
from apirule.problem import FieldPath, Problem, Reason

SIDECAR = "istio-proxy"

Bare = dict[ObjectName, list[ObjectName]]
"""The Pods without a sidecar behind each Service."""


def check_service(rule: v2.APIRule, one: v2.Rule, at: FieldPath) -> Iterator[Problem]:
    if one.service is None and rule.spec.service is None:
        yield Problem(
            at / "service",
            Reason.REQUIRED,
            "The rule must define a service, because no service is defined on spec level",
            "Add spec.service with name and port.",
        )


def check_sidecars(
    rule: v2.APIRule, one: v2.Rule, at: FieldPath, facts: Facts, bare: Bare
) -> Iterator[Problem]:
    """Yield a problem for each Pod that would take requests without asking a sidecar.

    ``bare`` remembers them by Service: all rules of an APIRule may have the same one.
    """
    failed = "Failed to execute sidecar injection validation, err:"
    name = rule.service_of(one)
    if name is None:
        yield Problem(
            at,
            Reason.REQUIRED,
            f"{failed} service name is required but missing",
            "Add spec.service with name and port.",
        )
        return
    service = facts.services.get(name)
    if service is None:
        yield Problem(
            at,
            Reason.NOT_FOUND,
            f'{failed} Service "{name.name}" not found',
            f"Create the Service {name.name} in namespace {name.namespace}, or correct the name"
            " or the namespace of the service.",
        )
        return
    if not service.spec.selector:
        yield Problem(
            at / "injection",
            Reason.NOT_SUPPORTED,
            "Target service label selectors are not defined",
            f"Give the Service {name} a selector: policies find their workload by it.",
        )
        return
    if name not in bare:
        pods = facts.selected_pods(name.namespace, service.spec.selector)
        bare[name] = [pod.object_name for pod in pods if not has_sidecar(pod)]
    for pod in bare[name]:
        yield Problem(
            at,
            Reason.SIDECAR_MISSING,
            f"Pod {pod} does not have an injected istio sidecar",
            _injection_fix(name.namespace, facts),
        )


def _injection_fix(namespace: str, facts: Facts) -> str:
    if facts.injects_sidecars(namespace):
        return (
            "Restart the Pod: it is older than the label of its namespace, or it opts out with"
            ' sidecar.istio.io/inject: "false".'
        )
    return (
        f"Label the namespace with kubectl label namespace {namespace} {INJECTION_LABEL}=enabled,"
        " and restart the Pod."
    )


def has_sidecar(pod: core.Pod) -> bool:
    return any(c.name == SIDECAR for c in (*pod.spec.containers, *pod.spec.init_containers))
