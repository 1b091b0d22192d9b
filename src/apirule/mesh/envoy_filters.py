"""EnvoyFilters: what of them holds for a proxy, and which of them close it.

Implemented is what a local rate limit needs: HTTP filters at the places in ``filters.PLACES``, and
settings merged into all routes, for gateways and for what comes to a sidecar. An EnvoyFilter says
nothing of whether it guards something. So one that cannot be expressed, or that an Envoy refused,
is not left out, which might open what it was to guard: it closes each proxy it speaks of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)

from apirule.apis.envoy_filter import ConfigPatch, EnvoyFilter
from apirule.apis.meta import ObjectRef
from apirule.mesh import allowed, local_rate_limit
from apirule.mesh.filters import OPERATIONS, PLACES, Anchor, Place
from apirule.mesh.memo import Memo
from apirule.mesh.packing import pack
from apirule.mesh.proxy import Proxy, Role
from apirule.mesh.snapshot import Snapshot, selects
from apirule.problem import ROOT, SPEC, FieldPath, Problem, Reason

_HCM = "envoy.filters.network.http_connection_manager"
_ROLES: Mapping[str, Role] = {"GATEWAY": Role.GATEWAY, "SIDECAR_INBOUND": Role.SIDECAR}
_NAMED: Mapping[str, frozenset[Role]] = {
    **{context: frozenset({role}) for context, role in _ROLES.items()},
    "SIDECAR_OUTBOUND": frozenset({Role.SIDECAR}),
}
"""Whom a context speaks of, implemented or not; any other one speaks of all."""
_LISTENER = FieldPath("match", "listener", "filterChain", "filter")
_ROUTE_FIELDS = {
    "route": "route",
    "typed_per_filter_config": "typed_per_filter_config",
    "typedPerFilterConfig": "typed_per_filter_config",
}


class Insertion(NamedTuple):
    role: Role
    place: Place
    first: bool
    """Before what other insertions put there, rather than after it."""
    filter: hcm_pb2.HttpFilter


class RouteMerge(NamedTuple):
    role: Role
    route: route_components_pb2.Route


class Compiled(msgspec.Struct, frozen=True):
    """One EnvoyFilter; with ``problems`` nothing of it is used. ``roles``: whom it speaks of."""

    roles: frozenset[Role]
    insertions: tuple[Insertion, ...] = ()
    merges: tuple[RouteMerge, ...] = ()
    problems: tuple[Problem, ...] = ()


class Patches(msgspec.Struct, frozen=True):
    """What all EnvoyFilters together say of one proxy. Those in ``problems`` close it."""

    filters: Mapping[Place, tuple[hcm_pb2.HttpFilter, ...]] = msgspec.field(default_factory=dict)
    routes: tuple[route_components_pb2.Route, ...] = ()
    sources: tuple[ObjectRef, ...] = ()
    problems: Mapping[ObjectRef, tuple[Problem, ...]] = msgspec.field(default_factory=dict)

    def on_routes(self, table: route_pb2.RouteConfiguration) -> route_pb2.RouteConfiguration:
        """Return a table with the settings merged into every route. The one given stays as it is.

        A route that answers by itself has no limits of its own, and is not made one that forwards.
        """
        if not self.routes:
            return table
        patched = route_pb2.RouteConfiguration()
        patched.CopyFrom(table)
        for route in (route for host in patched.virtual_hosts for route in host.routes):
            for piece in self.routes:
                if route.HasField("route"):
                    route.route.rate_limits.extend(piece.route.rate_limits)
                for name, config in piece.typed_per_filter_config.items():
                    route.typed_per_filter_config[name].CopyFrom(config)
        return patched


def patches_for(snapshot: Snapshot, proxy: Proxy, memo: Memo) -> Patches:
    return snapshot.memo(("envoy filters", proxy.name), lambda: _patches_for(snapshot, proxy, memo))


def _patches_for(snapshot: Snapshot, proxy: Proxy, memo: Memo) -> Patches:
    filters: dict[Place, tuple[hcm_pb2.HttpFilter, ...]] = {}
    routes: list[route_components_pb2.Route] = []
    sources: list[ObjectRef] = []
    problems: dict[ObjectRef, tuple[Problem, ...]] = {}
    for one in _selected(snapshot, proxy):
        compiled = memo.of(one, "compiled", partial(compile_filter, one))
        if proxy.role not in compiled.roles:
            continue
        refused = snapshot.rejected.get(one.ref)
        wrong = (*compiled.problems, *((_rejected(refused),) if refused is not None else ()))
        if wrong:
            problems[one.ref] = wrong
            continue
        sources.append(one.ref)
        for insertion in compiled.insertions:
            if insertion.role is proxy.role:
                there = filters.get(insertion.place, ())
                new = (insertion.filter,)
                filters[insertion.place] = new + there if insertion.first else there + new
        routes += [merge.route for merge in compiled.merges if merge.role is proxy.role]
    return Patches(filters, tuple(routes), tuple(sources), problems)


def _selected(snapshot: Snapshot, proxy: Proxy) -> list[EnvoyFilter]:
    """Return those that select a proxy in the order in which they are applied, as in Istio."""
    namespaces = dict.fromkeys((snapshot.settings.root_namespace, proxy.name.namespace))
    found = [
        one
        for namespace in namespaces
        for one in snapshot.of_kind(EnvoyFilter, namespace)
        if selects(one.selector, proxy.labels)
    ]
    return sorted(found, key=lambda one: one.spec.priority)


def compile_filter(one: EnvoyFilter) -> Compiled:
    """Turn an EnvoyFilter into pieces of Envoy's configuration; the proxy does not matter."""
    insertions: list[Insertion] = []
    merges: list[RouteMerge] = []
    problems: list[Problem] = []
    contexts = {patch.match.context for patch in one.spec.config_patches}
    everybody = frozenset(Role)
    roles = frozenset().union(*(_NAMED.get(context, everybody) for context in contexts))
    for index, patch in enumerate(one.spec.config_patches):
        at = SPEC / "configPatches" / index
        wrong = list(_form_problems(patch, at))
        problems += wrong
        if wrong:
            continue
        try:
            role = _ROLES[patch.match.context]
            if patch.apply_to == "HTTP_ROUTE":
                merges.append(RouteMerge(role, _route(patch, at / "patch" / "value")))
            else:
                anchor = PLACES[_anchor(patch)]
                piece = _filter(patch, at / "patch" / "value")
                insertions.append(Insertion(role, anchor.place, anchor.first, piece))
        except allowed.NotReadable as error:
            problems.append(error.problem)
        except _Wrong as error:
            problems += error.problems
    # One without patches speaks of nobody; one that could not be read may speak of everybody.
    return Compiled(roles or everybody, tuple(insertions), tuple(merges), tuple(problems))


