"""From a path to what it is about: a collection, an object, a subresource."""

from __future__ import annotations

import msgspec

from apirule.local.apiserver.kinds import Kind, Kinds
from apirule.names import ObjectName

_OF_NAMESPACES = frozenset(("status", "finalize"))
_GROUP_PARTS = 3


class Path(msgspec.Struct, frozen=True):
    """A path below ``/api/v1`` or ``/apis/GROUP/VERSION``, not yet looked up."""

    group: str
    version: str
    namespace: str
    plural: str
    name: str
    subresource: str


class Target(msgspec.Struct, frozen=True):
    """What a request is about. Without a name: the whole collection."""

    kind: Kind
    namespace: str
    name: str
    subresource: str

    @property
    def object_name(self) -> ObjectName:
        return ObjectName(self.namespace, self.name)


def split(parts: tuple[str, ...]) -> Path | None:
    """Take a path apart. None: it is none of an API resource."""
    match parts:
        case ("api", version, *rest) if rest:
            group = ""
        case ("apis", group, version, *rest) if rest:
            pass
        case _:
            return None
    namespace = ""
    if rest[0] == "namespaces" and len(rest) >= _GROUP_PARTS and rest[2] not in _OF_NAMESPACES:
        namespace, rest = rest[1], rest[2:]
    name = rest[1] if len(rest) > 1 else ""
    return Path(group, version, namespace, rest[0], name, "/".join(rest[2:]))


def resolve(path: Path, kinds: Kinds) -> Target | None:
    """Look a path up. None: nothing is served there."""
    kind = kinds.at(path.group, path.version, path.plural)
    if kind is None:
        return None
    if kind.info.namespaced:
        if path.name and not path.namespace:
            return None
    elif path.namespace:
        return None
    return Target(kind, path.namespace, path.name, path.subresource)
