"""Status of an APIGateway, in the words of the Kyma operator, and what stands in its way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from apirule.apis.meta import Condition, Object, ObjectRef
from apirule.apis.operator import APIGateway, APIGatewayStatus
from apirule.facts import DEFAULT_GATEWAY
from apirule.names import ObjectName
from apirule.translate.status import State

HEALTH = ObjectName("istio-system", "istio-healthz")
"""The VirtualService that comes and goes with the Gateway."""

_SHOWN = 3
_NAMES = {str(DEFAULT_GATEWAY), f"{DEFAULT_GATEWAY.name}/{DEFAULT_GATEWAY.namespace}"}
"""As it is written, and with the two halves swapped."""


def oldest(gateways: Iterable[APIGateway]) -> APIGateway | None:
    """Return the one that counts."""
    return min(
        gateways,
        key=lambda one: (one.metadata.creation_timestamp or "", one.metadata.name),
        default=None,
    )


def users(rules: Iterable[Object], routes: Iterable[Object]) -> Iterator[ObjectRef]:
    """Yield the APIRules and VirtualServices that refer to the default Gateway."""
    for rule in rules:
        if str((rule.get("spec") or {}).get("gateway")) in _NAMES:
            yield ObjectRef.of(rule)
    for route in routes:
        ref = ObjectRef.of(route)
        if ref.object_name == HEALTH:
            continue
        for gateway in (route.get("spec") or {}).get("gateways") or ():
            if ObjectName.parse(str(gateway), default_namespace=ref.namespace) == DEFAULT_GATEWAY:
                yield ref
                break


def ready(gateway: APIGateway, now: datetime) -> APIGatewayStatus:
    text = "Successfully reconciled"
    return _status(gateway, State.READY, "ReconcileSucceeded", text, now)


def not_the_oldest(gateway: APIGateway, name: str, now: datetime) -> APIGatewayStatus:
    text = f"stopped APIGateway CR reconciliation: only APIGateway CR {name} reconciles the module"
    return _status(gateway, State.WARNING, "OlderCRExists", text, now)


def kept(gateway: APIGateway, blockers: Sequence[ObjectRef], now: datetime) -> APIGatewayStatus:
    """Say why the default Gateway stays though it is switched off."""
    text = f"The Gateway {DEFAULT_GATEWAY} is still used by {_listed(blockers)}"
    return _status(gateway, State.WARNING, "KymaGatewayDeletionBlocked", text, now)


def undeleted(
    gateway: APIGateway, blockers: Sequence[ObjectRef], now: datetime
) -> APIGatewayStatus:
    """Say why the APIGateway stays though it is deleted."""
    text = f"Delete these first: {_listed(blockers)}"
    return _status(gateway, State.WARNING, "DeletionBlockedExistingResources", text, now)


def _status(
    gateway: APIGateway, state: State, reason: str, text: str, now: datetime
) -> APIGatewayStatus:
    verdict = "True" if state is State.READY else "False"
    before = next((one for one in gateway.status.conditions if one.type == "Ready"), None)
    since = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if before is not None and before.status == verdict and before.last_transition_time:
        since = before.last_transition_time
    condition = Condition(
        type="Ready",
        status=verdict,
        reason=reason,
        message=text,
        observed_generation=gateway.metadata.generation,
        last_transition_time=since,
    )
    return APIGatewayStatus(state=state, description=text, conditions=(condition,))


def _listed(refs: Sequence[ObjectRef]) -> str:
    ordered = [str(ref) for ref in sorted(refs)]
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more
