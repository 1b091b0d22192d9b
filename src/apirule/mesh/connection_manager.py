"""The HTTP connection manager of each kind of listener.

Policy, route and application must see one path. So every connection manager, not only the first
one, resolves dots, merges slashes and decodes escaped slashes before anything else looks; doing it
twice changes nothing. Clients are not redirected to the clean path: a POST would lose its body.

The port in ``Host`` stays, because the application builds absolute URLs from it; routes ignore it
and policies match a host with and without one.
"""

from __future__ import annotations

from collections.abc import Sequence

from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import address_pb2, base_pb2, extension_pb2, protocol_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from apirule.mesh import challenge, durations, malformed
from apirule.mesh.access_log import access_logs
from apirule.mesh.config import MeshSettings
from apirule.mesh.filters import NOTHING, Inserted, http_filters
from apirule.mesh.packing import ads, pack

_HCM = hcm_pb2.HttpConnectionManager
_TRUE = BoolValue(value=True)
_MAX_HEADERS_KIB = UInt32Value(value=60)
_MAX_HEADERS = UInt32Value(value=100)
_MAX_STREAMS = UInt32Value(value=100)
_STREAM_WINDOW = UInt32Value(value=64 * 1024)
_CONNECTION_WINDOW = UInt32Value(value=1024 * 1024)
_REQUEST_HEADERS_TIMEOUT_S = 10.0
"""A client that sends its headers slower than this holds a connection for nothing."""

SERVER_NAME = "istio-envoy"
_OF_PROXIES = "x-envoy-"
"""Headers in which proxies tell each other, and the application, what they know of a request."""

# Without any range Envoy takes private and loopback addresses for internal.
_NOBODY = address_pb2.CidrRange(address_prefix="255.255.255.255", prefix_len=UInt32Value(value=32))
_CLIENT_ADDRESS = base_pb2.HeaderValueOption(
    header=base_pb2.HeaderValue(
        key="x-forwarded-for", value="%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"
    ),
    append_action=base_pb2.HeaderValueOption.APPEND_IF_EXISTS_OR_ADD,
)


def at_gateway(
    route_name: str,
    security: Sequence[hcm_pb2.HttpFilter],
    settings: MeshSettings,
    inserted: Inserted = NOTHING,
) -> listener_components_pb2.Filter:
    """Return the edge: nothing a client says about itself is believed."""
    hcm = _base("ingress", security, settings, inserted, form=[malformed.http_filter()])
    for position, reply in enumerate(malformed.local_replies()):
        hcm.local_reply_config.mappers.insert(position, reply)
    hcm.rds.CopyFrom(_rds(route_name))
    hcm.use_remote_address.CopyFrom(_TRUE)
    # For a client on this machine Envoy would append the address of the machine's network.
    hcm.skip_xff_append = True
    hcm.forward_client_cert_details = _HCM.SANITIZE_SET
    hcm.strip_trailing_host_dot = settings.is_port_in_host_ignored
    hcm.request_headers_timeout.CopyFrom(durations.seconds(_REQUEST_HEADERS_TIMEOUT_S))
    hcm.early_header_mutation_extensions.append(_corrected_headers())
    # CGI and WSGI make one name of X_Forwarded_For and X-Forwarded-For.
    hcm.common_http_protocol_options.headers_with_underscores_action = (
        protocol_pb2.HttpProtocolOptions.DROP_HEADER
    )
    return _filter(hcm)


def at_workload(
    name: str,
    routes: route_pb2.RouteConfiguration,
    security: Sequence[hcm_pb2.HttpFilter],
    settings: MeshSettings,
    inserted: Inserted = NOTHING,
) -> listener_components_pb2.Filter:
    """Return what stands before an application; its callers are proxies of the mesh."""
    hcm = _base(name, security, settings, inserted, has_faults=False)
    hcm.route_config.CopyFrom(routes)
    hcm.forward_client_cert_details = _HCM.APPEND_FORWARD
    hcm.server_header_transformation = _HCM.PASS_THROUGH
    # A WebSocket comes over HTTP/2 as an extended CONNECT (RFC 8441).
    hcm.http2_protocol_options.allow_connect = True
    return _filter(hcm)


