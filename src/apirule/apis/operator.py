"""APIGateway v1alpha1: whether there is a default Gateway. Cluster-scoped."""

from __future__ import annotations

from typing import ClassVar

from apirule.apis.meta import Condition, GroupVersionKind, Resource, Wire

GROUP = "operator.kyma-project.io"


class APIGatewaySpec(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    enable_kyma_gateway: bool = False
    network_policies_enabled: bool = False
    """Accepted, and without effect on one machine: there are no networks to part."""


class APIGatewayStatus(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    state: str = ""
    description: str = ""
    conditions: tuple[Condition, ...] = ()


class APIGateway(Resource, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    gvk: ClassVar = GroupVersionKind(GROUP, "v1alpha1", "APIGateway")
    spec: APIGatewaySpec = APIGatewaySpec()
    status: APIGatewayStatus = APIGatewayStatus()
