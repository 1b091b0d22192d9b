"""What Envoy reads before it can ask: who it is, where the control plane is, what it counts.

Kept small for many idle proxies on one machine: one worker, statistics only where someone reads
them, counters flushed when they are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apirule.mesh.access_log import XDS_CLUSTER
from apirule.mesh.matchers import RE2_PROGRAM_SIZE, RE2_PROGRAM_SIZE_KEY
from apirule.mesh.proxy import UNIX, Proxy, Role

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_CONNECTIONS = (
    "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
)
_MAX_CONNECTIONS = 50_000
_OWNER_ONLY = 0o600
_RESETS_KEY = "overload.premature_reset_total_stream_count"
"""A connection on which half as many requests are taken back at once is closed (CVE-2023-44487)."""
_ANY_NUMBER = 2**32 - 1
_FREE_MEMORY_EVERY = "10s"
_FREE_BYTES = 1024 * 1024

STATS_PREFIXES = (
    "server.",
    "cluster_manager.",
    "control_plane.",
    "listener_manager.",
    "sds.",
    "extension_config_discovery.",
    "cluster.xds.",
)
STATS_PATTERNS = (
    r"http\.(ingress|inbound_\d+|outbound)\.downstream_(rq|cx)_(total|active|completed|[1-5]xx)",
    r"http\..*\.(jwt_authn|rbac)\..*",
    r"http\..*\.rds\..*\.(update_.*|version)",
    # A limit that is not enforced is only here to be seen.
    r".*\.http_local_rate_limit\..*",
    r"listener\..*\.ssl\.(fail_.*|no_certificate|connection_error)",
    r"cluster\.(outbound|inbound)\|.*\.(upstream_(rq|cx)_(total|[1-5]xx|connect_fail)|ssl\.fail_.*)",
)


def bootstrap(
    proxy: Proxy, *, xds_socket: str, admin: str, count_clusters: bool = False
) -> dict[str, Any]:
    """Return the bootstrap, to be written as JSON.

    ``admin`` is ``unix:/path`` or ``127.0.0.1:port``. ``count_clusters`` keeps statistics for each
    Service, about 30 KiB more for each.
    """
    patterns = STATS_PATTERNS if count_clusters else STATS_PATTERNS[:-1]
    return {
        "node": _node(proxy),
        "admin": {"address": _address(admin)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [
                    {
                        "envoy_grpc": {
                            "cluster_name": XDS_CLUSTER,
                            # The control plane is beside us: to look often costs nothing, and
                            # the pause is drawn anew each time, from nought to the whole of it.
                            "retry_policy": {
                                "retry_back_off": {"base_interval": "0.1s", "max_interval": "0.25s"}
                            },
                        }
                    }
                ],
            },
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "static_resources": {"clusters": [_xds_cluster(xds_socket)]},
        "stats_config": {
            "stats_matcher": {
                "inclusion_list": {
                    "patterns": [
                        *({"prefix": prefix} for prefix in STATS_PREFIXES),
                        *({"safe_regex": {"regex": pattern}} for pattern in patterns),
                    ]
                }
            }
        },
        "layered_runtime": {"layers": [{"name": "static", "static_layer": _runtime(proxy)}]},
        "stats_flush_on_admin": True,
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
        "memory_allocator_manager": {
            "bytes_to_release": _FREE_BYTES,
            "memory_release_interval": _FREE_MEMORY_EVERY,
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": f"type.googleapis.com/{_CONNECTIONS}",
                        "max_active_downstream_connections": _MAX_CONNECTIONS,
                    },
                }
            ]
        },
    }


def envoy_argv(
    binary: str, bootstrap_path: str, *, log_level: str = "warning", drain_s: int = 2
) -> Sequence[str]:
    """Return the command line. Access logs go to stdout, Envoy's own log to stderr."""
    return (
        binary,
        "--config-path",
        bootstrap_path,
        "--concurrency",
        "1",
        # Many Envoys on one machine must not look for each other's shared memory.
        "--disable-hot-restart",
        "--drain-strategy",
        "immediate",
        "--drain-time-s",
        str(drain_s),
        "--parent-shutdown-time-s",
        str(drain_s + 1),
        "--file-flush-interval-msec",
        "200",
        "--log-level",
        log_level,
    )


def _runtime(proxy: Proxy) -> dict[str, Any]:
    # The regular expressions of long path templates are larger than Envoy allows by default.
    values = {RE2_PROGRAM_SIZE_KEY: RE2_PROGRAM_SIZE}
    if proxy.role is Role.SIDECAR:
        # A gateway sends the requests of all clients on one connection, and what one of them takes
        # back must not close it for the others. Towards clients the gateway keeps Envoy's limit.
        values[_RESETS_KEY] = _ANY_NUMBER
    return values


def _node(proxy: Proxy) -> dict[str, Any]:
    return {
        "id": proxy.node_id,
        "cluster": f"{proxy.role}.{proxy.name.namespace}",
        "metadata": {
            "NAME": proxy.name.name,
            "NAMESPACE": proxy.name.namespace,
            "SERVICE_ACCOUNT": proxy.service_account,
            "LABELS": dict(sorted(proxy.labels.items())),
        },
    }


def _xds_cluster(socket: str) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": {"pipe": {"path": socket.removeprefix(UNIX)}}}}
    return {
        "name": XDS_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": XDS_CLUSTER,
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: {
                "@type": f"type.googleapis.com/{_HTTP_OPTIONS}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }


def _address(text: str) -> dict[str, Any]:
    if text.startswith(UNIX):
        return {"pipe": {"path": text.removeprefix(UNIX), "mode": _OWNER_ONLY}}
    host, _, port = text.rpartition(":")
    return {"socket_address": {"address": host.strip("[]") or "127.0.0.1", "port_value": int(port)}}
