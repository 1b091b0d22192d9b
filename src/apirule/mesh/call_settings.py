"""What a DestinationRule says of a cluster, in Envoy's words: balancing, limits, ejection."""

from __future__ import annotations

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2, outlier_detection_pb2
from envoy.config.core.v3 import protocol_pb2
from envoy.config.route.v3 import route_components_pb2 as route_pb2
from envoy.type.v3 import percent_pb2
from google.protobuf.wrappers_pb2 import UInt32Value

from apirule.apis import traffic
from apirule.apis.traffic import TrafficSettings
from apirule.mesh import durations

UNLIMITED = UInt32Value(value=2**32 - 1)
_MAX_RETRIES = UInt32Value(value=1024)
_NEVER = UInt32Value(value=0)
_ALWAYS = UInt32Value(value=100)
_DEFAULT_EJECTION_PERCENT = 10
_BALANCERS = {
    "RANDOM": cluster_pb2.Cluster.RANDOM,
    "ROUND_ROBIN": cluster_pb2.Cluster.ROUND_ROBIN,
}


def thresholds(settings: TrafficSettings) -> circuit_breaker_pb2.CircuitBreakers:
    """Return the limits. Without any there are none.

    Envoy's 1024 would turn a burst into 503s of the proxy; the application has its own limit.
    """
    pool = settings.connection_pool or traffic.ConnectionPool()
    tcp, http = pool.tcp or traffic.TCPPool(), pool.http or traffic.HTTPPool()
    limit = circuit_breaker_pb2.CircuitBreakers.Thresholds(
        max_connections=_limit(tcp.max_connections),
        max_pending_requests=_limit(http.http1_max_pending_requests),
        max_requests=_limit(http.http2_max_requests),
        max_retries=UInt32Value(value=http.max_retries) if http.max_retries else _MAX_RETRIES,
    )
    return circuit_breaker_pb2.CircuitBreakers(thresholds=[limit])


def apply(cluster: cluster_pb2.Cluster, settings: TrafficSettings) -> None:
    """Add what stands in fields of the cluster itself."""
    balancer = settings.load_balancer or traffic.LoadBalancer()
    cluster.lb_policy = _BALANCERS.get(balancer.simple, cluster_pb2.Cluster.LEAST_REQUEST)
    if balancer.consistent_hash is not None:
        cluster.lb_policy = cluster_pb2.Cluster.RING_HASH
    pool = settings.connection_pool
    timeout = durations.parse(pool.tcp.connect_timeout or "") if pool and pool.tcp else None
    if timeout:
        cluster.connect_timeout.CopyFrom(durations.message(timeout))
    if settings.outlier_detection is not None:
        _eject(cluster, settings.outlier_detection)


def http_options(settings: TrafficSettings) -> protocol_pb2.HttpProtocolOptions | None:
    """Return the limits of each connection; None where nothing is said of them."""
    pool = settings.connection_pool or traffic.ConnectionPool()
    tcp, http = pool.tcp or traffic.TCPPool(), pool.http or traffic.HTTPPool()
    options = protocol_pb2.HttpProtocolOptions()
    idle = durations.parse(http.idle_timeout or "")
    if idle is not None:
        options.idle_timeout.CopyFrom(durations.message(idle))
    longest = durations.parse(tcp.max_connection_duration or "")
    if longest:
        options.max_connection_duration.CopyFrom(durations.message(longest))
    if http.max_requests_per_connection:
        options.max_requests_per_connection.value = http.max_requests_per_connection
    return options if options.ByteSize() else None


def hash_policy(consistent: traffic.ConsistentHash) -> route_pb2.RouteAction.HashPolicy:
    """Return what a route hashes, so that the cluster's ring can keep a client in its place."""
    policy = route_pb2.RouteAction.HashPolicy()
    if consistent.http_header_name:
        policy.header.header_name = consistent.http_header_name
    elif consistent.http_query_parameter_name:
        policy.query_parameter.name = consistent.http_query_parameter_name
    elif consistent.http_cookie is not None:
        cookie = consistent.http_cookie
        policy.cookie.name, policy.cookie.path = cookie.name, cookie.path
        ttl = durations.parse(cookie.ttl or "")
        if ttl is not None:
            policy.cookie.ttl.CopyFrom(durations.message(ttl))
    else:
        policy.connection_properties.source_ip = True
    return policy


def _limit(value: int) -> UInt32Value:
    return UInt32Value(value=value) if value else UNLIMITED


def _eject(cluster: cluster_pb2.Cluster, outliers: traffic.OutlierDetection) -> None:
    detection = outlier_detection_pb2.OutlierDetection(
        enforcing_success_rate=_NEVER,
        max_ejection_percent=UInt32Value(
            value=outliers.max_ejection_percent or _DEFAULT_EJECTION_PERCENT
        ),
    )
    if outliers.consecutive5xx_errors is not None:
        detection.consecutive_5xx.value = outliers.consecutive5xx_errors
        detection.enforcing_consecutive_5xx.CopyFrom(
            _ALWAYS if outliers.consecutive5xx_errors else _NEVER
        )
    if outliers.consecutive_gateway_errors is not None:
        detection.consecutive_gateway_failure.value = outliers.consecutive_gateway_errors
        detection.enforcing_consecutive_gateway_failure.CopyFrom(
            _ALWAYS if outliers.consecutive_gateway_errors else _NEVER
        )
    interval = durations.parse(outliers.interval or "")
    if interval:
        detection.interval.CopyFrom(durations.message(interval))
    base = durations.parse(outliers.base_ejection_time or "")
    if base:
        detection.base_ejection_time.CopyFrom(durations.message(base))
    cluster.outlier_detection.CopyFrom(detection)
    # Istio: with nothing said, endpoints that are left out are not used even if few remain.
    cluster.common_lb_config.healthy_panic_threshold.CopyFrom(
        percent_pb2.Percent(value=outliers.min_health_percent)
    )
