"""Policies for tests: a workload ``shop/web``, and manifests that select it."""

from __future__ import annotations

from typing import Any

from apirule.apis import scheme
from apirule.apis.meta import GroupVersionKind, Resource
from apirule.apis.security import AuthorizationPolicy
from apirule.mesh.proxy import InboundPort, Proxy, Role
from apirule.names import ObjectName

WEB = Proxy(
    ObjectName("shop", "web"),
    Role.SIDECAR,
    "default",
    {"app": "web"},
    inbound=(InboundPort(80, "127.0.0.1:5000", 6000), InboundPort(81, "127.0.0.1:5001", 6001)),
)


def resource(
    kind: str, name: str, spec: dict[str, Any], *, namespace: str = "shop", **metadata: Any
) -> Resource:
    obj = {
        "apiVersion": "security.istio.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": spec,
    }
    type_ = scheme.type_of(GroupVersionKind.of(obj))
    assert type_ is not None
    return scheme.decode(obj, type_)


def authorization(spec: dict[str, Any], name: str = "ap", **metadata: Any) -> AuthorizationPolicy:
    policy = resource("AuthorizationPolicy", name, spec, **metadata)
    assert isinstance(policy, AuthorizationPolicy)
    return policy
