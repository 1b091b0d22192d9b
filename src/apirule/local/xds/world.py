"""What the store holds, as the mesh reads it: decoded once per change, kept ready for a snapshot.

An object is kept without its status and the noise of its metadata, so that "did anything change
that a proxy could notice" is an equality. Objects that cannot be expressed (a field of Istio's that
we do not implement, a value that nobody can mean) stay in as far as they can be read, marked with a
fault: the mesh leaves such a route out and closes the workload such a policy selects.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Protocol

import msgspec
import structlog

from apirule import keysets, providers
from apirule.apis import core, networking, scheme, security, traffic
from apirule.apis.envoy_filter import EnvoyFilter
from apirule.apis.meta import GroupVersionKind, Object, ObjectMeta, ObjectRef, Resource
from apirule.keysets import KeySet
from apirule.mesh import fields
from apirule.mesh.readable import unreadable
from apirule.names import ObjectName
from apirule.problem import Problem

log = structlog.get_logger()

GUARDS: tuple[type[Resource], ...] = (
    security.RequestAuthentication,
    security.AuthorizationPolicy,
    security.PeerAuthentication,
    EnvoyFilter,
)
ISTIO = fields.KINDS
_RESOURCES: Mapping[str, type[Resource]] = {
    "namespaces": core.Namespace,
    "services": core.Service,
    "secrets": core.Secret,
    "configmaps": core.ConfigMap,
    "pods": core.Pod,
    "endpointslices.discovery.k8s.io": core.EndpointSlice,
    "virtualservices.networking.istio.io": networking.VirtualService,
    "gateways.networking.istio.io": networking.Gateway,
    "envoyfilters.networking.istio.io": EnvoyFilter,
    "destinationrules.networking.istio.io": traffic.DestinationRule,
    "serviceentries.networking.istio.io": traffic.ServiceEntry,
    "requestauthentications.security.istio.io": security.RequestAuthentication,
    "authorizationpolicies.security.istio.io": security.AuthorizationPolicy,
    "peerauthentications.security.istio.io": security.PeerAuthentication,
}
FOLLOWED = frozenset(_RESOURCES)
"""What the engine wants to hear of, by the names the store has for it."""
KINDS: Mapping[tuple[str, str], type[Resource]] = {
    (kind.gvk.group, kind.gvk.kind): kind for kind in _RESOURCES.values()
}
_CERTIFICATE_KEYS = frozenset({"tls.crt", "cert", "ca.crt", "cacert"})
_JOURNAL = 50_000
_FINISHED = frozenset({"Succeeded", "Failed"})


class Change(Protocol):
    """What the store says happened. ``type`` is ``ADDED``, ``MODIFIED`` or ``DELETED``."""

    @property
    def revision(self) -> int: ...
    @property
    def type(self) -> str: ...
    @property
    def object(self) -> Object: ...


class Fault(msgspec.Struct, frozen=True):
    """Why an object cannot be used as it stands; ``reason`` is that of Istio's condition."""

    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class Moment:
    """The world at one revision. Values only: it does not change when the world does."""

    revision: int
    resources: Mapping[ObjectRef, Resource]
    key_sets: Mapping[ObjectRef, KeySet]
    faults: Mapping[ObjectRef, Fault]
    changed_at: Mapping[ObjectRef, int]
    """The revision at which each resource became what it is."""
    serving: frozenset[ObjectName]
    """Pods that are ready."""
    finished: frozenset[ObjectName]
    """Pods whose containers have ended for good."""
    journal: Sequence[ObjectRef] = field(default=(), repr=False, compare=False)
    """What has changed, the latest last; the world goes on writing behind ``until``."""
    until: int = 0

    def changed_since(self, other: Moment) -> Collection[ObjectRef]:
        """Return the objects that are others than at another moment, or were in between."""
        if self.journal is other.journal:
            first, last = sorted((self.until, other.until))
            return frozenset(self.journal[first:last])
        now, then = self.resources, other.resources
        return [r for r in now.keys() | then.keys() if now.get(r) is not then.get(r)]

    def differences(self, other: Moment) -> Iterator[Resource]:
        """Return what is at one of two moments alone. Unchanged resources are the same values."""
        return alone(self.resources, other.resources, self.changed_since(other))


