"""Everything one proxy is told: ``build(snapshot, proxy)``.

One object in error never costs another one anything: what cannot be expressed is left out (a
server, a VirtualService) or answers 503 (a route), and says so in ``problems``; a policy that
cannot be expressed closes its workload.
"""

from __future__ import annotations

from functools import partial

from apirule.apis import core, networking
from apirule.apis.meta import Resource
from apirule.apis.security import AuthorizationPolicy, RequestAuthentication
from apirule.mesh import callees, entrance, gateway, security, sidecar
from apirule.mesh.config import ProxyConfig, TypeUrl
from apirule.mesh.draft import Draft
from apirule.mesh.memo import Memo
from apirule.mesh.proxy import Proxy, Role
from apirule.mesh.snapshot import Snapshot

# PeerAuthentications are of both halves: they decide on listeners, and close a workload in error.
_ONLY_FOR_GUARDS = (RequestAuthentication, AuthorizationPolicy)
_ROUTES: tuple[type[Resource], ...] = (networking.VirtualService, networking.Gateway)
_ONLY_FOR_NETWORK: tuple[type[Resource], ...] = (
    *_ROUTES,
    core.Service,
    core.EndpointSlice,
    core.Secret,
)


def build(snapshot: Snapshot, proxy: Proxy, memo: Memo | None = None) -> ProxyConfig:
    """Return the configuration of one proxy.

    Keep one ``memo`` and hand it in every time: what did not change is then not built again.
    Messages are shared between configurations and must not be changed.
    """
    memo = memo or Memo()
    # Guards change often and routes not with them, or the other way round: each half is built
    # again only if something changed that it is made of.
    network = memo.latest(
        ("network", proxy.name),
        (proxy, snapshot.edition(without=_ONLY_FOR_GUARDS)),
        partial(_network, snapshot, proxy, memo),
    )
    guards = memo.latest(
        ("guards", proxy.name),
        (
            proxy,
            snapshot.edition(without=_without_meaning_for_guards(snapshot)),
            entrance.entrance(snapshot, proxy),
        ),
        partial(_guards, snapshot, proxy, memo),
    )
    draft = Draft()
    draft.add(network)
    draft.add(guards)
    return draft.finish()


def _without_meaning_for_guards(snapshot: Snapshot) -> tuple[type[Resource], ...]:
    """Return the kinds guards are not made of. Authorizers are Services, wherever they run."""
    policies = snapshot.of_kind(AuthorizationPolicy)
    asks = any(policy.spec.action == "CUSTOM" for policy in policies)
    return _ROUTES if asks else _ONLY_FOR_NETWORK


def _network(snapshot: Snapshot, proxy: Proxy, memo: Memo) -> Draft:
    """Build listeners, routes, clusters, endpoints and secrets."""
    draft = Draft()
    match proxy.role:
        case Role.GATEWAY:
            gateway.build(draft, snapshot, proxy, memo)
        case Role.SIDECAR:
            sidecar.build(draft, snapshot, proxy, memo)
    return draft


def _guards(snapshot: Snapshot, proxy: Proxy, memo: Memo) -> Draft:
    """Build what checks tokens and policies, and the way to the authorizers that are asked."""
    draft = Draft()
    asked = security.upstreams(snapshot, proxy, memo)
    callees.put_clusters(draft, snapshot, proxy, asked, memo)
    sources = security.sources(snapshot, proxy, memo)
    for name, extension in security.extensions(snapshot, proxy, memo).items():
        draft.put(TypeUrl.EXTENSION, name, extension, sources.get(name, frozenset()))
    for ref, problems in security.problems(snapshot, proxy, memo).items():
        draft.report(ref, problems)
    return draft
