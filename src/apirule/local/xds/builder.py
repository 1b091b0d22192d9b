"""From a snapshot to what one proxy is sent: built, with the secrets of its identity, encoded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import NamedTuple

import structlog
from google.protobuf.message import Message

from apirule.local.ca import CertificateAuthority, Pair
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


class _Made(NamedTuple):
    config: ProxyConfig
    secrets: Mapping[str, Message]
    bundle: Bundle


class Builder:
    """Remembers what it made, so that only what changed is made again."""

    def __init__(self, authority: CertificateAuthority, build: Build) -> None:
        self._authority = authority
        self._build = build
        self._memo = Memo()
        self._encoders: defaultdict[str, Encoder] = defaultdict(Encoder)
        self._secrets: dict[str, tuple[Pair, Mapping[str, Message]]] = {}
        self._bundles: dict[str, _Made] = {}

    def config(self, snapshot: Snapshot, proxy: Proxy) -> ProxyConfig:
        """Build what a proxy is told, without the secrets of its own identity."""
        try:
            return self._build(snapshot, proxy, self._memo)
        except Exception as error:
            log.debug("configuration not built", node=proxy.node_id, exc_info=True)
            raise NotBuilt(f"{type(error).__name__}: {error}") from error

    def bundle(self, proxy: Proxy, config: ProxyConfig) -> Bundle:
        """Encode it, with the secrets. The same configuration gives the same bundle again."""
        node, secrets = proxy.node_id, self._secrets_of(proxy)
        made = self._bundles.get(node)
        if made is None or made.config is not config or made.secrets is not secrets:
            resources = dict(config.resources)
            resources[TypeUrl.SECRET] = {**resources.get(TypeUrl.SECRET, {}), **secrets}
            made = _Made(config, secrets, self._encoders[node].encode(resources))
            self._bundles[node] = made
        return made.bundle

    def forget(self, proxy: Proxy) -> None:
        for kept in (self._encoders, self._secrets, self._bundles):
            kept.pop(proxy.node_id, None)

    def _secrets_of(self, proxy: Proxy) -> Mapping[str, Message]:
        pair = self._authority.workload_pair(proxy.spiffe_id)
        known = self._secrets.get(proxy.node_id)
        if known is None or known[0] is not pair:
            known = (pair, workload_secrets(pair, self._authority.roots))
            self._secrets[proxy.node_id] = known
        return known[1]
