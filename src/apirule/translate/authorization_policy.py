"""Exposure to AuthorizationPolicies: who may send which request to a workload.

Istio lets a request in when any ALLOW policy does. So each policy names the host, the methods and
the path of its route, and leaves out the paths of earlier routes and the hosts of other rules.
External authorizers are asked first (action CUSTOM), each by a policy of its own; an ALLOW policy
follows, for their consent is not enough.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import structs

from apirule import names, ownership
from apirule.apis import security
from apirule.apis.security import AuthorizationPolicy, AuthorizationPolicySpec, AuthorizationRule
from apirule.translate.exposure import (
    Access,
    Exposure,
    ExtAuth,
    Grant,
    JwtAuth,
    Route,
    tokens_of,
)
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
    specs = (*_asking(route.access, operation), *_allowing(route.access, operation))
    for index, spec in enumerate(specs):
        yield AuthorizationPolicy(
            metadata=ownership.metadata(
                exposure.owner,
                namespace,
                "AuthorizationPolicy",
                hash_,
                str(index),
                # Another name than an ALLOW policy in its place had: `plan` says why.
                *(["CUSTOM"] if spec.action == "CUSTOM" else []),
                labels={ownership.HASH: hash_, ownership.INDEX: str(index)},
            ),
            spec=structs.replace(
                spec, selector=security.WorkloadSelector(match_labels=dict(selector))
            ),
        )


def _asking(access: Access, operation: security.Operation) -> Iterator[AuthorizationPolicySpec]:
    for authorizer in access.authorizers if isinstance(access, ExtAuth) else ():
        yield AuthorizationPolicySpec(
            action="CUSTOM",
            provider=security.ExtensionProvider(name=authorizer),
            rules=(AuthorizationRule(to=(security.To(operation=operation),)),),
        )


def _allowing(access: Access, operation: security.Operation) -> Iterator[AuthorizationPolicySpec]:
    tokens = tokens_of(access)
    for grant in tokens.grants if tokens else (Grant(),):
        yield AuthorizationPolicySpec(
            rules=tuple(
                AuthorizationRule(
                    from_=(security.From(source=_source(tokens)),),
                    to=(security.To(operation=operation),),
                    when=conditions,
                )
                for conditions in _conditions(grant)
            )
        )


def _source(tokens: JwtAuth | None) -> security.Source:
    return security.Source(
        principals=(names.INGRESS_PRINCIPAL,),
        request_principals=tuple(f"{issuer.name}/*" for issuer in tokens.issuers) if tokens else (),
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
