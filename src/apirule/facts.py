"""What the cluster knows: Gateways, Services, Pods, hosts in use, authorizers, the domain.

An immutable view, built from typed resources; the core asks it and nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypeVar, cast

import msgspec

from apirule import providers as mesh_config
from apirule.apis import core, networking, security
from apirule.apis.meta import Resource
from apirule.names import ObjectName
from apirule.ownership import owner_of
from apirule.providers import Providers

R = TypeVar("R", bound=Resource)
K = TypeVar("K")
V = TypeVar("V")

DEFAULT_GATEWAY = ObjectName("kyma-system", "kyma-gateway")
"""The Gateway that gives the default domain."""


INJECTION_LABEL = "istio-injection"


class FoundGateway(NamedTuple):
    """``swapped``: there is none of the name as written, but one of the name turned round."""

    gateway: networking.Gateway
    swapped: bool


class Facts(msgspec.Struct, frozen=True):
    """Build it with ``Facts.of``.

    ``space_delimited_claims`` is False for an Istio whose RequestAuthentication lacks the field.
    """

    gateways: Mapping[ObjectName, networking.Gateway] = msgspec.field(default_factory=dict)
    services: Mapping[ObjectName, core.Service] = msgspec.field(default_factory=dict)
    namespaces: Mapping[str, core.Namespace] = msgspec.field(default_factory=dict)
    pods: Mapping[str, tuple[core.Pod, ...]] = msgspec.field(default_factory=dict)
    """By namespace."""
    hosts: Mapping[str, tuple[networking.VirtualService, ...]] = msgspec.field(default_factory=dict)
    """The VirtualServices that list a host."""
    guarded_hosts: Mapping[str, frozenset[ObjectName]] = msgspec.field(default_factory=dict)
    """The APIRules whose policies name a host."""
    default_domain: str | None = None
    space_delimited_claims: bool = True
    providers: Providers = mesh_config.NONE
    """The external authorizers that the mesh configuration knows."""

    @classmethod
    def of(
        cls,
        resources: Iterable[Resource],
        *,
        default_domain: str | None = None,
        space_delimited_claims: bool = True,
    ) -> Facts:
        """Sort resources by what is asked of them; other kinds are left out.

        Without ``default_domain`` the default Gateway gives it.
        """
        by_kind: defaultdict[type[Resource], list[Resource]] = defaultdict(list)
        for resource in resources:
            by_kind[type(resource)].append(resource)

        def every(kind: type[R]) -> list[R]:
            return cast("list[R]", by_kind[kind])

        gateways = {one.object_name: one for one in every(networking.Gateway)}
        config = [c for c in every(core.ConfigMap) if c.object_name == mesh_config.CONFIG_MAP]
        return cls(
            gateways=gateways,
            services={one.object_name: one for one in every(core.Service)},
            namespaces={one.metadata.name: one for one in every(core.Namespace)},
            pods=_grouped((pod.metadata.namespace, pod) for pod in every(core.Pod)),
            hosts=_grouped(
                (host, routes)
                for routes in every(networking.VirtualService)
                for host in routes.spec.hosts
            ),
            guarded_hosts=_guarded(every(security.AuthorizationPolicy)),
            default_domain=default_domain or _default_domain(gateways.get(DEFAULT_GATEWAY)),
            space_delimited_claims=space_delimited_claims,
            providers=mesh_config.read(config[-1]) if config else mesh_config.NONE,
        )

    def find_gateway(self, name: ObjectName) -> FoundGateway | None:
        """Return the Gateway of this name, or the one whose namespace and name are swapped."""
        if (gateway := self.gateways.get(name)) is not None:
            return FoundGateway(gateway, swapped=False)
        if (gateway := self.gateways.get(ObjectName(name.name, name.namespace))) is not None:
            return FoundGateway(gateway, swapped=True)
        return None

    def injects_sidecars(self, namespace: str) -> bool:
        """Whether Pods made in a namespace from now on get a sidecar."""
        found = self.namespaces.get(namespace)
        return found is not None and found.labels.get(INJECTION_LABEL) == "enabled"

    def selected_pods(self, namespace: str, selector: Mapping[str, str]) -> Iterator[core.Pod]:
        """Yield the Pods that carry all labels of a selector; an empty one selects none."""
        if not selector:
            return
        for pod in self.pods.get(namespace, ()):
            if selector.items() <= pod.labels.items():
                yield pod


def _grouped(pairs: Iterable[tuple[K, V]]) -> dict[K, tuple[V, ...]]:
    groups: dict[K, list[V]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return {key: tuple(group) for key, group in groups.items()}


def _guarded(
    policies: Iterable[security.AuthorizationPolicy],
) -> dict[str, frozenset[ObjectName]]:
    owned = ((policy, owner_of(policy.labels)) for policy in policies)
    pairs = ((h, owner) for policy, owner in owned if owner for h in policy_hosts(policy))
    return {host: frozenset(owners) for host, owners in _grouped(pairs).items()}


def policy_hosts(policy: security.AuthorizationPolicy) -> frozenset[str]:
    """Return the hosts that the rules of a policy are about."""
    return frozenset(
        host for rule in policy.spec.rules for to in rule.to for host in to.operation.hosts
    )


def gateway_hosts(gateway: networking.Gateway) -> Iterator[str]:
    """Yield the hosts of all servers, without the namespace that may stand before one."""
    for server in gateway.spec.servers:
        for host in server.hosts:
            yield host.rpartition("/")[2]


def gateway_domain(gateway: networking.Gateway) -> str | None:
    """Return what a short host is completed with: the first host, without ``*.``."""
    first = next(gateway_hosts(gateway), None)
    return first.removeprefix("*.") if first is not None else None


def full_host(host: str, gateway: networking.Gateway) -> str:
    """Complete a short host with the domain of the Gateway."""
    domain = gateway_domain(gateway)
    return host if "." in host or domain is None else f"{host}.{domain}"


def _default_domain(gateway: networking.Gateway | None) -> str | None:
    """Return the domain of a Gateway with exactly one HTTPS server and one ``*.`` host."""
    if gateway is None:
        return None
    secure = [s for s in gateway.spec.servers if s.port.protocol.upper() == "HTTPS"]
    if len(secure) != 1 or len(secure[0].hosts) != 1:
        return None
    host = secure[0].hosts[0].rpartition("/")[2]
    return host.removeprefix("*.") if host.startswith("*.") else None
