"""VirtualServices to virtual hosts and routes.

A VirtualService is emitted once and remembered; a route table only puts the pieces together.
Several VirtualServices on one host: their routes follow each other, the oldest first, and those
that take everything come last. What a proxy cannot express never widens what another route takes:
a match in error leaves out the VirtualService, an action in error answers 503 in its place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
from envoy.config.route.v3 import route_components_pb2 as route_pb2
from envoy.config.route.v3 import route_pb2 as configuration_pb2
from google.protobuf.wrappers_pb2 import BoolValue

from apirule.apis import networking
from apirule.mesh import destinations, hosts, mirrors, route_action, route_match
from apirule.mesh.destinations import Upstream
from apirule.mesh.memo import Memo
from apirule.mesh.route_match import Caller
from apirule.mesh.snapshot import Snapshot, is_of_rule
from apirule.problem import SPEC, FieldPath, Problem, Reason, Severity

BLACKHOLE = "blackhole"
_FALSE = BoolValue(value=False)
_DEFAULT_RETRIES = route_action.retry_policy()


class Emitted(msgspec.Struct, frozen=True, eq=False):
    """The routes of one VirtualService, and what is wrong with it."""

    ordinary: tuple[route_pb2.Route, ...]
    catch_all: tuple[route_pb2.Route, ...]
    upstreams: tuple[Upstream, ...]
    problems: tuple[Problem, ...]


class HostScope(msgspec.Struct, frozen=True):
    """A host a server accepts; ``namespace`` limits whose VirtualServices may answer for it."""

    host: str
    namespace: str | None = None

    def shared_with(self, service: networking.VirtualService, host: str) -> str | None:
        if self.namespace not in (None, service.metadata.namespace):
            return None
        return hosts.intersection(self.host, host)


class Targets(NamedTuple):
    """Where one route sends requests, and copies of them."""

    route: tuple[Upstream, ...]
    mirrors: tuple[Upstream, ...]


def emit(
    service: networking.VirtualService, snapshot: Snapshot, memo: Memo, caller: Caller
) -> Emitted:
    """Return the routes of a VirtualService. The result is shared: never change a message of it."""
    targets = _targets(service, snapshot, caller.namespace)
    skipped = _skipped(service, caller)
    key = ("routes", targets, skipped)
    return memo.of(service, key, lambda: _emit_safely(service, targets, skipped))


def by_domain(
    scopes: Iterable[HostScope], services: Iterable[networking.VirtualService]
) -> dict[str, list[networking.VirtualService]]:
    """Return which VirtualServices answer for which domain, the oldest first."""
    wanted = tuple(dict.fromkeys(scopes))
    found: defaultdict[str, dict[int, networking.VirtualService]] = defaultdict(dict)
    for service in services:
        for host in service.spec.hosts:
            if not hosts.is_valid(host):
                continue
            for scope in wanted:
                domain = scope.shared_with(service, host)
                if domain is not None:
                    found[domain].setdefault(id(service), service)
    return {domain: list(group.values()) for domain, group in sorted(found.items())}


def virtual_host(
    domain: str, port: int, emitted: Sequence[Emitted], *, domains: Sequence[str] = ()
) -> route_pb2.VirtualHost:
    routes = [route for one in emitted for route in one.ordinary]
    routes += [route for one in emitted for route in one.catch_all]
    return route_pb2.VirtualHost(
        name=f"{domain}:{port}",
        domains=list(domains) or [domain],
        routes=routes,
        retry_policy=_DEFAULT_RETRIES,
    )


def redirect_host(domain: str, port: int, to_port: int) -> route_pb2.VirtualHost:
    """Send everything to https. ``to_port`` 0 leaves the port of the URL away."""
    redirect = route_pb2.RedirectAction(https_redirect=True, port_redirect=to_port)
    route = route_pb2.Route(
        name="https-redirect", match=route_pb2.RouteMatch(prefix="/"), redirect=redirect
    )
    return route_pb2.VirtualHost(name=f"{domain}:{port}", domains=[domain], routes=[route])


def table(
    name: str, virtual_hosts: Iterable[route_pb2.VirtualHost], *, any_port: bool = True
) -> configuration_pb2.RouteConfiguration:
    """Return the route table. A host that nobody serves gets 404.

    ``any_port``: clients write the port they see into ``Host``; it is ours, not part of the name.
    """
    unique: dict[str, route_pb2.VirtualHost] = {}
    for host in virtual_hosts:
        unique.setdefault(host.domains[0], host)
    if "*" not in unique:
        unique["*"] = route_pb2.VirtualHost(name=BLACKHOLE, domains=["*"])
    return configuration_pb2.RouteConfiguration(
        name=name,
        virtual_hosts=[unique[domain] for domain in sorted(unique)],
        # The clusters come from another table; one that is missing is a 503 of its routes alone.
        validate_clusters=_FALSE,
        ignore_port_in_host_matching=any_port,
    )


def problems(service: networking.VirtualService) -> tuple[Problem, ...]:
    """Return what is wrong with a VirtualService by itself, whoever serves it."""
    try:
        return (*_of_hosts(service), *_of_matches(service), *_of_actions(service))
    except ValueError as error:
        return (_inexpressible(error),)


def host_problems(
    service: networking.VirtualService, scopes: Sequence[HostScope]
) -> Iterator[Problem]:
    """Yield the hosts that no server of its Gateways accepts; ``scopes`` are those servers'."""
    for index, host in enumerate(service.spec.hosts):
        if hosts.is_valid(host) and not any(scope.shared_with(service, host) for scope in scopes):
            yield Problem(
                SPEC / "hosts" / index,
                Reason.NOT_FOUND,
                f'No server of its gateways accepts the host "{host}".',
                "Use a host of the Gateway, or add this one to it.",
                Severity.WARNING,
            )


