"""What a refusal says: 401 where a token is missing, 403 where it does not suffice (RFC 6750).

Who may pass is Istio's decision alone and stays in the RBAC filter, which answers 403. Before it a
shadow rule marks the requests that some ALLOW rule would let through for the right token. The
local reply then tells three cases apart, by that mark and by whether a token was verified:

    refused, marked, no token     401  Bearer realm="host"
    refused, marked, a token      403  Bearer realm="host", error="insufficient_scope"
    token refused                 401  Bearer realm="host", error="invalid_token"

The last one is Envoy's own answer, but for the realm: Envoy puts the whole URL there, and with it
a token that was sent as a query parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from http import HTTPStatus

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLogFilter, MetadataFilter
from envoy.config.core.v3.base_pb2 import (
    DataSource,
    HeaderValue,
    HeaderValueOption,
)
from envoy.config.rbac.v3.rbac_pb2 import RBAC, Policy
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm,
)
from envoy.type.matcher.v3.metadata_pb2 import MetadataMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.matcher.v3.value_pb2 import ValueMatcher
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from apirule.apis.security import AuthorizationPolicy, AuthorizationRule, From
from apirule.mesh import matchers, rbac, reply_filters
from apirule.mesh.attributes import Context, needs_token
from apirule.mesh.config import MeshSettings
from apirule.mesh.memo import Memo

RBAC_FILTER = "envoy.filters.http.rbac"
"""Where the RBAC filter leaves its results, whatever the filter itself is called."""

SHADOW_PREFIX = "apirule_challenge_"
MISSING_TOKEN = "Jwt is missing"  # noqa: S105 - a message
_REALM = 'Bearer realm="%REQ(:AUTHORITY)%"'


def marker(
    policies: Iterable[AuthorizationPolicy],
    settings: MeshSettings,
    port: int,
    memo: Memo | None = None,
) -> RBAC | None:
    """Build the shadow rules over ALLOW policies: one for each rule that a token could meet."""
    memo = memo or Memo()
    key = ("marks", settings, port)
    marks = [
        memo.of(policy, key, partial(_packed_marks, policy, settings, port)) for policy in policies
    ]
    return rbac.joined(RBAC.ALLOW, marks) if any(marks) else None


def _packed_marks(policy: AuthorizationPolicy, settings: MeshSettings, port: int) -> bytes:
    return rbac.packed(_marks(policy, settings, port))


def _marks(policy: AuthorizationPolicy, settings: MeshSettings, port: int) -> dict[str, Policy]:
    context = Context(settings, policy.metadata.namespace, port)
    marks: dict[str, Policy] = {}
    for index, rule in enumerate(policy.spec.rules):
        sources = _sources_with_token(rule)
        if sources is None:
            continue
        asked = AuthorizationRule(from_=sources, to=rule.to, when=rule.when)
        marks[rbac.rule_name(policy, index)] = Policy(
            permissions=rbac.permissions(asked, context),
            principals=rbac.principals(asked, context, of_token=False),
        )
    return marks


def _sources_with_token(rule: AuthorizationRule) -> tuple[From, ...] | None:
    """Return the sources that only a request with a token meets; None: the rule has none."""
    if any(needs_token(when) for when in rule.when):
        return rule.from_
    return tuple(part for part in rule.from_ if part.source.request_principals) or None


def local_reply(settings: MeshSettings) -> hcm.LocalReplyConfig:
    """Build the replies for the HTTP connection manager that carries the security filters."""
    mappers = [_invalid_token()]
    if settings.missing_token_status == HTTPStatus.UNAUTHORIZED:
        mappers += [_missing_token(), _insufficient_scope()]
    return hcm.LocalReplyConfig(mappers=mappers)


def _invalid_token() -> hcm.ResponseMapper:
    refused = reply_filters.every(
        reply_filters.status(HTTPStatus.UNAUTHORIZED),
        reply_filters.details_begin("jwt_authn_access_denied"),
    )
    return hcm.ResponseMapper(
        filter=refused, headers_to_add=_challenge(f'{_REALM}, error="invalid_token"')
    )


def _missing_token() -> hcm.ResponseMapper:
    # `invert` has no effect on a matcher of access logs; one that never matches has, together
    # with "matches when the key is not there".
    no_token = MetadataFilter(
        matcher=matchers.no_payload(), match_if_key_not_found=BoolValue(value=True)
    )
    return hcm.ResponseMapper(
        filter=reply_filters.every(*_MARKED, AccessLogFilter(metadata_filter=no_token)),
        status_code=UInt32Value(value=HTTPStatus.UNAUTHORIZED),
        body=DataSource(inline_string=MISSING_TOKEN),
        headers_to_add=_challenge(_REALM),
    )


def _insufficient_scope() -> hcm.ResponseMapper:
    return hcm.ResponseMapper(
        filter=reply_filters.every(*_MARKED),
        headers_to_add=_challenge(f'{_REALM}, error="insufficient_scope"'),
    )


def _challenge(value: str) -> Sequence[HeaderValueOption]:
    return (
        HeaderValueOption(
            header=HeaderValue(key="www-authenticate", value=value),
            append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
        ),
    )


def _marked() -> Sequence[AccessLogFilter]:
    """Match a refusal because no ALLOW rule matched, of a request that a token could help."""
    key = MetadataMatcher.PathSegment(key=f"{SHADOW_PREFIX}shadow_engine_result")
    mark = MetadataMatcher(
        filter=RBAC_FILTER,
        path=[key],
        value=ValueMatcher(string_match=StringMatcher(exact="allowed")),
    )
    return (
        reply_filters.status(HTTPStatus.FORBIDDEN),
        reply_filters.details_begin("rbac_access_denied_matched_policy[none]"),
        AccessLogFilter(
            metadata_filter=MetadataFilter(
                matcher=mark, match_if_key_not_found=BoolValue(value=False)
            )
        ),
    )


_MARKED = _marked()
