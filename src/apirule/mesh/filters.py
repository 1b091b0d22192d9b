"""HTTP filters and their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)

from apirule.mesh import faults
from apirule.mesh.packing import pack
from apirule.mesh.route_action import CORS_FILTER


class Stage(StrEnum):
    FORM = "form"
    SECURITY = "security"
    FAULT = "fault"
    CORS = "cors"
    ROUTER = "router"


class Place(StrEnum):
    """Where filters of an EnvoyFilter can stand."""

    FIRST = "first"
    AFTER_SECURITY = "after-security"
    LAST = "last"


class Anchor(NamedTuple):
    """How an EnvoyFilter names a place: an operation, and the filter it is relative to."""

    operation: str
    name: str = ""


class Slot(NamedTuple):
    """``first``: before what others have put at the same place."""

    place: Place
    first: bool


_ROUTER = "envoy.filters.http.router"

PLACES: Mapping[Anchor, Slot] = MappingProxyType(
    {
        Anchor("INSERT_FIRST"): Slot(Place.FIRST, first=True),
        # Istio: without a filter to stand beside, before is before all of them.
        Anchor("INSERT_BEFORE"): Slot(Place.FIRST, first=True),
        # The first filter of the security ones.
        Anchor("INSERT_BEFORE", "envoy.filters.http.jwt_authn"): Slot(Place.FIRST, first=False),
        Anchor("INSERT_BEFORE", CORS_FILTER): Slot(Place.AFTER_SECURITY, first=False),
        Anchor("INSERT_AFTER", CORS_FILTER): Slot(Place.LAST, first=True),
        Anchor("INSERT_BEFORE", _ROUTER): Slot(Place.LAST, first=False),
    }
)

OPERATIONS = ("INSERT_FIRST", "INSERT_BEFORE", "INSERT_AFTER")

# The order Istio gives them.
ORDER: tuple[Stage | Place, ...] = (
    # At a gateway, what nobody should have to understand is answered before all else.
    Stage.FORM,
    # A RateLimit stands here, so a request without a valid token takes a token of its bucket too.
    Place.FIRST,
    # Who may come in is decided first. What stands inside (token, challenge marker, DENY, ALLOW)
    # is ordered by ``security``; it lets a CORS preflight pass without a token.
    Stage.SECURITY,
    # Delays and fails what a route says. Behind security, so that a fault never answers for it.
    Stage.FAULT,
    Place.AFTER_SECURITY,
    # Answers the preflight of an allowed origin itself. It stands behind security, so that a
    # refused request never learns which origins are allowed.
    Stage.CORS,
    Place.LAST,
    # Sends the request on; nothing after it is ever run.
    Stage.ROUTER,
)


Inserted = Mapping[Place, Sequence[hcm_pb2.HttpFilter]]
NOTHING: Inserted = MappingProxyType({})


def http_filters(
    security: Sequence[hcm_pb2.HttpFilter],
    inserted: Inserted = NOTHING,
    *,
    form: Sequence[hcm_pb2.HttpFilter] = (),
    has_faults: bool,
) -> list[hcm_pb2.HttpFilter]:
    """Return the filters of one connection manager, in order.

    ``form`` looks at how a request is written. ``has_faults``: its routes are those of
    VirtualServices, which can ask for faults.
    """
    fault = hcm_pb2.HttpFilter(name=faults.FILTER, typed_config=pack(fault_pb2.HTTPFault()))
    stages: Mapping[Stage | Place, Sequence[hcm_pb2.HttpFilter]] = {
        **{place: inserted.get(place, ()) for place in Place},
        Stage.FORM: form,
        Stage.SECURITY: security,
        Stage.FAULT: [fault] if has_faults else [],
        Stage.CORS: [hcm_pb2.HttpFilter(name=CORS_FILTER, typed_config=pack(cors_pb2.Cors()))],
        Stage.ROUTER: [
            hcm_pb2.HttpFilter(name=_ROUTER, typed_config=pack(router_pb2.Router())),
        ],
    }
    return [each for stage in ORDER for each in stages[stage]]
