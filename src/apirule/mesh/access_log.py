"""Access logs: one JSON line per request, and refusals to the control plane.

Neither names a query string or a header that may hold a token. The control plane learns of every
401 and 403 at once: an unknown key makes it fetch the key set again, and ``explain`` shows why.
"""

from __future__ import annotations

from collections.abc import Mapping

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import base_pb2, config_source_pb2, grpc_service_pb2
from envoy.config.core.v3 import substitution_format_string_pb2 as format_pb2
from envoy.extensions.access_loggers.grpc.v3 import als_pb2
from envoy.extensions.access_loggers.stream.v3 import stream_pb2
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import UInt32Value

from apirule.mesh import durations
from apirule.mesh.packing import pack

XDS_CLUSTER = "xds"
LOG_NAME = "apirule"
_FLUSH_S = 0.05
_REFUSALS = (401, 403)

FIELDS: Mapping[str, str | Mapping[str, str]] = {
    "time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "authority": "%REQ(:AUTHORITY)%",
    "path": "%PATH(NQ:PATH)%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "route": "%ROUTE_NAME%",
    "cluster": "%UPSTREAM_CLUSTER_RAW%",
    "peer": "%DOWNSTREAM_PEER_URI_SAN%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "duration_ms": "%DURATION%",
    "received_bytes": "%BYTES_RECEIVED%",
    "sent_bytes": "%BYTES_SENT%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "tls_failure": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
    "upstream_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "policy": "%DYNAMIC_METADATA(envoy.filters.http.rbac)%",
    # Of a token that was verified, what rules ask for: a lack of it is told from a lack in it.
    "token": {
        claim: f"%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:payload:{claim})%"
        for claim in ("iss", "aud", "scp", "scope", "scopes")
    },
}
"""Name in the line to what Envoy puts there; what is absent in a request is left out."""


def access_logs() -> list[accesslog_pb2.AccessLog]:
    return [_to_stdout(), _refusals_to_control_plane()]


def _to_stdout() -> accesslog_pb2.AccessLog:
    fields = Struct()
    fields.update(FIELDS)
    log = stream_pb2.StdoutAccessLog(
        log_format=format_pb2.SubstitutionFormatString(json_format=fields, omit_empty_values=True)
    )
    return accesslog_pb2.AccessLog(name="envoy.access_loggers.stdout", typed_config=pack(log))


def _refusals_to_control_plane() -> accesslog_pb2.AccessLog:
    log = als_pb2.HttpGrpcAccessLogConfig(
        common_config=als_pb2.CommonGrpcAccessLogConfig(
            log_name=LOG_NAME,
            transport_api_version=config_source_pb2.ApiVersion.Value("V3"),
            grpc_service=grpc_service_pb2.GrpcService(
                envoy_grpc=grpc_service_pb2.GrpcService.EnvoyGrpc(cluster_name=XDS_CLUSTER)
            ),
            # A client with a new key waits for this line, so none is held back to fill a buffer.
            buffer_size_bytes=UInt32Value(value=0),
            buffer_flush_interval=durations.seconds(_FLUSH_S),
        )
    )
    return accesslog_pb2.AccessLog(
        name="envoy.access_loggers.http_grpc",
        filter=accesslog_pb2.AccessLogFilter(
            or_filter=accesslog_pb2.OrFilter(filters=[_status(code) for code in _REFUSALS])
        ),
        typed_config=pack(log),
    )


def _status(code: int) -> accesslog_pb2.AccessLogFilter:
    equal = accesslog_pb2.ComparisonFilter(
        op=accesslog_pb2.ComparisonFilter.EQ,
        value=base_pb2.RuntimeUInt32(
            default_value=code, runtime_key=f"apirule.access_log.status_{code}"
        ),
    )
    return accesslog_pb2.AccessLogFilter(
        status_code_filter=accesslog_pb2.StatusCodeFilter(comparison=equal)
    )
