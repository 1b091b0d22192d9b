"""How a host of a ServiceEntry is called: addresses that are given, or that DNS is asked for."""

from __future__ import annotations

from collections.abc import Iterator

from envoy.config.cluster.v3 import cluster_pb2
from google.protobuf.duration_pb2 import Duration

from apirule.apis import traffic
from apirule.apis.traffic import ServiceEntry
from apirule.mesh import clusters
from apirule.mesh.clusters import Call, OutboundCluster, Place
from apirule.mesh.destinations import cluster_name
from apirule.mesh.entries import DNS, HTTP2
from apirule.mesh.memo import Memo
from apirule.mesh.proxy import UNIX
from apirule.mesh.snapshot import Snapshot, selects
from apirule.mesh.traffic import Ruling, ruling

_DNS_REFRESH = Duration(seconds=60)


def outbound(
    snapshot: Snapshot,
    entry: ServiceEntry,
    host: str,
    port: traffic.EntryPort,
    memo: Memo,
    *,
    subset: str = "",
    caller: str,
) -> OutboundCluster:
    """Return how a host is called. Shared with other proxies: never change the messages."""
    home = entry.metadata.namespace
    rules = ruling(
        snapshot, host, port=port.number, subset=subset, home=home, caller=caller
    ) or Ruling(closed=True)
    settings = rules.settings.tls
    identities, has_plain = (
        clusters.identities_for(settings, entry.spec.subject_alt_names) if settings else ((), True)
    )
    call = Call(
        cluster_name(host, port.number, subset),
        sni=clusters.sni_of(host, port.number, subset, settings),
        speaks_h2=port.protocol.upper() in HTTP2,
        settings=_with_names(rules.settings, entry),
        identities=identities,
        has_plain=has_plain,
        system_roots=snapshot.settings.system_roots,
    )
    places = tuple(_places(entry, host, port, rules))
    is_static = entry.spec.resolution not in DNS or not places
    if is_static or rules.closed or clusters.nobody_may_answer(call):
        return clusters.assigned(call, places, memo, owner=entry.ref, ruling=rules)
    is_round = entry.spec.resolution == "DNS_ROUND_ROBIN"
    key = ("resolved", call, places, is_round)
    cluster = memo(key, lambda: _resolved(call, places, is_round=is_round))
    sources = frozenset([entry.ref, *([rules.rule.ref] if rules.rule else [])])
    return OutboundCluster(
        cluster, None, sources, sources, rule=rules.rule, client_tls=call.settings.tls
    )


def _with_names(settings: traffic.TrafficSettings, entry: ServiceEntry) -> traffic.TrafficSettings:
    """Add who may answer, where the rule asks for TLS and names nobody."""
    own, names = settings.tls, entry.spec.subject_alt_names
    if own is None or own.subject_alt_names or own.insecure_skip_verify or not names:
        return settings
    tls = traffic.ClientTLSSettings(
        mode=own.mode, credential_name=own.credential_name, sni=own.sni, subject_alt_names=names
    )
    return traffic.TrafficSettings(
        load_balancer=settings.load_balancer,
        connection_pool=settings.connection_pool,
        outlier_detection=settings.outlier_detection,
        tls=tls,
    )


def _resolved(call: Call, places: tuple[Place, ...], *, is_round: bool) -> cluster_pb2.Cluster:
    """Return a cluster whose addresses Envoy asks DNS for."""
    cluster = clusters.called(call)
    kind = cluster_pb2.Cluster.LOGICAL_DNS if is_round else cluster_pb2.Cluster.STRICT_DNS
    cluster.type = kind
    cluster.dns_lookup_family = cluster_pb2.Cluster.V4_PREFERRED
    cluster.dns_refresh_rate.CopyFrom(_DNS_REFRESH)
    cluster.respect_dns_ttl = True
    cluster.load_assignment.CopyFrom(clusters.assignment_of(call.name, places))
    return cluster


def _places(
    entry: ServiceEntry, host: str, port: traffic.EntryPort, rules: Ruling
) -> Iterator[Place]:
    settings = rules.settings.tls
    is_mtls = settings is not None and settings.mode == "ISTIO_MUTUAL"
    number = port.target_port or port.number
    if not entry.spec.endpoints:
        if not rules.labels:
            yield Place(host, number, is_mtls)
        return
    for endpoint in entry.spec.endpoints:
        if not selects(dict(rules.labels), endpoint.labels or {}):
            continue
        if endpoint.address.startswith(UNIX):
            path = "/" + endpoint.address.removeprefix(UNIX).lstrip("/")
            yield Place(UNIX + path, 0, is_mtls, endpoint.weight)
        else:
            at = (endpoint.ports or {}).get(port.name, number)
            yield Place(endpoint.address, at, is_mtls, endpoint.weight)
