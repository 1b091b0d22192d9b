"""What every resource has: group, version, kind and metadata.

Objects are dicts as they stand on the wire; resources are the typed, immutable form that
``apis.scheme`` decodes them to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import msgspec

from apirule.names import ObjectName

Object = dict[str, Any]
"""A decoded manifest: still a dict, with exactly what the user wrote."""


class GroupVersionKind(NamedTuple):
    group: str
    version: str
    kind: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @classmethod
    def of(cls, obj: Mapping[str, Any]) -> GroupVersionKind:
        """Read the type of an object. A missing ``apiVersion`` or ``kind`` becomes ``""``."""
        group, slash, version = str(obj.get("apiVersion", "")).rpartition("/")
        return cls(group if slash else "", version, str(obj.get("kind", "")))


class ObjectRef(NamedTuple):
    """Names one object of any kind, whatever the version it is read in."""

    group: str
    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, obj: Mapping[str, Any]) -> ObjectRef:
        gvk = GroupVersionKind.of(obj)
        meta = obj.get("metadata") or {}
        return cls(gvk.group, gvk.kind, meta.get("namespace", ""), meta.get("name", ""))

    @property
    def object_name(self) -> ObjectName:
        return ObjectName(self.namespace, self.name)

    def __str__(self) -> str:
        return f"{self.kind} {self.object_name}"


class Wire(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A value as it stands on the wire. ``kw_only`` is not inherited: each class says it again."""


class OwnerReference(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False
    block_owner_deletion: bool = False


class ObjectMeta(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: tuple[OwnerReference, ...] = ()
    finalizers: tuple[str, ...] = ()


class Condition(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A metav1.Condition."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    observed_generation: int = 0
    last_transition_time: str | None = None


class Resource(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A typed object. ``apiVersion`` and ``kind`` are written by ``scheme.encode``."""

    gvk: ClassVar[GroupVersionKind]

    metadata: ObjectMeta = ObjectMeta()

    @property
    def object_name(self) -> ObjectName:
        return ObjectName(self.metadata.namespace, self.metadata.name)

    @property
    def ref(self) -> ObjectRef:
        return ObjectRef(self.gvk.group, self.gvk.kind, self.metadata.namespace, self.metadata.name)

    @property
    def labels(self) -> Mapping[str, str]:
        return self.metadata.labels or {}

    @property
    def annotations(self) -> Mapping[str, str]:
        return self.metadata.annotations or {}
