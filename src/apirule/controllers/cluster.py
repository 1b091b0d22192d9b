"""What the controllers know of the cluster, kept up to date from informers, as typed facts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec
import structlog
from msgspec import structs

from apirule import ownership, providers
from apirule.apis import core, networking, scheme, security
from apirule.apis.meta import Object, ObjectMeta, Resource
from apirule.facts import DEFAULT_GATEWAY, Facts, policy_hosts
from apirule.kube.informer import Delta, Informer, Informers, name_of
from apirule.names import ObjectName
from apirule.providers import Providers

log = structlog.get_logger(__name__)

R = TypeVar("R", bound=Resource)


class Cluster:
    """Follows the kinds that ``Facts`` speaks of; each object is decoded once per change."""

    def __init__(self, informers: Informers, *, space_delimited_claims: bool = True) -> None:
        self._space_delimited_claims = space_delimited_claims
        self._gateways: dict[ObjectName, networking.Gateway] = {}
        self._services: dict[ObjectName, core.Service] = {}
        self._namespaces: dict[str, core.Namespace] = {}
        self._pods: dict[str, dict[str, core.Pod]] = {}
        self._pods_of: dict[str, tuple[core.Pod, ...]] = {}
        self._routes: dict[ObjectName, networking.VirtualService] = {}
        self._hosts: dict[str, tuple[networking.VirtualService, ...]] = {}
        self._hosts_of_policies: dict[ObjectName, frozenset[str]] = {}
        self._guards: dict[str, dict[ObjectName, ObjectName]] = {}
        """By host: the policies of APIRules that name it, and whose each one is."""
        self._guarded_hosts: dict[str, frozenset[ObjectName]] = {}
        self._providers: Providers = providers.NONE
        mesh_config(informers).add_handler(self._on_mesh_config)
        for kind, put in (
            (networking.Gateway, self._on_gateway),
            (networking.VirtualService, self._on_routes),
            (security.AuthorizationPolicy, self._on_policy),
            (core.Service, self._on_service),
            (core.Pod, self._on_pod),
            (core.Namespace, self._on_namespace),
        ):
            informers.of(kind.gvk).add_handler(put)

    def facts(self) -> Facts:
        """Return the facts of this moment. Use them before the next ``await``."""
        default = self._gateways.get(DEFAULT_GATEWAY)
        return Facts(
            gateways=self._gateways,
            services=self._services,
            namespaces=self._namespaces,
            pods=self._pods_of,
            hosts=self._hosts,
            guarded_hosts=self._guarded_hosts,
            default_domain=Facts.of([default] if default else []).default_domain,
            space_delimited_claims=self._space_delimited_claims,
            providers=self._providers,
        )

    def claim(self, obj: Object) -> Callable[[], None]:
        """Take the hosts of a VirtualService that is about to be written.

        Two rules that want one host must not both find it free because the informer has not
        seen the first one's write. Call what is returned if the write failed.
        """
        name = name_of(obj)
        routes = _routes(obj)
        before = self._routes.get(name)
        self._set_routes(name, routes)

        def give_back() -> None:
            if self._routes.get(name) is routes:
                self._set_routes(name, before)

        return give_back

    def _on_mesh_config(self, delta: Delta) -> None:
        self._providers = providers.read(_decoded(delta.new, core.ConfigMap))

    def _on_gateway(self, delta: Delta) -> None:
        _keep(self._gateways, name_of(delta.current), _decoded(delta.new, networking.Gateway))

    def _on_service(self, delta: Delta) -> None:
        _keep(self._services, name_of(delta.current), _decoded(delta.new, core.Service))

    def _on_namespace(self, delta: Delta) -> None:
        name = name_of(delta.current).name
        _keep(self._namespaces, name, _decoded(delta.new, core.Namespace))

    def _on_pod(self, delta: Delta) -> None:
        name = name_of(delta.current)
        pods = self._pods.setdefault(name.namespace, {})
        _keep(pods, name.name, _decoded(delta.new, core.Pod))
        self._pods_of[name.namespace] = tuple(pods.values())
        if not pods:
            del self._pods[name.namespace], self._pods_of[name.namespace]

    def _on_policy(self, delta: Delta) -> None:
        name = name_of(delta.current)
        policy = _decoded(delta.new, security.AuthorizationPolicy)
        owner = ownership.owner_of(policy.labels) if policy is not None else None
        hosts = policy_hosts(policy) if policy is not None and owner else frozenset()
        before = self._hosts_of_policies.get(name, frozenset())
        _keep(self._hosts_of_policies, name, hosts or None)
        for host in before | hosts:
            guards = self._guards.setdefault(host, {})
            _keep(guards, name, owner if host in hosts else None)
            _keep(self._guarded_hosts, host, frozenset(guards.values()) or None)
            if not guards:
                del self._guards[host]

    def _on_routes(self, delta: Delta) -> None:
        self._set_routes(name_of(delta.current), _routes(delta.new))

    def _set_routes(self, name: ObjectName, new: networking.VirtualService | None) -> None:
        old = self._routes.get(name)
        if old is not None:
            for host in old.spec.hosts:
                rest = tuple(one for one in self._hosts.get(host, ()) if one.object_name != name)
                _keep(self._hosts, host, rest or None)
        _keep(self._routes, name, new)
        if new is not None:
            for host in dict.fromkeys(new.spec.hosts):
                self._hosts[host] = (*self._hosts.get(host, ()), new)


def mesh_config(informers: Informers) -> Informer:
    """Return the informer of the one ConfigMap with the mesh configuration."""
    namespace, name = providers.CONFIG_MAP
    return informers.of(
        core.ConfigMap.gvk, namespace=namespace, field_selector=f"metadata.name={name}"
    )


K = TypeVar("K")
V = TypeVar("V")


def _keep(table: dict[K, V], key: K, value: V | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def _decoded(obj: Object | None, kind: type[R]) -> R | None:
    if obj is None:
        return None
    try:
        return scheme.decode(obj, kind)
    except msgspec.ValidationError as error:
        # To us it is as if it were not there, and whoever refers to it is told so.
        log.warning("object not read", kind=kind.gvk.kind, name=str(name_of(obj)), error=str(error))
        return None


def _routes(obj: Object | None) -> networking.VirtualService | None:
    """Read a VirtualService; of one with a form unknown to us at least the hosts it takes."""
    if obj is None:
        return None
    try:
        return _with_owner(scheme.decode(obj, networking.VirtualService))
    except msgspec.ValidationError:
        spec = obj.get("spec") or {}
        hosts = spec.get("hosts") if isinstance(spec, dict) else ()
        meta = obj["metadata"]
        labels = {str(k): str(v) for k, v in (meta.get("labels") or {}).items()}
        bare = networking.VirtualService(
            metadata=ObjectMeta(
                namespace=meta.get("namespace", ""), name=meta["name"], labels=labels
            ),
            spec=networking.VirtualServiceSpec(
                hosts=tuple(str(one) for one in hosts) if isinstance(hosts, list) else ()
            ),
        )
        return _with_owner(bare)


def _with_owner(routes: networking.VirtualService) -> networking.VirtualService:
    """Give an object under the name that we derive for a rule its labels, if a hand took them off.

    Otherwise it would seem to be a stranger that occupies the host of its own rule.
    """
    meta = routes.metadata
    if ownership.owner_of(routes.labels) is not None:
        return routes
    rule = ObjectName(meta.namespace, meta.name.rpartition("-")[0])
    ours = ownership.metadata(rule, meta.namespace, routes.gvk.kind)
    if ours.name != meta.name:
        return routes
    labels = {**routes.labels, **(ours.labels or {})}
    return structs.replace(routes, metadata=structs.replace(meta, labels=labels))
