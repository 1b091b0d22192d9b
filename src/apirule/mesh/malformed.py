"""Requests a gateway answers with 400 before anything else looks at them.

Each is one that two readers may read in two ways: a policy in one, an application in another.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from envoy.config.core.v3 import base_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as filter_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from envoy.type.matcher.v3 import path_pb2
from google.protobuf.wrappers_pb2 import UInt32Value

from apirule.mesh import matchers, reply_filters
from apirule.mesh.packing import pack

FILTER = "apirule.malformed"
_PREFIX = "apirule-malformed-"
_HOST = r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?"
_TWICE_ENCODED = r"(?i).*%25(25)*(2e|2f|5c).*"
_BEARER_INSIDE = r"(?is).+[,\s]bearer\s.*"


def _header(name: str, pattern: str) -> rbac_pb2.Permission:
    matcher = route_components_pb2.HeaderMatcher(name=name, string_match=matchers.regex(pattern))
    return rbac_pb2.Permission(header=matcher)


_MALFORMED: Mapping[str, tuple[str, rbac_pb2.Permission]] = {
    # Two Host headers become one with a comma, of which a suffix could be anybody's host.
    "host": (
        "The host has a character that no host has.",
        rbac_pb2.Permission(not_rule=_header(":authority", _HOST)),
    ),
    # Decoded once it is a dot or a slash in disguise, which many programs decode once more.
    "path": (
        "The path has a dot, slash or backslash that is encoded twice.",
        rbac_pb2.Permission(url_path=path_pb2.PathMatcher(path=matchers.regex(_TWICE_ENCODED))),
    ),
    # Envoy joins two headers and finds the token in the second, an application reads the first.
    "authorization": (
        "There is something before the Bearer token.",
        _header("authorization", _BEARER_INSIDE),
    ),
}


def http_filter() -> hcm_pb2.HttpFilter:
    anybody = [rbac_pb2.Principal(any=True)]
    rules = rbac_pb2.RBAC(
        action=rbac_pb2.RBAC.DENY,
        policies={
            f"{_PREFIX}{name}": rbac_pb2.Policy(permissions=[permission], principals=anybody)
            for name, (_, permission) in _MALFORMED.items()
        },
    )
    # The results of policies stand under names of their own.
    config = filter_pb2.RBAC(rules=rules, rules_stat_prefix="apirule_malformed_")
    return hcm_pb2.HttpFilter(name=FILTER, typed_config=pack(config))


def local_replies() -> list[hcm_pb2.ResponseMapper]:
    """Return what turns the refusals into a 400 with the reason."""
    return [
        hcm_pb2.ResponseMapper(
            filter=reply_filters.details_begin(
                f"rbac_access_denied_matched_policy[{_PREFIX}{name}]"
            ),
            status_code=UInt32Value(value=HTTPStatus.BAD_REQUEST),
            body=base_pb2.DataSource(inline_string=text),
        )
        for name, (text, _) in _MALFORMED.items()
    ]
