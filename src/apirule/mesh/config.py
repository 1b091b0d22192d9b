"""What one proxy is told, and what the whole mesh has in common."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec
from google.protobuf.message import Message

from apirule import names
from apirule.apis.meta import ObjectRef
from apirule.problem import Problem


class TypeUrl(StrEnum):
    """In the order in which additions are pushed; removals go the other way."""

    CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    ENDPOINT = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - a type name
    LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
    ROUTE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
    EXTENSION = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"


class MeshSettings(msgspec.Struct, frozen=True):
    """``missing_token_status`` 401 answers as RFC 6750 asks, 403 as Istio does."""

    trust_domain: str = names.TRUST_DOMAIN
    trust_domain_aliases: tuple[str, ...] = ()
    """Other names of this mesh, in policies and in the certificates of callers."""
    root_namespace: str = "istio-system"
    missing_token_status: int = 401
    is_port_in_host_ignored: bool = True
    """Whether hosts of policies are met with a port, and with a dot at their end, as well."""
    gateway_address: str = "127.0.0.1"
    """What gateways bind; ``0.0.0.0`` lets other machines in."""
    system_roots: str = ""
    """The file of the CAs this machine trusts, in PEM; empty: it has none."""

    @property
    def trust_domains(self) -> tuple[str, ...]:
        """The names of this mesh, its own first."""
        return tuple(dict.fromkeys((self.trust_domain, *self.trust_domain_aliases)))


class ProxyConfig(msgspec.Struct, frozen=True):
    """``sources`` names the objects each resource was made of, so that a refusal finds them."""

    resources: Mapping[TypeUrl, Mapping[str, Message]]
    sources: Mapping[tuple[TypeUrl, str], frozenset[ObjectRef]] = msgspec.field(
        default_factory=dict
    )
    problems: Mapping[ObjectRef, tuple[Problem, ...]] = msgspec.field(default_factory=dict)
