"""From a snapshot to what one proxy is sent: built, with the secrets of its identity, encoded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

import structlog
from google.protobuf.message import Message

from apirule.local.ca import CertificateAuthority, Pair, Roots
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
        self._bundlers: defaultdict[str, _Bundler] = defaultdict(_Bundler)

    def config(self, snapshot: Snapshot, proxy: Proxy) -> ProxyConfig:
        """Build what a proxy is told, without the secrets of its own identity."""
        try:
            return self._build(snapshot, proxy, self._memo)
        except Exception as error:
            log.debug("configuration not built", node=proxy.node_id, exc_info=True)
            raise NotBuilt(f"{type(error).__name__}: {error}") from error

    def bundle(self, proxy: Proxy, config: ProxyConfig) -> Bundle:
        """Encode it, with the secrets of the proxy's identity."""
        pair = self._authority.workload_pair(proxy.spiffe_id)
        return self._bundlers[proxy.node_id].bundle(config, pair, self._authority.roots)

    def forget(self, proxy: Proxy) -> None:
        self._bundlers.pop(proxy.node_id, None)


class _Bundler:
    """What one proxy was told last, for as long as it stays the same."""

    def __init__(self) -> None:
        self._encoder = Encoder()
        self._config: ProxyConfig | None = None
        self._pair: Pair | None = None
        self._secrets: Mapping[str, Message] = {}
        self._bundle: Bundle = {}

    def bundle(self, config: ProxyConfig, pair: Pair, roots: Roots) -> Bundle:
        """Return the same bundle again for the same configuration and certificate."""
        if pair is not self._pair:
            self._secrets = workload_secrets(pair, roots)
        elif config is self._config:
            return self._bundle
        self._config, self._pair = config, pair
        secrets = {**config.resources.get(TypeUrl.SECRET, {}), **self._secrets}
        self._bundle = self._encoder.encode({**config.resources, TypeUrl.SECRET: secrets})
        return self._bundle