def _form_problems(patch: ConfigPatch, at: FieldPath) -> Iterator[Problem]:
    """Yield what is wrong with where a piece belongs."""
    if patch.match.context not in _ROLES:
        yield _not_implemented(
            at / "match" / "context", patch.match.context or "ANY", _ROLES, "context"
        )
    match patch.apply_to:
        case "HTTP_FILTER":
            if patch.patch.operation not in OPERATIONS:
                yield _not_implemented(
                    at / "patch" / "operation",
                    patch.patch.operation,
                    OPERATIONS,
                    "operation for an HTTP_FILTER",
                )
            elif _anchor(patch) not in PLACES:
                near = sorted({f"{a.operation} {a.name}".strip() for a in PLACES})
                yield _not_implemented(
                    FieldPath(*at.parts, *_LISTENER.parts, "subFilter", "name"),
                    f"{patch.patch.operation} {_anchor(patch).name}".strip(),
                    near,
                    "place",
                )
            named = _filter_name(patch)
            if named not in ("", _HCM):
                yield _not_implemented(
                    FieldPath(*at.parts, *_LISTENER.parts, "name"), named, (_HCM,), "filter"
                )
        case "HTTP_ROUTE":
            if patch.patch.operation != "MERGE":
                yield _not_implemented(
                    at / "patch" / "operation",
                    patch.patch.operation,
                    ("MERGE",),
                    "operation for an HTTP_ROUTE",
                )
            if patch.match.listener is not None:
                yield _not_implemented(
                    at / "match" / "listener", "listener", ("context",), "match for an HTTP_ROUTE"
                )
        case other:
            yield _not_implemented(at / "applyTo", other, ("HTTP_FILTER", "HTTP_ROUTE"), "target")


