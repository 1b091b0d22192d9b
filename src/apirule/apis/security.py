"""Istio security: who may talk to a workload, and which tokens are believed.

A field that stands here is implemented by the local engine; ``scheme.unknown_fields`` finds the
others, and the engine reports them on the object and closes the workload.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from apirule.apis.meta import GroupVersionKind, Resource, Wire
from apirule.apis.networking import IstioStatus

GROUP = "security.istio.io"

DRY_RUN = "istio.io/dry-run"
"""An annotation: an AuthorizationPolicy with ``true`` is tried and logged, and not enforced."""


class WorkloadSelector(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    match_labels: dict[str, str] | None = None


class JWTHeader(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str
    prefix: str = ""


class ClaimToHeader(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    header: str
    claim: str


class JWTRule(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    issuer: str
    jwks_uri: str = ""
    jwks: str = ""
    audiences: tuple[str, ...] = ()
    from_headers: tuple[JWTHeader, ...] = ()
    from_params: tuple[str, ...] = ()
    from_cookies: tuple[str, ...] = ()
    output_payload_to_header: str = ""
    output_claim_to_headers: tuple[ClaimToHeader, ...] = ()
    forward_original_token: bool = False
    space_delimited_claims: tuple[str, ...] = ()


class RequestAuthenticationSpec(
    Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True
):
    selector: WorkloadSelector | None = None
    jwt_rules: tuple[JWTRule, ...] = ()


class RequestAuthentication(
    Resource, frozen=True, kw_only=True, rename="camel", omit_defaults=True
):
    gvk: ClassVar = GroupVersionKind(GROUP, "v1beta1", "RequestAuthentication")
    spec: RequestAuthenticationSpec = RequestAuthenticationSpec()
    status: IstioStatus = IstioStatus()


class Source(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """All fields given must hold; one value of a field suffices."""

    principals: tuple[str, ...] = ()
    not_principals: tuple[str, ...] = ()
    request_principals: tuple[str, ...] = ()
    not_request_principals: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    not_namespaces: tuple[str, ...] = ()
    service_accounts: tuple[str, ...] = ()
    not_service_accounts: tuple[str, ...] = ()
    trust_domains: tuple[str, ...] = ()
    not_trust_domains: tuple[str, ...] = ()
    ip_blocks: tuple[str, ...] = ()
    not_ip_blocks: tuple[str, ...] = ()
    remote_ip_blocks: tuple[str, ...] = ()
    not_remote_ip_blocks: tuple[str, ...] = ()


class From(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    source: Source = Source()


class Operation(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    hosts: tuple[str, ...] = ()
    not_hosts: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    not_ports: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    not_methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    not_paths: tuple[str, ...] = ()


class To(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    operation: Operation = Operation()


class When(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    key: str
    values: tuple[str, ...] = ()
    not_values: tuple[str, ...] = ()


class AuthorizationRule(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    from_: tuple[From, ...] = msgspec.field(default=(), name="from")
    to: tuple[To, ...] = ()
    when: tuple[When, ...] = ()


class ExtensionProvider(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""


class AuthorizationPolicySpec(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    selector: WorkloadSelector | None = None
    action: str = "ALLOW"
    provider: ExtensionProvider | None = None
    rules: tuple[AuthorizationRule, ...] = ()


class AuthorizationPolicy(Resource, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    gvk: ClassVar = GroupVersionKind(GROUP, "v1beta1", "AuthorizationPolicy")
    spec: AuthorizationPolicySpec = AuthorizationPolicySpec()
    status: IstioStatus = IstioStatus()


class MutualTLS(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    mode: str = "UNSET"


class PeerAuthenticationSpec(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    selector: WorkloadSelector | None = None
    mtls: MutualTLS | None = None
    port_level_mtls: dict[str, MutualTLS] | None = None


class PeerAuthentication(Resource, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    gvk: ClassVar = GroupVersionKind(GROUP, "v1beta1", "PeerAuthentication")
    spec: PeerAuthenticationSpec = PeerAuthenticationSpec()
    status: IstioStatus = IstioStatus()
