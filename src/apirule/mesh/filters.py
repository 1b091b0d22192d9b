"""HTTP filters and their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)

from apirule.mesh.packing import pack
from apirule.mesh.route_action import CORS_FILTER


class Stage(StrEnum):
    SECURITY = "security"
    CORS = "cors"
    ROUTER = "router"


# The order Istio gives them.
ORDER = (
    # Who may come in is decided first. What stands inside (token, challenge marker, DENY, ALLOW)
    # is ordered by ``security``; it lets a CORS preflight pass without a token.
    Stage.SECURITY,
    # Answers the preflight of an allowed origin itself. It stands behind security, so that a
    # refused request never learns which origins are allowed.
    Stage.CORS,
    # Sends the request on; nothing after it is ever run.
    Stage.ROUTER,
)


def http_filters(security: Sequence[hcm_pb2.HttpFilter]) -> list[hcm_pb2.HttpFilter]:
    """Return the filters of one connection manager, in order."""
    stages: Mapping[Stage, Sequence[hcm_pb2.HttpFilter]] = {
        Stage.SECURITY: security,
        Stage.CORS: [hcm_pb2.HttpFilter(name=CORS_FILTER, typed_config=pack(cors_pb2.Cors()))],
        Stage.ROUTER: [
            hcm_pb2.HttpFilter(
                name="envoy.filters.http.router", typed_config=pack(router_pb2.Router())
            )
        ],
    }
    return [each for stage in ORDER for each in stages[stage]]