def _anchor(patch: ConfigPatch) -> Anchor:
    chain = patch.match.listener.filter_chain if patch.match.listener else None
    beside = chain.filter.sub_filter if chain and chain.filter else None
    return Anchor(patch.patch.operation, beside.name if beside else "")


def _filter_name(patch: ConfigPatch) -> str:
    chain = patch.match.listener.filter_chain if patch.match.listener else None
    return chain.filter.name if chain and chain.filter else ""


def _filter(patch: ConfigPatch, at: FieldPath) -> hcm_pb2.HttpFilter:
    value = patch.patch.value or {}
    name, surplus = value.get("name"), value.keys() - {"name", "typed_config", "typedConfig"}
    if not isinstance(name, str) or not name:
        raise _Wrong([_invalid(at / "name", "A filter needs a name.")])
    if surplus:
        raise _Wrong([_unknown(at / key) for key in sorted(surplus)])
    key = "typedConfig" if "typedConfig" in value else "typed_config"
    config = allowed.read_extension(value.get(key), at / key)
    _raise(local_rate_limit.problems(config, at / key))
    return hcm_pb2.HttpFilter(name=name, typed_config=pack(config))


def _route(patch: ConfigPatch, at: FieldPath) -> route_components_pb2.Route:
    value = patch.patch.value or {}
    _raise(_unknown(at / key) for key in sorted(value.keys() - _ROUTE_FIELDS.keys()))
    known = {_ROUTE_FIELDS[key]: (item, at / key) for key, item in value.items()}
    route = route_components_pb2.Route()
    limits, here = known.get("route", ({}, at))
    for index, limit in enumerate(_rate_limits(limits, here)):
        place = here / "rate_limits" / index
        piece = allowed.read(limit, route_components_pb2.RateLimit, place)
        _raise(local_rate_limit.of_rate_limits([piece], here / "rate_limits"))
        route.route.rate_limits.append(piece)
    configs, here = known.get("typed_per_filter_config", ({}, at))
    if not isinstance(configs, Mapping):
        raise _Wrong([_invalid(here, "It is not an object.")])
    for name, item in configs.items():
        config = allowed.read_extension(item, here / name)
        _raise(local_rate_limit.problems(config, here / name))
        route.typed_per_filter_config[name].CopyFrom(pack(config))
    return route


def _rate_limits(value: Any, at: FieldPath) -> list[Any]:
    if not isinstance(value, Mapping):
        raise _Wrong([_invalid(at, "It is not an object.")])
    _raise(_unknown(at / key) for key in sorted(value.keys() - {"rate_limits", "rateLimits"}))
    limits = value.get("rate_limits", value.get("rateLimits", []))
    if not isinstance(limits, list):
        raise _Wrong([_invalid(at / "rate_limits", "It is not a list.")])
    return limits


class _Wrong(Exception):  # noqa: N818  # never leaves this module
    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(str(problems[0]))
        self.problems = problems


def _raise(problems: Iterable[Problem]) -> None:
    found = list(problems)
    if found:
        raise _Wrong(found)


def _not_implemented(at: FieldPath, value: str, known: Iterable[str], what: str) -> Problem:
    return Problem(
        at,
        Reason.NOT_IMPLEMENTED,
        f'The {what} "{value}" is not implemented here.',
        f"Use one of {', '.join(known)}.",
    )


def _unknown(at: FieldPath) -> Problem:
    return Problem(
        at,
        Reason.NOT_IMPLEMENTED,
        "This field is not implemented here.",
        "Remove what is not needed, or use Istio.",
    )


def _invalid(at: FieldPath, message: str) -> Problem:
    return Problem(at, Reason.INVALID, message, "Correct the value; until then nothing passes.")


def _rejected(why: str) -> Problem:
    return Problem(
        ROOT,
        Reason.REJECTED,
        f"It cannot be enforced: {why}",
        "Correct it; until then nothing passes.",
    )
