"""Whom a proxy calls: the clusters its routes name, and the certificates it shows or asks for.

A certificate that is missing closes its cluster for this proxy: nothing is sent that nobody checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2

from apirule.apis.meta import ObjectRef
from apirule.apis.traffic import ClientTLSSettings, DestinationRule
from apirule.mesh import clusters, entries, entry_clusters, tls, traffic
from apirule.mesh.clusters import OutboundCluster
from apirule.mesh.config import TypeUrl
from apirule.mesh.destinations import Upstream, port_of
from apirule.mesh.draft import Draft
from apirule.mesh.memo import Memo
from apirule.mesh.proxy import Proxy, Role
from apirule.mesh.snapshot import Snapshot
from apirule.names import ObjectName
from apirule.problem import SPEC, Problem, Reason

Credential = tuple[secret_pb2.Secret, ObjectRef]


def put(
    draft: Draft, snapshot: Snapshot, proxy: Proxy, upstreams: Iterable[Upstream], memo: Memo
) -> None:
    """Add the cluster of each upstream that exists, and say what is wrong with what rules them."""
    for found in (traffic.all_problems(snapshot), entries.all_problems(snapshot)):
        for ref, problems in found.items():
            draft.report(ref, problems)
    put_clusters(draft, snapshot, proxy, upstreams, memo)


def put_clusters(
    draft: Draft, snapshot: Snapshot, proxy: Proxy, upstreams: Iterable[Upstream], memo: Memo
) -> None:
    """Add the cluster of each upstream that exists."""
    for upstream in upstreams:
        made = _outbound(snapshot, proxy, upstream, memo)
        if made is None:
            continue
        name, sources = upstream.cluster, set(made.cluster_sources)
        assignment = made.assignment
        credentials, problem = _credentials(snapshot, proxy, made)
        for secret, ref in credentials:
            draft.put(TypeUrl.SECRET, secret.name, secret, [ref])
            sources.add(ref)
        cluster = made.cluster
        if problem is not None and made.rule is not None:
            draft.report(made.rule.ref, [problem])
            cluster = clusters.closed(name)
            assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
        draft.put(TypeUrl.CLUSTER, name, cluster, sources)
        if assignment is not None:
            draft.put(TypeUrl.ENDPOINT, name, assignment, made.sources)


def _outbound(
    snapshot: Snapshot, proxy: Proxy, upstream: Upstream, memo: Memo
) -> OutboundCluster | None:
    caller = proxy.name.namespace
    if upstream.entry is not None:
        entry = entries.hosts_seen_from(snapshot, caller).get(upstream.entry)
        place = entries.port_of(entry, upstream.port) if entry else None
        if entry is None or place is None:
            return None
        return entry_clusters.outbound(
            snapshot, entry, upstream.entry, place, memo, subset=upstream.subset, caller=caller
        )
    service = snapshot.services.get(upstream.service) if upstream.service else None
    port = port_of(service, upstream.port) if service else None
    if service is None or port is None:
        return None
    return clusters.outbound(
        snapshot,
        service,
        port,
        memo,
        subset=upstream.subset,
        caller=caller,
        # Without one nobody would ask for what the rule demands.
        only_sidecars=proxy.role is Role.GATEWAY and upstream.service in snapshot.exposed_services,
    )


def _credentials(
    snapshot: Snapshot, proxy: Proxy, made: OutboundCluster
) -> tuple[list[Credential], Problem | None]:
    """Return what a cluster needs from the Secret its rule names; Istio: beside the proxy."""
    settings = made.client_tls
    if settings is None or not settings.credential_name:
        return [], None
    owner = ObjectName(proxy.name.namespace, settings.credential_name)
    try:
        return list(_secrets(snapshot, owner, settings)), None
    except tls.CredentialError as error:
        return [], Problem(
            SPEC / "trafficPolicy" / "tls" / "credentialName",
            Reason.NOT_FOUND,
            f"{error}. From namespace {owner.namespace}, {_host(made.rule)} is answered 503.",
            "Create the Secret in the namespace of the caller, with ca.crt and for MUTUAL also "
            "tls.crt and tls.key.",
        )


def _secrets(
    snapshot: Snapshot, owner: ObjectName, settings: ClientTLSSettings
) -> Iterator[Credential]:
    secret = snapshot.secrets.get(owner)
    if secret is None:
        raise tls.CredentialError(f"There is no Secret {owner}")
    if settings.mode == "MUTUAL":
        yield tls.certificate(tls.upstream_name(settings), secret), secret.ref
    if not settings.insecure_skip_verify:
        yield tls.client_authorities(tls.upstream_ca_name(settings), secret), secret.ref


def _host(rule: DestinationRule | None) -> str:
    return rule.spec.host if rule else ""
