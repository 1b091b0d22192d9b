"""The kinds that are served now: the built-in ones and those of the stored CRDs.

A ``Kind`` is one version as a client sees it, with the version that is stored. The registry is
rebuilt as a whole when a CRD changes, so readers never see half of a change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from apirule.apis.meta import GroupVersionKind, Object
from apirule.local.apiserver.errors import Subject
from apirule.local.apiserver.http import encode
from apirule.local.apiserver.nodes import Node, root_of
from apirule.schema import KindInfo, from_crd

CRDS = "customresourcedefinitions.apiextensions.k8s.io"
NAMESPACES = "namespaces"

# Of the built-in kinds only some count the changes of their spec.
_COUNTED = frozenset(
    ("deployments.apps", "replicasets.apps", "endpointslices.discovery.k8s.io", CRDS)
)

_VERSION = re.compile(r"v(\d+)(?:(alpha|beta)(\d+))?")


@dataclass(frozen=True, eq=False)
class Kind:
    """One served version of one kind, and how it is stored."""

    info: KindInfo
    storage: KindInfo

    @property
    def resource(self) -> str:
        return self.info.resource

    @property
    def custom(self) -> bool:
        return not self.info.builtin

    @property
    def gvk(self) -> GroupVersionKind:
        return self.info.gvk

    @property
    def api_version(self) -> str:
        return self.info.gvk.api_version

    @property
    def has_status(self) -> bool:
        return "status" in self.info.subresources

    @property
    def has_generation(self) -> bool:
        return self.custom or self.resource in _COUNTED

    @cached_property
    def head(self) -> bytes:
        """How the JSON of a stored object of this version begins."""
        return encode({"apiVersion": self.api_version})[:-1] + b","

    @cached_property
    def node(self) -> Node:
        return root_of(self.info.schema.openapi)

    def subject(self, name: str = "", uid: str = "") -> Subject:
        """Return what most errors name: the plural."""
        return Subject(self.info.group, self.info.plural, name, uid)

    def kind_subject(self, name: str = "") -> Subject:
        """Return what errors about the content of an object name: the Kind."""
        return Subject(self.info.group, self.info.kind, name)


class Kinds:
    """All kinds, by where they are served and by what is stored."""

    def __init__(self, builtin: Iterable[KindInfo], crds: Iterable[Object]) -> None:
        self._builtin = tuple(builtin)
        self._by_path: dict[tuple[str, str, str], Kind] = {}
        self._stored: dict[str, Kind] = {}
        self.deleting: frozenset[str] = frozenset()
        """Resources whose CRD is on its way out: nothing new is created in them."""
        self.generation = 0
        """Counts the changes, so that what is derived of the registry can be kept until then."""
        self.replace_crds(crds)

    def replace_crds(self, crds: Iterable[Object]) -> None:
        """Serve exactly the built-in kinds and these."""
        by_path: dict[tuple[str, str, str], Kind] = {}
        stored: dict[str, Kind] = {}
        deleting = set()
        families = [[info] for info in self._builtin]
        for crd in crds:
            if established(crd):
                families.append(from_crd(crd))
            if crd["metadata"].get("deletionTimestamp"):
                deleting.add(crd["metadata"]["name"])
        for family in families:
            storage = next(info for info in family if info.storage)
            for info in family:
                kind = self._known(info, storage)
                if info.served:
                    by_path[info.group, info.version, info.plural] = kind
                if info is storage:
                    stored[info.resource] = kind
        self._by_path = by_path
        self._stored = stored
        self.deleting = frozenset(deleting)
        self.generation += 1

    def at(self, group: str, version: str, plural: str) -> Kind | None:
        return self._by_path.get((group, version, plural))

    def stored(self, resource: str) -> Kind | None:
        """Return the storage version of a resource such as ``pods``."""
        return self._stored.get(resource)

    def of_object(self, api_version: str, kind: str) -> Kind | None:
        """Return the kind of an owner reference. None: it is not served."""
        group, _, version = api_version.rpartition("/")
        for served in self._by_path.values():
            if served.gvk == (group, version, kind):
                return served
        # The version of the reference may have gone; the object has not.
        for served in self._stored.values():
            if (served.info.group, served.info.kind) == (group, kind):
                return served
        return None

    def __iter__(self) -> Iterator[Kind]:
        return iter(self._by_path.values())

    @property
    def all_stored(self) -> Iterable[Kind]:
        return self._stored.values()

    def groups(self) -> Mapping[str, Mapping[str, list[Kind]]]:
        """Return kinds by group and version, the core group first, the best version first."""
        groups: dict[str, dict[str, list[Kind]]] = {}
        ordered = sorted(self, key=lambda k: (k.info.group, version_rank(k.info.version)))
        for kind in ordered:
            groups.setdefault(kind.info.group, {}).setdefault(kind.info.version, []).append(kind)
        return groups

    def _known(self, info: KindInfo, storage: KindInfo) -> Kind:
        known = self._by_path.get((info.group, info.version, info.plural))
        if known is not None and known.info is info and known.storage is storage:
            return known
        return Kind(info, storage)


def established(crd: Object) -> bool:
    conditions = (crd.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


def version_rank(version: str) -> tuple[int, int, int, str]:
    """Return a key that sorts v2, v1, v1beta2, v1beta1, v1alpha1, and then everything else."""
    match = _VERSION.fullmatch(version)
    if match is None:
        return (9, 0, 0, version)
    major, stage, minor = match.groups()
    stability = {None: 0, "beta": 1, "alpha": 2}[stage]
    return (stability, -int(major), -int(minor or 0), version)
