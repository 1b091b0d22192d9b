"""Exposure to RequestAuthentications: which tokens a workload believes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from apirule import ownership
from apirule.apis import security
from apirule.apis.security import RequestAuthentication, RequestAuthenticationSpec
from apirule.translate.exposure import Exposure, Issuer, tokens_of

SPACE_DELIMITED_CLAIMS = ("scp", "scopes")
"""Istio splits ``scope`` by itself; these two come as one string from some issuers, too."""


def emit(exposure: Exposure) -> tuple[RequestAuthentication, ...]:
    """Make one per workload and list of issuers: routes that agree on both share it."""
    found: dict[str, RequestAuthentication] = {}
    for route in exposure.routes:
        tokens = tokens_of(route.access)
        if tokens is None:
            continue
        namespace, selector = route.backend.service.namespace, route.backend.selector
        issuers = tokens.issuers
        identity = key(selector, ((i.name, i.jwks_uri) for i in issuers), namespace)
        found[identity] = RequestAuthentication(
            metadata=ownership.metadata(
                exposure.owner, namespace, "RequestAuthentication", identity
            ),
            spec=RequestAuthenticationSpec(
                selector=security.WorkloadSelector(match_labels=dict(selector)),
                jwt_rules=tuple(_jwt_rule(i, exposure.space_delimited_claims) for i in issuers),
            ),
        )
    return tuple(found.values())


def key(selector: Mapping[str, str], issuers: Iterable[tuple[str, str]], namespace: str) -> str:
    """Return what two RequestAuthentications of one owner differ in."""
    labels = ",".join(f"{name}={value}" for name, value in sorted(selector.items()))
    rules = "".join(f"{issuer}:{jwks_uri}\n" for issuer, jwks_uri in issuers)
    return f"{labels}\n{rules}{namespace}"


def _jwt_rule(issuer: Issuer, space_delimited_claims: bool) -> security.JWTRule:
    return security.JWTRule(
        issuer=issuer.name,
        jwks_uri=issuer.jwks_uri,
        from_headers=tuple(
            security.JWTHeader(name=name, prefix=prefix) for name, prefix in issuer.headers
        ),
        from_params=issuer.params,
        forward_original_token=True,
        space_delimited_claims=SPACE_DELIMITED_CLAIMS if space_delimited_claims else (),
    )
