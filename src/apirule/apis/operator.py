"""Kyma's operator resources: Istio, with the external authorizers, and APIGateway.

A field that stands here is implemented; others are kept and reported in the status.
"""

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


class InCheck(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    include: tuple[str, ...] = ()
    add: dict[str, str] | None = None


class ToUpstream(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    on_allow: tuple[str, ...] = ()


class ToDownstream(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    on_allow: tuple[str, ...] = ()
    on_deny: tuple[str, ...] = ()


class Headers(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    in_check: InCheck | None = None
    to_upstream: ToUpstream | None = None
    to_downstream: ToDownstream | None = None


class Authorizer(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str
    service: str
    port: int
    path_prefix: str = ""
    timeout: str = ""
    headers: Headers | None = None


class Config(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    authorizers: tuple[Authorizer, ...] = ()


class IstioSpec(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    config: Config | None = None


class IstioStatus(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    state: str = ""
    description: str = ""
    observed_generation: int = 0
    conditions: tuple[Condition, ...] = ()


class Istio(Resource, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    gvk: ClassVar = GroupVersionKind(GROUP, "v1alpha2", "Istio")
    spec: IstioSpec = IstioSpec()
    status: IstioStatus = IstioStatus()