def as_http_proxy(route_name: str, settings: MeshSettings) -> listener_components_pb2.Filter:
    """Return what an application calls others through. There is nothing to protect it from."""
    hcm = _base("outbound", (), settings)
    hcm.rds.CopyFrom(_rds(route_name))
    hcm.strip_trailing_host_dot = True
    hcm.forward_client_cert_details = _HCM.SANITIZE
    hcm.server_header_transformation = _HCM.PASS_THROUGH
    hcm.ClearField("local_reply_config")
    return _filter(hcm)


def _corrected_headers() -> extension_pb2.TypedExtensionConfig:
    """Put right what a client says about itself, before anything reads it.

    Of the headers of proxies Envoy itself drops only those it acts on; x-envoy-original-path, for
    one, would reach an application that takes it for Envoy's word.
    """
    theirs = string_pb2.StringMatcher(prefix=_OF_PROXIES)
    remove = mutation_rules_pb2.HeaderMutation.RemoveOnMatch(key_matcher=theirs)
    mutation = header_mutation_pb2.HeaderMutation(
        mutations=[
            mutation_rules_pb2.HeaderMutation(remove_on_match=remove),
            mutation_rules_pb2.HeaderMutation(append=_CLIENT_ADDRESS),
        ]
    )
    return extension_pb2.TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation", typed_config=pack(mutation)
    )


def _base(
    stat_prefix: str,
    security: Sequence[hcm_pb2.HttpFilter],
    settings: MeshSettings,
    inserted: Inserted = NOTHING,
    *,
    form: Sequence[hcm_pb2.HttpFilter] = (),
    has_faults: bool = True,
) -> hcm_pb2.HttpConnectionManager:
    return _HCM(
        stat_prefix=stat_prefix,
        http_filters=http_filters(security, inserted, form=form, has_faults=has_faults),
        local_reply_config=challenge.local_reply(settings),
        access_log=access_logs(),
        server_name=SERVER_NAME,
        normalize_path=_TRUE,
        merge_slashes=True,
        path_with_escaped_slashes_action=_HCM.UNESCAPE_AND_FORWARD,
        upgrade_configs=[_HCM.UpgradeConfig(upgrade_type="websocket")],
        max_request_headers_kb=_MAX_HEADERS_KIB,
        common_http_protocol_options=protocol_pb2.HttpProtocolOptions(
            max_headers_count=_MAX_HEADERS
        ),
        http2_protocol_options=protocol_pb2.Http2ProtocolOptions(
            max_concurrent_streams=_MAX_STREAMS,
            initial_stream_window_size=_STREAM_WINDOW,
            initial_connection_window_size=_CONNECTION_WINDOW,
        ),
        # A stream of events may be silent for hours; the timeout of the route is what limits.
        stream_idle_timeout=durations.NONE,
        set_current_client_cert_details=_HCM.SetCurrentClientCertDetails(
            subject=_TRUE, dns=True, uri=True
        ),
        # No address is internal, though all are loopback: nobody is believed for being near.
        internal_address_config=_HCM.InternalAddressConfig(cidr_ranges=[_NOBODY]),
    )


def _rds(route_name: str) -> hcm_pb2.Rds:
    source = ads()
    # Wait for the routes however long it takes: an empty table would answer 404 for all.
    source.initial_fetch_timeout.CopyFrom(durations.NONE)
    return hcm_pb2.Rds(route_config_name=route_name, config_source=source)


def _filter(hcm: hcm_pb2.HttpConnectionManager) -> listener_components_pb2.Filter:
    return listener_components_pb2.Filter(
        name="envoy.filters.network.http_connection_manager", typed_config=pack(hcm)
    )
