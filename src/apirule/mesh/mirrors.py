"""Copies of requests: who gets one, and of how many. Nobody waits for what is answered to them."""

from __future__ import annotations

from collections.abc import Iterator

from envoy.config.route.v3 import route_components_pb2 as route_pb2

from apirule.apis import networking
from apirule.mesh import faults
from apirule.mesh.destinations import Upstream
from apirule.problem import FieldPath, Problem, Reason

_ALL = networking.Percent(value=100)


def mirrors_of(http: networking.HTTPRoute) -> tuple[networking.HTTPMirrorPolicy, ...]:
    """Return whoever gets copies; ``mirror`` is the older way to name just one."""
    if http.mirror is None:
        return http.mirrors
    one = networking.HTTPMirrorPolicy(destination=http.mirror, percentage=http.mirror_percentage)
    return (one, *http.mirrors)


def emit(
    http: networking.HTTPRoute, upstreams: tuple[Upstream, ...]
) -> Iterator[route_pb2.RouteAction.RequestMirrorPolicy]:
    """Yield what is copied where. Only if ``problems`` found nothing."""
    for mirror, upstream in zip(mirrors_of(http), upstreams, strict=True):
        policy = route_pb2.RouteAction.RequestMirrorPolicy(cluster=upstream.cluster)
        policy.runtime_fraction.default_value.CopyFrom(faults.share(mirror.percentage or _ALL))
        yield policy


def problems(http: networking.HTTPRoute, at: FieldPath) -> Iterator[Problem]:
    if http.mirror is not None and http.mirrors:
        yield _invalid(at / "mirror", http.mirror.host, "mirrors is given as well")
    if http.mirror_percentage is not None and http.mirror is None:
        why = "there is no mirror"
        yield _invalid(at / "mirrorPercentage", http.mirror_percentage.value, why)
    mirrors = mirrors_of(http)
    if mirrors and not http.route:
        yield _invalid(at / "mirrors", len(mirrors), "only a route to a destination is copied")
    for index, mirror in enumerate(mirrors):
        is_old = http.mirror is not None and index == 0
        place = at / "mirrorPercentage" if is_old else at / "mirrors" / index / "percentage"
        yield from faults.share_problems(mirror.percentage, place)


def _invalid(at: FieldPath, value: object, why: str) -> Problem:
    return Problem(at, Reason.INVALID, f'"{value}" cannot be used: {why}.', "Correct the value.")
