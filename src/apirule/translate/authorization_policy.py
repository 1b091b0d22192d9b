"""Exposure to AuthorizationPolicies: who may send which request to a workload.

Istio lets a request in when any ALLOW policy does. So each policy names the host, the methods and
the path of its route, and leaves out the paths of earlier routes and the hosts of other rules.
"""

from __future__ import annotations

from collections.abc import Iterator

from apirule import names, ownership
from apirule.apis import security
from apirule.apis.security import AuthorizationPolicy, AuthorizationPolicySpec, AuthorizationRule
from apirule.translate.exposure import Access, Exposure, Grant, JwtAuth, NoAuth, Route
from apirule.translate.hashing import policy_hash

SCOPE_CLAIMS = ("scp", "scope", "scopes")
"""Where issuers put scopes. All that a grant asks for must stand in the same one."""


def emit(exposure: Exposure) -> tuple[AuthorizationPolicy, ...]:
    return tuple(policy for route in exposure.routes for policy in _policies(route, exposure))


def _policies(route: Route, exposure: Exposure) -> Iterator[AuthorizationPolicy]:
    namespace, selector = route.backend.service.namespace, route.backend.selector
    operation = security.Operation(
        hosts=(exposure.host,),
        not_hosts=route.not_hosts,
        methods=route.methods,
        paths=(route.path.policy_text,),
        not_paths=route.not_paths,
    )
    hash_ = policy_hash(namespace, selector, operation)
    for index, grant in enumerate(_grants(route.access)):
        yield AuthorizationPolicy(
            metadata=ownership.metadata(
                exposure.owner,
                namespace,
                "AuthorizationPolicy",
                hash_,
                str(index),
                labels={ownership.HASH: hash_, ownership.INDEX: str(index)},
            ),
            spec=AuthorizationPolicySpec(
                selector=security.WorkloadSelector(match_labels=dict(selector)),
                rules=tuple(
                    AuthorizationRule(
                        from_=(security.From(source=_source(route.access)),),
                        to=(security.To(operation=operation),),
                        when=conditions,
                    )
                    for conditions in _conditions(grant)
                ),
            ),
        )


def _grants(access: Access) -> tuple[Grant, ...]:
    match access:
        case NoAuth():
            return (Grant(),)
        case JwtAuth(grants=grants):
            return grants


def _source(access: Access) -> security.Source:
    match access:
        case NoAuth():
            return security.Source(principals=(names.INGRESS_PRINCIPAL,))
        case JwtAuth(issuers=issuers):
            return security.Source(
                principals=(names.INGRESS_PRINCIPAL,),
                request_principals=tuple(f"{issuer.name}/*" for issuer in issuers),
            )


def _conditions(grant: Grant) -> Iterator[tuple[security.When, ...]]:
    """Yield the conditions of each rule: one for each claim that may hold the scopes."""
    audiences = tuple(_claim("aud", audience) for audience in grant.audiences)
    if not grant.scopes:
        yield audiences
        return
    for claim in SCOPE_CLAIMS:
        yield tuple(_claim(claim, scope) for scope in grant.scopes) + audiences


def _claim(name: str, value: str) -> security.When:
    return security.When(key=f"request.auth.claims[{name}]", values=(value,))
