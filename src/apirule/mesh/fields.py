"""Fields of Istio's objects that mean nothing here: not implemented, or misspelt."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from functools import cache

from apirule.apis import networking, scheme, security, traffic
from apirule.apis.envoy_filter import EnvoyFilter
from apirule.apis.meta import Object, Resource
from apirule.problem import FieldPath, Problem, Reason

KINDS: tuple[type[Resource], ...] = (
    networking.VirtualService,
    networking.Gateway,
    traffic.DestinationRule,
    traffic.ServiceEntry,
    security.RequestAuthentication,
    security.AuthorizationPolicy,
    security.PeerAuthentication,
    EnvoyFilter,
)

NOT_IMPLEMENTED: Mapping[str, frozenset[str]] = {
    "VirtualService": frozenset(
        {
            *("exportTo", "tls", "tcp"),
            *("http[].delegate", "http[].mirrorPercent", "http[].match[].statPrefix"),
            *("http[].redirect.derivePort", "http[].directResponse.body.bytes"),
            *("http[].retries.retryRemoteLocalities", "http[].retries.retryIgnorePreviousHosts"),
            *("http[].retries.backoff", "http[].corsPolicy.allowOrigin"),
            *("http[].fault.abort.grpcStatus", "http[].fault.abort.http2Error"),
            *("http[].fault.delay.percent", "http[].fault.delay.exponentialDelay"),
        }
    ),
    "Gateway": frozenset(
        {
            *("servers[].bind", "servers[].defaultEndpoint", "servers[].port.targetPort"),
            *("servers[].tls.serverCertificate", "servers[].tls.privateKey"),
            *("servers[].tls.caCertificates", "servers[].tls.caCrl"),
            *("servers[].tls.caCertCredentialName", "servers[].tls.tlsCertificates"),
            *("servers[].tls.subjectAltNames", "servers[].tls.ecdhCurves"),
            *("servers[].tls.verifyCertificateSpki", "servers[].tls.verifyCertificateHash"),
        }
    ),
    "DestinationRule": frozenset(
        {
            "workloadSelector",
            *("trafficPolicy.tunnel", "trafficPolicy.proxyProtocol", "trafficPolicy.retryBudget"),
            "trafficPolicy.loadBalancer.consistentHash.ringHash",
            "trafficPolicy.loadBalancer.consistentHash.maglev",
            "trafficPolicy.loadBalancer.consistentHash.minimumRingSize",
            "trafficPolicy.loadBalancer.consistentHash.httpCookie.attributes",
            "trafficPolicy.loadBalancer.localityLbSetting",
            "trafficPolicy.loadBalancer.warmup",
            "trafficPolicy.loadBalancer.warmupDurationSecs",
            "trafficPolicy.connectionPool.tcp.tcpKeepalive",
            "trafficPolicy.connectionPool.tcp.idleTimeout",
            "trafficPolicy.connectionPool.http.h2UpgradePolicy",
            "trafficPolicy.connectionPool.http.useClientProtocol",
            "trafficPolicy.connectionPool.http.maxConcurrentStreams",
            "trafficPolicy.outlierDetection.consecutiveErrors",
            "trafficPolicy.outlierDetection.splitExternalLocalOriginErrors",
            "trafficPolicy.outlierDetection.consecutiveLocalOriginFailures",
            *("trafficPolicy.tls.clientCertificate", "trafficPolicy.tls.privateKey"),
            *("trafficPolicy.tls.caCertificates", "trafficPolicy.tls.caCrl"),
        }
    ),
    "ServiceEntry": frozenset(
        {
            *("addresses", "workloadSelector"),
            *("endpoints[].network", "endpoints[].locality", "endpoints[].serviceAccount"),
        }
    ),
    "RequestAuthentication": frozenset({"targetRef", "targetRefs", "jwtRules[].timeout"}),
    "AuthorizationPolicy": frozenset({"targetRef", "targetRefs"}),
    "EnvoyFilter": frozenset(
        {
            *("targetRefs", "configPatches[].patch.filterClass"),
            *("configPatches[].match.proxy", "configPatches[].match.routeConfiguration"),
            *("configPatches[].match.cluster", "configPatches[].match.waypoint"),
            *(
                f"configPatches[].match.listener.{name}"
                for name in ("name", "portNumber", "portName", "listenerFilter")
            ),
            *(
                f"configPatches[].match.listener.filterChain.{name}"
                for name in (
                    *("name", "sni", "transportProtocol"),
                    *("applicationProtocols", "destinationPort"),
                )
            ),
        }
    ),
}
"""What Istio has below ``spec`` and we have not. A policy for a port or a subset has the same."""

_SAME = re.compile(r"(subsets\[\]\.)?trafficPolicy\.(portLevelSettings\[\]\.)?")


def problems(obj: Object, kind: type[Resource]) -> Iterator[Problem]:
    """Yield every field of an object that ``kind`` does not have."""
    real = NOT_IMPLEMENTED.get(kind.gvk.kind, frozenset())
    for place in scheme.unknown_fields(obj, kind):
        if _pattern(place) in real:
            yield Problem(
                place,
                Reason.NOT_IMPLEMENTED,
                "It is not implemented here.",
                "Remove it, or use Istio.",
            )
            continue
        near = difflib.get_close_matches(str(place.parts[-1]), _names(kind), n=1)
        meant = f' Did you mean "{near[0]}"?' if near else ""
        yield Problem(
            place, Reason.UNKNOWN_FIELD, f"There is no such field.{meant}", "Correct or remove it."
        )


def _pattern(place: FieldPath) -> str:
    """Write a place below ``spec`` as the table does, with ``[]`` for each element of a list."""
    text = ""
    for part in place.parts[1:]:
        text += "[]" if isinstance(part, int) else f".{part}"
    return _SAME.sub("trafficPolicy.", text.removeprefix("."), count=1)


@cache
def _names(kind: type[Resource]) -> tuple[str, ...]:
    """Return the names of all fields of a kind, wherever they stand."""
    return tuple(sorted(set(scheme.field_names(kind))))
