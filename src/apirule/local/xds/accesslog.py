"""What the proxies say about requests they turned away: kept for people, and a kick for new keys.

Envoy streams its access log here. Only denials are kept, the newest ones, without query strings,
headers and tokens. A token whose key is in no known key set is special: the issuer may just have
rotated its keys, so whoever fetches key sets is told at once instead of at the next poll.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import msgspec
from envoy.config.core.v3.base_pb2 import RequestMethod
from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage

from apirule.names import ObjectName

KEPT = 1000
_DENIALS = ("jwt_authn_access_denied", "rbac_access_denied", "ext_authz_denied")
_UNKNOWN_KEY = "jwt_authn_access_denied{Jwks_doesn't_have_key_to_match_kid"
_LONGEST = 512
"""Of each text: it comes from a request, so its length is anybody's choice."""


class Denial(msgspec.Struct, frozen=True):
    """One request a proxy answered itself, because of a policy."""

    proxy: ObjectName
    at: datetime
    method: str
    host: str
    path: str
    """Without its query: that may carry a token."""
    status: int
    details: str
    """Envoy's word, such as ``rbac_access_denied_matched_policy[none]``."""
    peer: str
    """The SPIFFE ID of the caller; empty without mTLS."""


class DenialLog:
    """``on_unknown_key`` is told the proxy whose key sets lack a key that a token names."""

    def __init__(
        self,
        on_unknown_key: Callable[[ObjectName], None] = lambda _: None,
        *,
        keep: int = KEPT,
    ) -> None:
        self._on_unknown_key = on_unknown_key
        self._denials: deque[Denial] = deque(maxlen=keep)

    def recent(self, proxy: ObjectName | None = None) -> tuple[Denial, ...]:
        """Return the denials that are kept, the oldest first."""
        return tuple(d for d in self._denials if proxy is None or d.proxy == proxy)

    def take(self, node_id: str, message: StreamAccessLogsMessage) -> None:
        proxy = ObjectName.parse(node_id)
        denials = list(read_denials(proxy, message.http_logs.log_entry))
        self._denials.extend(denials)
        if any(denial.details.startswith(_UNKNOWN_KEY) for denial in denials):
            self._on_unknown_key(proxy)


def read_denials(proxy: ObjectName, entries: Iterable[HTTPAccessLogEntry]) -> Iterable[Denial]:
    for entry in entries:
        details = entry.response.response_code_details
        # What the application answered, 401 and 403 among it, is its own affair.
        if not details.startswith(_DENIALS):
            continue
        common, request = entry.common_properties, entry.request
        peers = common.tls_properties.peer_certificate_properties.subject_alt_name
        yield Denial(
            proxy=proxy,
            at=common.start_time.ToDatetime(UTC),
            method=RequestMethod.Name(request.request_method),
            host=request.authority[:_LONGEST],
            path=_without_query(request.original_path or request.path)[:_LONGEST],
            status=entry.response.response_code.value,
            details=details[:_LONGEST],
            peer=next((name.uri for name in peers if name.uri), ""),
        )


def _without_query(path: str) -> str:
    return path.partition("?")[0].partition("#")[0]