def _of_hosts(service: networking.VirtualService) -> Iterator[Problem]:
    for index, host in enumerate(service.spec.hosts):
        if not hosts.is_valid(host):
            yield Problem(
                SPEC / "hosts" / index,
                Reason.INVALID,
                f'"{host}" is not a host.',
                "Write a DNS name, with * only as its whole first label.",
            )


def _of_matches(service: networking.VirtualService) -> Iterator[Problem]:
    for index, http in enumerate(service.spec.http):
        for position, match in enumerate(http.match):
            at = SPEC / "http" / index / "match" / position
            yield from route_match.problems(match, at)


def _of_actions(service: networking.VirtualService) -> Iterator[Problem]:
    for index, http in enumerate(service.spec.http):
        yield from route_action.problems(http, SPEC / "http" / index)


def _inexpressible(error: ValueError) -> Problem:
    """Tell of what protobuf cannot hold: not Unicode, for one."""
    return Problem(
        SPEC,
        Reason.INVALID,
        f"It cannot be expressed for Envoy: {error}.",
        "Correct the value.",
    )


def _targets(
    service: networking.VirtualService, snapshot: Snapshot, caller: str
) -> tuple[Targets, ...]:
    def resolve(destination: networking.Destination) -> Upstream:
        return destinations.resolve(
            snapshot,
            destination,
            namespace=service.metadata.namespace,
            caller=caller,
            # The policies of an APIRule are those of a Service's Pods, and hold nowhere else.
            only_services=is_of_rule(service),
        )

    return tuple(
        Targets(
            tuple(resolve(one.destination) for one in http.route),
            tuple(resolve(one.destination) for one in mirrors.mirrors_of(http)),
        )
        for http in service.spec.http
    )


def _skipped(service: networking.VirtualService, caller: Caller) -> frozenset[tuple[int, int]]:
    """Return the matches that are not there for this caller."""
    return frozenset(
        (index, position)
        for index, http in enumerate(service.spec.http)
        for position, match in enumerate(http.match)
        if route_match.depends_on_caller(match)
        and not route_match.is_for(match, caller, namespace=service.metadata.namespace)
    )


def _emit_safely(
    service: networking.VirtualService,
    targets: tuple[Targets, ...],
    skipped: frozenset[tuple[int, int]],
) -> Emitted:
    """Emit, and leave out a VirtualService that protobuf cannot hold."""
    try:
        return _emit(service, targets, skipped)
    except ValueError as error:
        return Emitted((), (), (), (_inexpressible(error),))


def _emit(
    service: networking.VirtualService,
    targets: tuple[Targets, ...],
    skipped: frozenset[tuple[int, int]],
) -> Emitted:
    problems = list(_of_matches(service))
    if problems:
        return Emitted((), (), (), tuple(problems))

    ordinary: list[route_pb2.Route] = []
    last: list[route_pb2.Route] = []
    used: dict[Upstream, None] = {}
    for index, http in enumerate(service.spec.http):
        at = SPEC / "http" / index
        wrong = [
            *route_action.problems(http, at),
            *route_action.said_twice(http, targets[index].route, at),
        ]
        problems += [*wrong, *_of_destinations(http, targets[index], index)]
        matches = [
            match for position, match in enumerate(http.match) if (index, position) not in skipped
        ]
        if http.match and not matches:
            continue
        fields = route_action.unavailable() if wrong else route_action.emit(http, *targets[index])
        used |= dict.fromkeys((*targets[index].route, *targets[index].mirrors))
        for match in matches or (networking.HTTPMatchRequest(),):
            route = route_pb2.Route(
                name=f"{service.object_name}/{index}", match=route_match.emit(match), **fields
            )
            if route_match.is_catch_all(match):
                last.append(route)
                break
            ordinary.append(route)
        if last:
            break  # nothing after it is ever reached
    return Emitted(
        tuple(ordinary),
        tuple(last),
        tuple(upstream for upstream in used if upstream.exists),
        tuple(dict.fromkeys(problems)),
    )


def _of_destinations(http: networking.HTTPRoute, targets: Targets, index: int) -> Iterator[Problem]:
    for position, upstream in enumerate(targets.route):
        if upstream.problem is not None:
            at = ("spec", "http", index, "route", position, "destination")
            place = FieldPath(*at, *upstream.problem.field.parts)
            yield msgspec.structs.replace(upstream.problem, field=place)
    for position, upstream in enumerate(targets.mirrors):
        if upstream.problem is not None:
            at_old = ("spec", "http", index, "mirror")
            at_new = ("spec", "http", index, "mirrors", position, "destination")
            place = FieldPath(*(at_old if http.mirror else at_new), *upstream.problem.field.parts)
            yield msgspec.structs.replace(upstream.problem, field=place)


def straight_to(upstream: Upstream) -> Emitted:
    """Return the one route of a Service that no VirtualService rules."""
    http = networking.HTTPRoute()
    route = route_pb2.Route(
        name="default",
        match=route_pb2.RouteMatch(prefix="/"),
        **route_action.emit(http, (upstream,)),
    )
    return Emitted((), (route,), (upstream,), ())