def alone(
    here: Mapping[ObjectRef, Resource],
    there: Mapping[ObjectRef, Resource],
    among: Iterable[ObjectRef] | None = None,
) -> Iterator[Resource]:
    """Yield what is in one of the two alone, ``among`` some of the objects or all."""
    for ref in here.keys() | there.keys() if among is None else among:
        found = here.get(ref), there.get(ref)
        if found[0] is not found[1]:
            yield from (one for one in found if one is not None)


NOTHING = Moment(0, {}, {}, {}, {}, frozenset(), frozenset())
"""The world before anything was told."""


class World:
    """Takes in changes; ``moment`` is what there is now."""

    def __init__(self) -> None:
        self._revision = 0
        self._resources: dict[ObjectRef, Resource] = {}
        self._key_sets: dict[ObjectRef, KeySet] = {}
        self._faults: dict[ObjectRef, Fault] = {}
        self._changed_at: dict[ObjectRef, int] = {}
        self._statuses: dict[ObjectRef, Mapping[str, Any]] = {}
        self._touched: set[ObjectRef] = set()
        self._journal: list[ObjectRef] = []
        self._serving: set[ObjectName] = set()
        self._finished: set[ObjectName] = set()
        self._moment: Moment | None = None
        """The last one, until anything but the revision is another."""

    def apply(self, changes: Iterable[Change]) -> bool:
        """Take in changes in their order; return whether any proxy could notice one of them."""
        noticed = False
        for change in changes:
            self._revision = max(self._revision, change.revision)
            kind = KINDS.get(_group_kind(change.object))
            if kind is None:
                continue
            ref = ObjectRef.of(change.object)
            if change.type == "DELETED":
                noticed |= self._remove(ref)
            else:
                noticed |= self._put(ref, kind, change)
        if noticed:
            self._moment = None
        return noticed

    def moment(self) -> Moment:
        if self._moment is None:
            self._moment = self._copied()
        elif self._moment.revision != self._revision:
            self._moment = replace(self._moment, revision=self._revision)
        return self._moment

    def _copied(self) -> Moment:
        return Moment(
            revision=self._revision,
            resources=MappingProxyType(dict(self._resources)),
            key_sets=MappingProxyType(dict(self._key_sets)),
            faults=MappingProxyType(dict(self._faults)),
            changed_at=MappingProxyType(dict(self._changed_at)),
            serving=frozenset(self._serving),
            finished=frozenset(self._finished),
            journal=self._journal,
            until=len(self._journal),
        )

    def status(self, ref: ObjectRef) -> Mapping[str, Any]:
        """Return the status an Istio object has in the store."""
        return self._statuses.get(ref, {})

    def touched(self) -> set[ObjectRef]:
        """Return the Istio objects whose status may be another than when this was last asked."""
        touched, self._touched = self._touched, set()
        return touched

    def _put(self, ref: ObjectRef, kind: type[Resource], change: Change) -> bool:
        obj = change.object
        if kind in ISTIO:
            self._statuses[ref] = obj.get("status") or {}
            self._touched.add(ref)
            resource, fault = _read_istio(obj, kind)
        else:
            read = _read_plain(obj, kind)
            if read is None:
                return self._remove(ref)
            resource, fault = read
        moved = isinstance(resource, core.Pod) and self._note_pod(resource)
        resource = _without_noise(resource)
        if self._resources.get(ref) == resource and self._faults.get(ref) == fault:
            return moved
        if isinstance(resource, core.ConfigMap):
            key_set = keysets.from_config_map(resource)
            if key_set is not None:
                self._key_sets[ref] = key_set
            elif resource.object_name != providers.CONFIG_MAP:
                return self._remove(ref)
        self._resources[ref] = resource
        self._note(ref)
        self._changed_at[ref] = change.revision
        if fault is None:
            self._faults.pop(ref, None)
        else:
            self._faults[ref] = fault
        return True

    def _remove(self, ref: ObjectRef) -> bool:
        for group in (self._key_sets, self._faults, self._changed_at, self._statuses):
            group.pop(ref, None)
        if ref.kind == core.Pod.gvk.kind:
            self._serving.discard(ref.object_name)
            self._finished.discard(ref.object_name)
        if self._resources.pop(ref, None) is None:
            return False
        self._note(ref)
        return True

    def _note(self, ref: ObjectRef) -> None:
        if len(self._journal) >= _JOURNAL:
            self._journal = []  # the moments keep the one that they know
        self._journal.append(ref)

    def _note_pod(self, pod: core.Pod) -> bool:
        """Remember how far a Pod is; return whether that decides who is told something."""
        before = (pod.object_name in self._serving, pod.object_name in self._finished)
        ready = any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions)
        after = (ready, pod.status.phase in _FINISHED)
        for group, member in zip((self._serving, self._finished), after, strict=True):
            if member:
                group.add(pod.object_name)
            else:
                group.discard(pod.object_name)
        return before != after


