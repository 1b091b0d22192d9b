"""What to write to turn what exists into what is wanted, in an order that never opens anything.

Objects stay dicts here, with every field that someone may have put into them, so that nothing
added by hand goes unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from apirule.apis import networking, scheme, security
from apirule.apis.meta import Object, ObjectRef, Resource
from apirule.names import ObjectName
from apirule.ownership import HASH, INDEX, owner_of
from apirule.translate import request_authentication
from apirule.translate.hashing import namespace_hash

_AUTHENTICATION = (security.GROUP, "RequestAuthentication")
_AUTHORIZATION = (security.GROUP, "AuthorizationPolicy")
_ROUTES = (networking.GROUP, "VirtualService")

# A route must never be served without its guards: they come first on the way in and leave last on
# the way out. A policy that takes the place of another one exists before that one goes. Among
# policies the ones that refuse (CUSTOM) come before those that let in, and leave after them: a
# path whose ALLOW policy only asks for the gateway is open while nobody asks its authorizer. For
# the same reason a policy never changes its action in place.
#
# What an engine does with a deletion it cannot say of the object, which is gone. So a policy that
# lets in is emptied before it is deleted: an ALLOW policy without rules lets nobody in, and its
# status says when that holds everywhere.
APPLY_ORDER = (_AUTHENTICATION, _AUTHORIZATION, _ROUTES)
OWNED_KINDS = APPLY_ORDER
"""Group and kind of everything that is made from an APIRule."""

_HASH_PARTS = 3


class Create(msgspec.Struct, frozen=True):
    object: Object

    @property
    def ref(self) -> ObjectRef:
        return ObjectRef.of(self.object)

    def __str__(self) -> str:
        return f"create {self.ref}"


class Update(msgspec.Struct, frozen=True):
    """The whole object, with the ``resourceVersion`` it was read at."""

    object: Object

    @property
    def ref(self) -> ObjectRef:
        return ObjectRef.of(self.object)

    def __str__(self) -> str:
        return f"update {self.ref}"


class Delete(msgspec.Struct, frozen=True):
    """The object as it was read; its ``uid`` tells it from a later one of the same name."""

    object: Object

    @property
    def ref(self) -> ObjectRef:
        return ObjectRef.of(self.object)

    def __str__(self) -> str:
        return f"delete {self.ref}"


Change = Create | Update | Delete


class Plan(msgspec.Struct, frozen=True):
    """What to do, in this order. ``farewell`` says how ``leaving`` goes."""

    guards: tuple[Change, ...] = ()
    routes: tuple[Change, ...] = ()
    leaving: tuple[Object, ...] = ()
    """Guards that nothing needs any more, once the routes are in force."""
    apart: tuple[Object, ...] = ()
    """VirtualServices beside ours, which are nobody's business."""


def plan(desired: Iterable[Resource], actual: Iterable[Object]) -> Plan:
    """Return how to make what is desired of ``actual``, which is what ``owned`` returns.

    Of several VirtualServices the first is ours; the others are left alone, as by the Kyma
    operator.
    """
    wanted: dict[tuple[str, str], list[Object]] = {kind: [] for kind in APPLY_ORDER}
    for resource in desired:
        wanted[resource.gvk.group, resource.gvk.kind].append(scheme.encode(resource))
    existing = sorted(actual, key=_age)
    pairs = {kind: _pair(kind, wanted[kind], existing) for kind in APPLY_ORDER}
    guards = [kind for kind in APPLY_ORDER if kind != _ROUTES]
    surplus = (obj for kind in guards for obj in pairs[kind].surplus)
    return Plan(
        guards=tuple(change for kind in guards for change in _writes(pairs[kind])),
        routes=tuple(_writes(pairs[_ROUTES])),
        leaving=tuple(sorted(surplus, key=_leave_order)),
        apart=tuple(pairs[_ROUTES].surplus),
    )


def farewell(leaving: Sequence[Object]) -> tuple[Change, ...]:
    """Return the next step on the way out: to empty what lets in, then to delete.

    Take it when everything else is in force, what was emptied before included.
    """
    emptied = [Update(_emptied(obj)) for obj in leaving if lets_in(obj)]
    return tuple(emptied) or tuple(Delete(obj) for obj in leaving)


def removal(actual: Iterable[Object]) -> tuple[Delete, ...]:
    """Return how everything goes that a rule had: its routes first."""
    return tuple(Delete(obj) for obj in sorted(actual, key=_leave_order))


def owned(
    objects: Iterable[Object], owner: ObjectName, desired: Iterable[Resource] = ()
) -> list[Object]:
    """Return the objects of an APIRule: by their labels, and by the names we would give them.

    A derived name is ours, even when someone has taken the labels off.
    """
    names = {resource.ref for resource in desired}
    return [
        obj
        for obj in objects
        if _kind(obj) in OWNED_KINDS and (owner_of(_labels(obj)) == owner or _ref(obj) in names)
    ]


