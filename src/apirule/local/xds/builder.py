"""From a snapshot to what one proxy is sent: built, with the secrets of its identity, encoded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import structlog

from apirule.local.ca import CertificateAuthority
from apirule.local.xds.bundle import Bundle, Encoder
from apirule.local.xds.identity import workload_secrets
from apirule.mesh.config import ProxyConfig, TypeUrl
from apirule.mesh.memo import Memo
from apirule.mesh.proxy import Proxy
from apirule.mesh.snapshot import Snapshot

log = structlog.get_logger()

Build = Callable[[Snapshot, Proxy, Memo], ProxyConfig]


class NotBuilt(Exception):  # noqa: N818 - a finding about a snapshot, which is acted upon
    """Building failed, which is our mistake. The message is what Python said."""


class Builder:
    """Remembers what it made, so that only what changed is made again."""

    def __init__(self, authority: CertificateAuthority, build: Build) -> None:
        self._authority = authority
        self._build = build
        self._memo = Memo()
        self._encoders: defaultdict[str, Encoder] = defaultdict(Encoder)

    def config(self, snapshot: Snapshot, proxy: Proxy) -> ProxyConfig:
        """Build what a proxy is told, without the secrets of its own identity."""
        try:
            return self._build(snapshot, proxy, self._memo)
        except Exception as error:
            log.debug("configuration not built", node=proxy.node_id, exc_info=True)
            raise NotBuilt(f"{type(error).__name__}: {error}") from error

    def bundle(self, proxy: Proxy, config: ProxyConfig) -> Bundle:
        secrets = workload_secrets(self._authority, proxy)
        resources = dict(config.resources)
        resources[TypeUrl.SECRET] = {**resources.get(TypeUrl.SECRET, {}), **secrets}
        return self._encoders[proxy.node_id].encode(resources)

    def forget(self, proxy: Proxy) -> None:
        self._encoders.pop(proxy.node_id, None)