def _group_kind(obj: Object) -> tuple[str, str]:
    gvk = GroupVersionKind.of(obj)
    return (gvk.group, gvk.kind)


def _without_noise(resource: Resource) -> Resource:
    meta = resource.metadata
    changes: dict[str, Any] = {
        "metadata": ObjectMeta(
            name=meta.name,
            namespace=meta.namespace,
            uid=meta.uid,
            generation=meta.generation,
            creation_timestamp=meta.creation_timestamp,
            labels=meta.labels,
            annotations=meta.annotations,
        )
    }
    if isinstance(resource, core.Pod):
        changes["status"] = core.PodStatus()
    elif isinstance(resource, ISTIO):
        changes["status"] = networking.IstioStatus()
    return msgspec.structs.replace(resource, **changes)


def _read_plain(obj: Object, kind: type[Resource]) -> tuple[Resource, Fault | None] | None:
    """Return the resource; None if it is of no use to a proxy or cannot be read at all."""
    if kind is core.ConfigMap and not (_is_key_set(obj) or _is_mesh_config(obj)):
        return None
    if kind is core.Secret and not _CERTIFICATE_KEYS & (obj.get("data") or {}).keys():
        return None  # whatever it keeps secret, we do not keep it as well
    try:
        resource = scheme.decode(obj, kind)
    except msgspec.ValidationError as error:
        log.warning("object not readable", name=str(ObjectRef.of(obj)), error=str(error))
        return None
    wrong = unreadable(resource)
    if not wrong:
        return resource, None
    log.warning("object not readable", name=str(ObjectRef.of(obj)), error=wrong)
    return resource, Fault("Invalid", wrong)


def _is_key_set(obj: Object) -> bool:
    labels = (obj.get("metadata") or {}).get("labels") or {}
    return bool(labels.get(keysets.LABEL) == "true")


def _is_mesh_config(obj: Object) -> bool:
    return ObjectRef.of(obj).object_name == providers.CONFIG_MAP


def _read_istio(obj: Object, kind: type[Resource]) -> tuple[Resource, Fault | None]:
    try:
        resource = scheme.decode(obj, kind)
    except msgspec.ValidationError as error:
        return _stub(obj, kind), Fault("Invalid", f"It cannot be read: {error}.")
    wrong = list(fields.problems(obj, kind))
    return resource, Fault(wrong[0].reason, " ".join(map(_told, wrong))) if wrong else None


def _told(problem: Problem) -> str:
    return f"{problem} {problem.fix}"


def _stub(obj: Object, kind: type[Resource]) -> Resource:
    """Return as much of an unreadable object as is needed to close what it selects or rules.

    Without a readable selector that is every workload of its namespace.
    """
    meta = obj.get("metadata") or {}
    name = {key: str(meta.get(key, "")) for key in ("name", "namespace")}
    spec = obj.get("spec")
    kept = ("workloadSelector",) if kind is EnvoyFilter else ("selector", "host")
    selector = {k: spec[k] for k in kept if spec.get(k)} if isinstance(spec, dict) else {}
    for metadata, part in ((meta, selector), (meta, {}), (name, selector)):
        try:
            return scheme.decode({"metadata": metadata, "spec": part}, kind)
        except msgspec.ValidationError:
            continue
    return scheme.decode({"metadata": name}, kind)
