"""The security filters of an inbound HTTP connection manager.

The filters are always there, by reference; what they enforce is an ECDS resource. So a change of
policy holds for the next request of an open connection, and no listener is touched. A filter whose
resource has not come, or was taken away, answers 500: there is no default to fall back to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import partial
from typing import NamedTuple

from envoy.config.core.v3.config_source_pb2 import ExtensionConfigSource
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.jwt_authn.v3.config_pb2 import JwtAuthentication
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC as RBACFilter  # noqa: N811 - a name
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm,
)
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from apirule.apis.meta import ObjectRef
from apirule.apis.security import AuthorizationPolicy
from apirule.mesh import challenge, entrance, external, jwt_authn, rbac
from apirule.mesh.config import MeshSettings
from apirule.mesh.destinations import Upstream
from apirule.mesh.entrance import Entrance
from apirule.mesh.memo import Memo
from apirule.mesh.packing import ads, pack
from apirule.mesh.policies import Policies, policies_for
from apirule.mesh.proxy import Proxy, Role
from apirule.mesh.snapshot import Snapshot
from apirule.problem import Problem


class Guard(StrEnum):
    """In the order in which a request meets them."""

    # As in Istio, external authorizers are asked before any token is looked at.
    EXTERNAL_0 = "external-0"
    EXTERNAL_1 = "external-1"
    EXTERNAL_2 = "external-2"
    EXTERNAL_3 = "external-3"
    JWT = "jwt"  # leaves the claims where all that follow look for them
    CHALLENGE = "challenge"  # marks the request before anything refuses it
    AUDIT = "audit"
    DENY = "deny"
    ALLOW = "allow"


_EXTERNAL = (Guard.EXTERNAL_0, Guard.EXTERNAL_1, Guard.EXTERNAL_2, Guard.EXTERNAL_3)
_TYPES: Mapping[Guard, tuple[type[Message], ...]] = {
    **dict.fromkeys(Guard, (RBACFilter,)),
    **dict.fromkeys(_EXTERNAL, external.TYPES),
    Guard.JWT: (JwtAuthentication,),
}


_RBAC_GUARDS = (Guard.CHALLENGE, Guard.AUDIT, Guard.DENY, Guard.ALLOW)


def name_of(proxy: Proxy, port: int, guard: Guard) -> str:
    """Return the name of an ECDS resource. A policy may name ports, so they have their own."""
    return f"{proxy.node_id}/{port}/{guard}"


def http_filters(proxy: Proxy, port: int) -> list[hcm.HttpFilter]:
    """Return the filters of one HTTP connection manager, in their order.

    ``port`` is the port policies speak of: the workload's behind a sidecar, the container's at a
    gateway. The names of the filters in an access log are those of the resources.
    """
    return [
        hcm.HttpFilter(
            name=name_of(proxy, port, guard),
            config_discovery=ExtensionConfigSource(
                config_source=ads(),
                type_urls=[
                    f"type.googleapis.com/{type_.DESCRIPTOR.full_name}" for type_ in _TYPES[guard]
                ],
            ),
        )
        for guard in Guard
    ]


def ports(proxy: Proxy) -> tuple[int, ...]:
    """Return the ports of a proxy that have security filters."""
    if proxy.role is Role.GATEWAY:
        return tuple(proxy.listen)
    return tuple(port.port for port in proxy.inbound)


def extensions(
    snapshot: Snapshot, proxy: Proxy, memo: Memo | None = None
) -> Mapping[str, TypedExtensionConfig]:
    """Build every ECDS resource of a proxy, by name."""
    memo = memo or Memo()
    policies = policies_for(snapshot, proxy, memo)
    jwt = pack(jwt_authn.build(policies.authentications, snapshot.key_sets, memo))
    built: dict[str, TypedExtensionConfig] = {}
    filters: Mapping[Guard, AnyMessage] = {}
    for port in ports(proxy):
        # Rules are many and ports are few: mostly all ports share what is built for the first.
        if not filters or _names_ports(policies):
            context = _Context(snapshot.settings, port, memo, entrance.entrance(snapshot, proxy))
            asking = external.build(snapshot, policies.custom, policies.slots, port, memo)
            filters = {
                **{guard: pack(slot) for guard, slot in zip(_EXTERNAL, asking, strict=True)},
                Guard.JWT: jwt,
                **{guard: pack(_rbac_filter(guard, policies, context)) for guard in _RBAC_GUARDS},
            }
        for guard, config in filters.items():
            name = name_of(proxy, port, guard)
            built[name] = TypedExtensionConfig(name=name, typed_config=config)
    return built


def _names_ports(policies: Policies) -> bool:
    authorizations = (
        *policies.allow,
        *policies.deny,
        *policies.audit,
        *policies.dry_run,
        *policies.custom,
    )
    rules = [rule for policy in authorizations for rule in policy.spec.rules]
    return any(
        to.operation.ports or to.operation.not_ports for rule in rules for to in rule.to
    ) or any(when.key == "destination.port" for rule in rules for when in rule.when)


def sources(
    snapshot: Snapshot, proxy: Proxy, memo: Memo | None = None
) -> Mapping[str, frozenset[ObjectRef]]:
    """Return the policies each ECDS resource was made of, so that a refusal finds them."""
    policies = policies_for(snapshot, proxy, memo)
    tried = policies.dry_run
    # What a proxy does not take may be the fault of the authorizer, not of who names it.
    config = snapshot.mesh_config
    asking = _refs(policies.custom)
    if policies.custom and config is not None:
        asking |= {config.ref}
    allowing = _refs(policies.allow)
    of_guard: Mapping[Guard, frozenset[ObjectRef]] = {
        **dict.fromkeys(_EXTERNAL, asking),
        Guard.JWT: frozenset(policy.ref for policy in policies.authentications),
        Guard.CHALLENGE: allowing,
        Guard.AUDIT: _refs(policies.audit),
        Guard.DENY: _refs((*policies.deny, *_with_action(tried, "DENY"))).union(policies.closed),
        Guard.ALLOW: allowing | _refs(_with_action(tried, "ALLOW")),
    }
    return {
        name_of(proxy, port, guard): of_guard[guard] for port in ports(proxy) for guard in Guard
    }


def upstreams(snapshot: Snapshot, proxy: Proxy, memo: Memo | None = None) -> list[Upstream]:
    """Return what a proxy calls before it lets a request in: its external authorizers."""
    policies = policies_for(snapshot, proxy, memo)
    asked = external.authorizers_of(snapshot, policies.custom, policies.slots)
    return [one.upstream for one in asked]


def problems(
    snapshot: Snapshot, proxy: Proxy, memo: Memo | None = None
) -> Mapping[ObjectRef, tuple[Problem, ...]]:
    """Return what is wrong with the policies that select a proxy. An error closes it."""
    return policies_for(snapshot, proxy, memo).problems


class _Context(NamedTuple):
    """What the rules of a policy are built with."""

    settings: MeshSettings
    port: int
    memo: Memo
    entrance: Entrance | None


def _rbac_filter(guard: Guard, policies: Policies, context: _Context) -> RBACFilter:
    match guard:
        case Guard.CHALLENGE:
            return RBACFilter(
                shadow_rules=challenge.marker(
                    policies.allow, context.settings, context.port, context.memo
                ),
                shadow_rules_stat_prefix=challenge.SHADOW_PREFIX,
            )
        case Guard.AUDIT:
            return RBACFilter(rules=_rules("AUDIT", policies.audit, context))
        case Guard.DENY:
            return RBACFilter(
                rules=_closed(policies.closed)
                if policies.closed
                else _rules("DENY", policies.deny, context),
                shadow_rules=_tried("DENY", policies, context),
                shadow_rules_stat_prefix="istio_dry_run_deny_",
            )
        case Guard.ALLOW:
            # One filter for both, so that there is no moment without either.
            door = entrance.rules(context.entrance) if context.entrance else None
            return RBACFilter(
                rules=_rules("ALLOW", policies.allow, context) or door,
                shadow_rules=_tried("ALLOW", policies, context),
                shadow_rules_stat_prefix="istio_dry_run_allow_",
            )
        case _:
            raise ValueError(f"{guard} is not an RBAC filter")


def _closed(refs: Iterable[ObjectRef]) -> rbac_pb2.RBAC:
    """Refuse everything, and let the access log say because of which object."""
    reasons = {
        f"ns[{ref.namespace}]-policy[{ref.name}]-closed[{ref.kind}]": rbac.EVERYBODY for ref in refs
    }
    return rbac_pb2.RBAC(action=rbac_pb2.RBAC.DENY, policies=reasons)


def _tried(action: str, policies: Policies, context: _Context) -> rbac_pb2.RBAC | None:
    return _rules(action, _with_action(policies.dry_run, action), context)


def _rules(
    action: str, policies: tuple[AuthorizationPolicy, ...], context: _Context
) -> rbac_pb2.RBAC | None:
    """Return the rules of one action; None when there is no policy, and all pass."""
    if not policies:
        return None
    settings, port, memo = context.settings, context.port, context.memo
    key = ("rules", settings, port)
    parts = [memo.of(policy, key, partial(_packed, policy, settings, port)) for policy in policies]
    return rbac.joined(rbac.ACTIONS[action], parts)


def _packed(policy: AuthorizationPolicy, settings: MeshSettings, port: int) -> bytes:
    rules = rbac.policies(policy, settings, port)
    # An ALLOW policy without rules lets nobody in; said by a rule, so that the filter is there.
    return rbac.packed(rules or {rbac.rule_name(policy, "none"): rbac.NOBODY})


def _with_action(
    policies: tuple[AuthorizationPolicy, ...], action: str
) -> tuple[AuthorizationPolicy, ...]:
    return tuple(policy for policy in policies if policy.spec.action == action)


def _refs(policies: Iterable[AuthorizationPolicy]) -> frozenset[ObjectRef]:
    return frozenset(policy.ref for policy in policies)
