"""Names: of objects, of hosts inside the cluster, and the ones we derive.

Derived names are a function of what they name, so a retried create can never make a second object.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import NamedTuple

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""RFC 1123 label. Use ``fullmatch``: ``$`` would accept a trailing newline."""

DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

CLUSTER_DOMAIN = "cluster.local"
TRUST_DOMAIN = "cluster.local"
INGRESS_PRINCIPAL = f"{TRUST_DOMAIN}/ns/istio-system/sa/istio-ingressgateway-service-account"
"""The SPIFFE identity of the ingress gateway, without the scheme."""


class ObjectName(NamedTuple):
    """Namespace and name. A cluster-scoped object has the namespace ``""``."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @classmethod
    def parse(cls, text: str, *, default_namespace: str = "") -> ObjectName:
        namespace, slash, name = text.partition("/")
        return cls(namespace, name) if slash else cls(default_namespace, namespace)


def service_host(service: ObjectName) -> str:
    """Return the DNS name under which the mesh knows a Service."""
    return f"{service.name}.{service.namespace}.svc.{CLUSTER_DOMAIN}"


def spiffe_id(namespace: str, service_account: str, trust_domain: str = TRUST_DOMAIN) -> str:
    return f"spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"


def digest(*parts: str) -> str:
    """Return 10 hex digits that depend on the parts and on where one ends and the next begins."""
    return sha256("\0".join(parts).encode()).hexdigest()[:10]
