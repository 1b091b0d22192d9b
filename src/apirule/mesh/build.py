"""Everything one proxy is told: ``build(snapshot, proxy)``.

One object in error never costs another one anything: what cannot be expressed is left out (a
server, a VirtualService) or answers 503 (a route), and says so in ``problems``; a policy that
cannot be expressed closes its workload.
"""

from __future__ import annotations

from apirule.mesh import callees, gateway, security, sidecar
from apirule.mesh.config import ProxyConfig, TypeUrl
from apirule.mesh.draft import Draft
from apirule.mesh.memo import Memo
from apirule.mesh.proxy import Proxy, Role
from apirule.mesh.snapshot import Snapshot


def build(snapshot: Snapshot, proxy: Proxy, memo: Memo | None = None) -> ProxyConfig:
    """Return the configuration of one proxy.

    Keep one ``memo`` and hand it in every time: what did not change is then not built again.
    Messages are shared between configurations and must not be changed.
    """
    memo = memo or Memo()
    draft = Draft()
    match proxy.role:
        case Role.GATEWAY:
            gateway.build(draft, snapshot, proxy, memo)
        case Role.SIDECAR:
            sidecar.build(draft, snapshot, proxy, memo)
    asked = security.upstreams(snapshot, proxy, memo)
    callees.put_clusters(draft, snapshot, proxy, asked, memo)
    sources = security.sources(snapshot, proxy, memo)
    for name, extension in security.extensions(snapshot, proxy, memo).items():
        draft.put(TypeUrl.EXTENSION, name, extension, sources.get(name, frozenset()))
    for ref, problems in security.problems(snapshot, proxy, memo).items():
        draft.report(ref, problems)
    return draft.finish()