class _Pairs(msgspec.Struct, frozen=True):
    matched: Sequence[tuple[Object, Object | None]]
    """Each desired object, and the one to turn into it."""
    surplus: Sequence[Object]


def _pair(kind: tuple[str, str], desired: Sequence[Object], existing: Sequence[Object]) -> _Pairs:
    left = [obj for obj in existing if _kind(obj) == kind]
    taken: dict[int, Object] = {}
    # By the name we would give it, whatever a hand has made of the rest; then by what it is for,
    # which finds what another operator has named.
    for identity in (_ref, _IDENTITY[kind]):
        found: dict[object, list[Object]] = {}
        for obj in left:
            found.setdefault(identity(obj), []).append(obj)
        for index, wanted in enumerate(desired):
            if index not in taken and (candidates := found.get(identity(wanted))):
                taken[index] = candidates.pop(0)
        gone = {id(obj) for obj in taken.values()}
        left = [obj for obj in left if id(obj) not in gone]
    return _Pairs([(wanted, taken.get(i)) for i, wanted in enumerate(desired)], left)


def _writes(pairs: _Pairs) -> Iterator[Change]:
    for wanted, found in sorted(pairs.matched, key=lambda pair: _action(pair[0]) != "CUSTOM"):
        if found is None:
            yield Create(wanted)
        elif (updated := _updated(found, wanted)) is not None:
            yield Update(updated)


def lets_in(obj: Object) -> bool:
    """Whether an object is a policy that lets somebody in."""
    is_policy = _kind(obj) == _AUTHORIZATION
    return is_policy and _action(obj) == "ALLOW" and bool(_mapping(obj.get("spec")).get("rules"))


def _emptied(policy: Object) -> Object:
    kept = {key: value for key, value in policy["spec"].items() if key != "rules"}
    return {**policy, "spec": kept}


def _leave_order(obj: Object) -> tuple[int, bool]:
    return -APPLY_ORDER.index(_kind(obj)), _action(obj) == "CUSTOM"


def _action(obj: Object) -> str:
    return str(_mapping(obj.get("spec")).get("action", "ALLOW"))


def _updated(found: Object, wanted: Object) -> Object | None:
    """Return ``found`` with what we own of it set right; None if it is right already."""
    labels = {**_labels(found), **_labels(wanted)}
    annotations = _mapping(found["metadata"].get("annotations"))
    # Istio would only try such a policy, and let everything pass.
    kept = {key: text for key, text in annotations.items() if key != security.DRY_RUN}
    if (found.get("spec"), _labels(found), annotations) == (wanted["spec"], labels, kept):
        return None
    metadata = {**found["metadata"], "labels": labels}
    if annotations:
        metadata["annotations"] = kept
    return {**found, "metadata": metadata, "spec": wanted["spec"]}


def _routes_identity(obj: Object) -> object:
    # There is one per APIRule, whatever it is called.
    return _namespace(obj)


def _policy_identity(obj: Object) -> object:
    """Return hash and index; None, which no desired policy has, where they make no sense."""
    labels = _labels(obj)
    parts = labels.get(HASH, "").split(".")
    if len(parts) != _HASH_PARTS or not labels.get(INDEX):
        return None
    if parts[0] == _namespace(obj):
        # The form before namespaces were hashed.
        parts[0] = namespace_hash(parts[0])
    return _namespace(obj), *parts, labels[INDEX], _action(obj)


def _authentication_identity(obj: Object) -> object:
    spec = _mapping(obj.get("spec"))
    selector = _mapping(_mapping(spec.get("selector")).get("matchLabels"))
    rules = [_mapping(rule) for rule in spec.get("jwtRules") or ()]
    issuers = [(str(r.get("issuer", "")), str(r.get("jwksUri", ""))) for r in rules]
    return request_authentication.key(selector, issuers, _namespace(obj))


_IDENTITY: Mapping[tuple[str, str], Callable[[Object], object]] = {
    _AUTHENTICATION: _authentication_identity,
    _AUTHORIZATION: _policy_identity,
    _ROUTES: _routes_identity,
}


def _kind(obj: Object) -> tuple[str, str]:
    ref = ObjectRef.of(obj)
    return ref.group, ref.kind


def _ref(obj: Object) -> ObjectRef:
    return ObjectRef.of(obj)


def _namespace(obj: Object) -> str:
    return ObjectRef.of(obj).namespace


def _age(obj: Object) -> tuple[str, str, str]:
    # The oldest of several first, so that the same one is kept each time.
    metadata = _mapping(obj.get("metadata"))
    return (
        str(metadata.get("creationTimestamp") or ""),
        str(metadata.get("namespace") or ""),
        str(metadata.get("name") or ""),
    )


def _labels(obj: Object) -> dict[str, str]:
    return dict(_mapping(_mapping(obj.get("metadata")).get("labels")))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
