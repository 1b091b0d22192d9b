"""An index over all resources the engine reads, for one moment.

Everything is looked up by what names it, so that building one proxy never walks over what does
not concern it. Objects that a proxy refused (``rejected``) are not served any more: Gateways,
VirtualServices, Services, ServiceEntries and Secrets are left out here; policies and
DestinationRules stay, because what they select must be closed, not opened.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar, cast

import msgspec

from apirule import names, ownership, providers
from apirule.apis import core, networking, security
from apirule.apis.meta import ObjectRef, Resource
from apirule.mesh import hosts
from apirule.mesh.config import MeshSettings
from apirule.mesh.memo import Memo
from apirule.mesh.proxy import Proxy, Role, has_proxy, proxy_of
from apirule.names import ObjectName
from apirule.providers import Fault, Providers

if TYPE_CHECKING:
    from apirule.keysets import KeySet

R = TypeVar("R", bound=Resource)
T = TypeVar("T")

APP_ANNOTATION = "apirule.local/app"
"""On an EndpointSlice: the unix socket of an application that has no sidecar."""

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
MESH = "mesh"
"""The reserved gateway name that means every sidecar."""

_LEFT_OUT_WHEN_REJECTED = frozenset(
    {"Gateway", "VirtualService", "Service", "ServiceEntry", "Secret"}
)


class ServiceEndpoint(msgspec.Struct, frozen=True):
    """One place a Service port is served. ``proxy`` is None where no sidecar stands before it."""

    address: str
    """An IP address, or ``unix:/path``."""
    port: int
    """0 for a unix socket."""
    pod: core.Pod | None
    proxy: Proxy | None
    workload_port: int
    """The port of the Pod behind it, which policies name; 0 when unknown."""
    slice: ObjectRef


class _Group:
    """The resources of one kind, and what was worked out from them alone.

    It goes on from one snapshot to the next for as long as none of them changes.
    """

    __slots__ = ("_found", "resources")

    def __init__(self, resources: list[Resource]) -> None:
        self.resources = resources
        self._found: dict[Hashable, object] = {}

    def __call__(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self._found:
            self._found[key] = make()
        return cast("T", self._found[key])


class _Verdicts(msgspec.Struct, frozen=True, eq=False):
    """Which objects count in another way than they stand, and which keys may be believed."""

    rejected: Mapping[ObjectRef, str]
    key_sets: Mapping[tuple[str, str], KeySet]


class Snapshot:
    """Read it, never change it: several proxies are built from one snapshot."""

    def __init__(
        self,
        groups: dict[type[Resource], _Group],
        *,
        settings: MeshSettings,
        verdicts: _Verdicts,
    ) -> None:
        self.settings = settings
        self.key_sets = verdicts.key_sets
        self.rejected = verdicts.rejected
        self.memo = Memo()
        """What was worked out from this snapshot and is the same for every proxy."""
        self._groups = groups
        self._verdicts = verdicts
        self._endpoints: dict[tuple[ObjectName, str], tuple[ServiceEndpoint, ...]] = {}

    @classmethod
    def of(
        cls,
        resources: Iterable[Resource],
        *,
        settings: MeshSettings | None = None,
        key_sets: Mapping[tuple[str, str], KeySet] | None = None,
        rejected: Mapping[ObjectRef, str] | None = None,
        before: Snapshot | None = None,
    ) -> Snapshot:
        """Index the resources. Their order does not matter.

        ``before`` is the snapshot of a moment ago: what did not change is not indexed again.
        """
        refused = dict(rejected or {})
        by_kind: defaultdict[type[Resource], list[Resource]] = defaultdict(list)
        for resource in resources:
            by_kind[type(resource)].append(resource)
        for ref in refused:
            if ref.kind not in _LEFT_OUT_WHEN_REJECTED:
                continue
            for kind, group in by_kind.items():
                if kind.gvk.kind == ref.kind and kind.gvk.group == ref.group:
                    by_kind[kind] = [r for r in group if r.object_name != ref.object_name]
        verdicts = _Verdicts(MappingProxyType(refused), MappingProxyType(dict(key_sets or {})))
        groups = {kind: _Group(group) for kind, group in by_kind.items()}
        if before is not None:
            for kind, known in before._groups.items():
                if kind in groups and groups[kind].resources == known.resources:
                    groups[kind] = known
            same = (before.rejected, before.key_sets) == (verdicts.rejected, verdicts.key_sets)
            verdicts = before._verdicts if same else verdicts
        return cls(groups, settings=settings or MeshSettings(), verdicts=verdicts)

    def edition(self, *, without: Collection[type[Resource]] = ()) -> object:
        """Return what equals that of another snapshot only if nothing differs but these kinds."""
        kept = frozenset(
            group for kind, group in self._groups.items() if kind not in without and group.resources
        )
        return kept, self._verdicts, self.settings

    # Anything

    def of_kind(self, kind: type[R], namespace: str | None = None) -> tuple[R, ...]:
        """Return all resources of a kind (in a namespace) in creation order, the oldest first."""
        found = self._group(kind)(("sorted", namespace), lambda: self._sorted(kind, namespace))
        return cast("tuple[R, ...]", found)  # grouped by exactly this type

    def _sorted(self, kind: type[Resource], namespace: str | None) -> tuple[Resource, ...]:
        if namespace is not None:
            return tuple(self._in_namespaces(kind).get(namespace, ()))
        return tuple(sorted(self._group(kind).resources, key=_age))

    def _in_namespaces(self, kind: type[Resource]) -> Mapping[str, list[Resource]]:
        def make() -> Mapping[str, list[Resource]]:
            groups: defaultdict[str, list[Resource]] = defaultdict(list)
            for resource in self.of_kind(kind):
                groups[resource.metadata.namespace].append(resource)
            return groups

        return self._group(kind)("namespaces", make)

    def _group(self, kind: type[Resource]) -> _Group:
        if kind not in self._groups:
            self._groups[kind] = _Group([])
        return self._groups[kind]

    # Services

    @property
    def services(self) -> Mapping[ObjectName, core.Service]:
        return self._group(core.Service)("services", self._index_services)

    def _index_services(self) -> Mapping[ObjectName, core.Service]:
        return {service.object_name: service for service in self.of_kind(core.Service)}

    def service(self, host: str, namespace: str) -> core.Service | None:
        """Return the Service a destination means. Istio: only a name without dots is short."""
        if "." not in host:
            return self.services.get(ObjectName(namespace, host))
        name = hosts.service_of(host)
        return self.services.get(name) if name else None

    def endpoints(
        self, service: core.Service, port: core.ServicePort
    ) -> tuple[ServiceEndpoint, ...]:
        """Return where a port of a Service is ready to be served, in a stable order."""
        key = (service.object_name, port.name)
        found = self._endpoints.get(key)
        if found is None:
            unique = {(e.address, e.port): e for e in self._walk_endpoints(service, port)}
            found = self._endpoints[key] = tuple(unique[place] for place in sorted(unique))
        return found

    def slices(self, service: ObjectName) -> tuple[core.EndpointSlice, ...]:
        return tuple(self._slices.get(service, ()))

    @property
    def _slices(self) -> Mapping[ObjectName, list[core.EndpointSlice]]:
        return self._group(core.EndpointSlice)("slices", self._index_slices)

    def _index_slices(self) -> Mapping[ObjectName, list[core.EndpointSlice]]:
        slices: defaultdict[ObjectName, list[core.EndpointSlice]] = defaultdict(list)
        for piece in self.of_kind(core.EndpointSlice):
            service = piece.labels.get(SERVICE_NAME_LABEL)
            if service:
                slices[ObjectName(piece.metadata.namespace, service)].append(piece)
        return slices

    def _walk_endpoints(
        self, service: core.Service, port: core.ServicePort
    ) -> Iterator[ServiceEndpoint]:
        for piece in self.slices(service.object_name):
            app = piece.annotations.get(APP_ANNOTATION, "")
            numbers = [p.port for p in piece.ports if p.name == port.name]
            for endpoint in piece.endpoints:
                if not endpoint.conditions.ready:
                    continue
                pod = self._target(endpoint, piece.metadata.namespace)
                proxy = self.sidecar(pod) if pod else None
                if self._is_unknown(endpoint, pod, proxy):
                    continue
                if app and proxy is None:
                    yield ServiceEndpoint(app, 0, pod, None, 0, piece.ref)
                    continue
                for number in numbers:
                    behind = _workload_port(proxy, number)
                    for address in endpoint.addresses[:1]:
                        yield ServiceEndpoint(address, number, pod, proxy, behind, piece.ref)

    def _target(self, endpoint: core.Endpoint, namespace: str) -> core.Pod | None:
        target = endpoint.target_ref
        if target is None or target.kind != "Pod":
            return None
        return self.pods.get(ObjectName(target.namespace or namespace, target.name))

    def services_selecting(self, namespace: str, labels: Mapping[str, str]) -> list[core.Service]:
        """Return the Services of a namespace that select a Pod with these labels."""
        return [
            service
            for service in self.of_kind(core.Service, namespace)
            if service.spec.selector and selects(service.spec.selector, labels)
        ]

    # Pods and proxies

    @property
    def pods(self) -> Mapping[ObjectName, core.Pod]:
        return self._group(core.Pod)("pods", self._index_pods)

    def _index_pods(self) -> Mapping[ObjectName, core.Pod]:
        return {pod.object_name: pod for pod in self.of_kind(core.Pod)}

    def pods_selected(self, namespace: str, selector: Mapping[str, str]) -> tuple[core.Pod, ...]:
        """Return the Pods a selector takes; an empty selector takes all of the namespace."""
        if not selector:
            return self.of_kind(core.Pod, namespace)
        groups = [self._labelled.get((namespace, *label), []) for label in selector.items()]
        return tuple(pod for pod in min(groups, key=len) if selects(selector, pod.labels))

    @property
    def _labelled(self) -> Mapping[tuple[str, str, str], list[core.Pod]]:
        return self._group(core.Pod)("labelled", self._index_labelled)

    def _index_labelled(self) -> Mapping[tuple[str, str, str], list[core.Pod]]:
        groups: defaultdict[tuple[str, str, str], list[core.Pod]] = defaultdict(list)
        for pod in self.of_kind(core.Pod):
            for key, value in pod.labels.items():
                groups[pod.metadata.namespace, key, value].append(pod)
        return groups

    def proxy(self, name: ObjectName) -> Proxy | None:
        pod = self.pods.get(name)
        if pod is None:
            return None
        return self._group(core.Pod)(("proxy", name), partial(_readable_proxy, pod))

    def sidecar(self, pod: core.Pod) -> Proxy | None:
        """Return the sidecar of a Pod, None for a gateway or a Pod outside the mesh."""
        if not has_proxy(pod):
            return None
        proxy = self.proxy(pod.object_name)
        return proxy if proxy and proxy.role is Role.SIDECAR else None

    def _is_unknown(
        self, endpoint: core.Endpoint, pod: core.Pod | None, proxy: Proxy | None
    ) -> bool:
        """Whether a Pod stands there that we cannot describe: it is not called in plain text."""
        if pod is None:
            return endpoint.target_ref is not None and endpoint.target_ref.kind == "Pod"
        return proxy is None and has_proxy(pod) and self.proxy(pod.object_name) is None

    def proxies(self) -> Iterator[Proxy]:
        """Yield every proxy of the mesh, sidecars and gateways, in creation order."""
        for pod in self.of_kind(core.Pod):
            proxy = self.proxy(pod.object_name)
            if proxy is not None:
                yield proxy

    # Gateways and VirtualServices

    def gateways_of(self, proxy: Proxy) -> tuple[networking.Gateway, ...]:
        """Return the Gateways a proxy serves. One without a selector is served by every gateway."""
        return tuple(
            gateway
            for gateway in self.of_kind(networking.Gateway)
            if selects(gateway.spec.selector or {}, proxy.labels)
        )

    def virtual_services(self, gateway: ObjectName) -> tuple[networking.VirtualService, ...]:
        """Return the VirtualServices bound to a Gateway, the oldest first."""
        return tuple(self._bound.get(str(gateway), ()))

    @property
    def mesh_virtual_services(self) -> tuple[networking.VirtualService, ...]:
        """VirtualServices for the traffic inside the mesh: bound to ``mesh``, or to nothing."""
        return tuple(self._bound.get(MESH, ()))

    @property
    def _bound(self) -> Mapping[str, list[networking.VirtualService]]:
        return self._group(networking.VirtualService)("bound", self._index_bound)

    def _index_bound(self) -> Mapping[str, list[networking.VirtualService]]:
        bound: defaultdict[str, list[networking.VirtualService]] = defaultdict(list)
        for service in self.of_kind(networking.VirtualService):
            for gateway in dict.fromkeys(service.spec.gateways or (MESH,)):
                # Istio: a name without a slash means a Gateway of the same namespace.
                full = gateway if gateway == MESH or "/" in gateway else _in(service, gateway)
                bound[full].append(service)
        return bound

    @property
    def written_virtual_services(self) -> tuple[networking.VirtualService, ...]:
        """Those for gateways that do not belong to an APIRule."""
        return self._group(networking.VirtualService)("written", self._index_written)

    def _index_written(self) -> tuple[networking.VirtualService, ...]:
        return tuple(
            routes
            for routes in self.of_kind(networking.VirtualService)
            if not is_of_rule(routes) and set(routes.spec.gateways) - {MESH}
        )

    @property
    def exposed_services(self) -> frozenset[ObjectName]:
        """Services to which the VirtualServices of APIRules lead."""
        return self._group(networking.VirtualService)("exposed", self._index_exposed)

    def _index_exposed(self) -> frozenset[ObjectName]:
        return frozenset(
            hosts.service_of(to.destination.host)
            or ObjectName(routes.metadata.namespace, to.destination.host)
            for routes in self.of_kind(networking.VirtualService)
            if is_of_rule(routes)
            for http in routes.spec.http
            for to in http.route
        )

    # Policies and credentials

    def request_authentications(self, namespace: str) -> tuple[security.RequestAuthentication, ...]:
        return self.of_kind(security.RequestAuthentication, namespace)

    def authorization_policies(self, namespace: str) -> tuple[security.AuthorizationPolicy, ...]:
        return self.of_kind(security.AuthorizationPolicy, namespace)

    def peer_authentications(self, namespace: str) -> tuple[security.PeerAuthentication, ...]:
        return self.of_kind(security.PeerAuthentication, namespace)

    @cached_property
    def mesh_config(self) -> core.ConfigMap | None:
        """The ConfigMap that holds the mesh configuration."""
        found = self.of_kind(core.ConfigMap, providers.CONFIG_MAP.namespace)
        return next(
            (config_map for config_map in found if config_map.object_name == providers.CONFIG_MAP),
            None,
        )

    @cached_property
    def providers(self) -> Providers:
        """The external authorizers that CUSTOM policies name."""
        config_map = self.mesh_config
        if config_map is not None and config_map.ref in self.rejected:
            return Providers(fault=Fault.REFUSED)
        return providers.read(config_map)

    @property
    def secrets(self) -> Mapping[ObjectName, core.Secret]:
        return self._group(core.Secret)("secrets", self._index_secrets)

    def _index_secrets(self) -> Mapping[ObjectName, core.Secret]:
        return {secret.object_name: secret for secret in self.of_kind(core.Secret)}


def is_of_rule(routes: networking.VirtualService) -> bool:
    """Whether the routes were made from an APIRule, whose policies come with them."""
    return ownership.owner_of(routes.labels) is not None


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether all labels of the selector are there; an empty selector takes everything."""
    return selector.items() <= labels.items()


def _age(resource: Resource) -> tuple[str, str, str]:
    meta = resource.metadata
    return (meta.creation_timestamp or "", meta.name, meta.namespace)


def _in(resource: Resource, name: str) -> str:
    return str(ObjectName(resource.metadata.namespace, name))


def _readable_proxy(pod: core.Pod) -> Proxy | None:
    """Return the proxy of a Pod, None as well where someone spoiled the kubelet's annotations."""
    try:
        return proxy_of(pod)
    except (ValueError, TypeError, KeyError):
        return None


def _workload_port(proxy: Proxy | None, number: int) -> int:
    """Return the port of the workload behind a port of its sidecar, 0 without one."""
    inbound = proxy.inbound if proxy else ()
    return next((port.port for port in inbound if port.listen == number), 0)


def service_account(pod: core.Pod, trust_domain: str) -> str:
    """Return the SPIFFE identity of a Pod."""
    account = pod.spec.service_account_name or "default"
    return names.spiffe_id(pod.metadata.namespace, account, trust_domain)
