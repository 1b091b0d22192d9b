"""What the cluster knows: Gateways, Services, Pods, hosts in use, authorizers, the domain.

An immutable view, built from typed resources; the core asks it and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from apirule import providers as mesh_config
from apirule.apis import core, networking
from apirule.apis.meta import Resource
from apirule.names import ObjectName
from apirule.providers import Providers

DEFAULT_GATEWAY = ObjectName("kyma-system", "kyma-gateway")
"""The Gateway that gives the default domain."""


INJECTION_LABEL = "istio-injection"


class FoundGateway(NamedTuple):
    """``swapped``: there is none of the name as written, but one of the name turned round."""

    gateway: networking.Gateway
    swapped: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """Build it with ``Facts.of``.

    ``space_delimited_claims`` is False for an Istio whose RequestAuthentication lacks the field.
    """

    gateways: Mapping[ObjectName, networking.Gateway] = field(default_factory=dict)
    services: Mapping[ObjectName, core.Service] = field(default_factory=dict)
    namespaces: Mapping[str, core.Namespace] = field(default_factory=dict)
    pods: Mapping[str, tuple[core.Pod, ...]] = field(default_factory=dict)
    """By namespace."""
    hosts: Mapping[str, tuple[networking.VirtualService, ...]] = field(default_factory=dict)
    """The VirtualServices that list a host."""
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
        gateways: dict[ObjectName, networking.Gateway] = {}
        services: dict[ObjectName, core.Service] = {}
        namespaces: dict[str, core.Namespace] = {}
        pods: dict[str, list[core.Pod]] = {}
        hosts: dict[str, list[networking.VirtualService]] = {}
        providers = mesh_config.NONE
        for resource in resources:
            match resource:
                case networking.Gateway():
                    gateways[resource.object_name] = resource
                case core.Service():
                    services[resource.object_name] = resource
                case core.Namespace():
                    namespaces[resource.metadata.name] = resource
                case core.Pod():
                    pods.setdefault(resource.metadata.namespace, []).append(resource)
                case networking.VirtualService():
                    for host in resource.spec.hosts:
                        hosts.setdefault(host, []).append(resource)
                case core.ConfigMap() if resource.object_name == mesh_config.CONFIG_MAP:
                    providers = mesh_config.read(resource)
                case _:
                    pass
        return cls(
            gateways=gateways,
            services=services,
            namespaces=namespaces,
            pods={name: tuple(found) for name, found in pods.items()},
            hosts={host: tuple(found) for host, found in hosts.items()},
            default_domain=default_domain or _default_domain(gateways.get(DEFAULT_GATEWAY)),
            space_delimited_claims=space_delimited_claims,
            providers=providers,
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
