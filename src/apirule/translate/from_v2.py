"""APIRule v2 to Exposure: resolve references, fill in defaults.

The rule is valid: ``validate`` has said nothing worse than a warning about it.
"""

from __future__ import annotations

from collections.abc import Mapping

from apirule.apis import networking
from apirule.apis.gateway import v2
from apirule.facts import Facts, full_host
from apirule.names import ObjectName
from apirule.paths import Template
from apirule.translate.exposure import (
    Access,
    Backend,
    Cors,
    Exposure,
    ExtAuth,
    Grant,
    Issuer,
    JwtAuth,
    NoAuth,
    OriginMatch,
    Route,
)
from apirule.translate.not_paths import Matched, all_not_paths
from apirule.validate.neighbours import narrower_hosts

DEFAULT_TIMEOUT_S = 180
DEFAULT_TOKEN_HEADERS = (("Authorization", "Bearer "),)
"""Written out, for Envoy would otherwise also take a token from the query."""


def lower(rule: v2.APIRule, facts: Facts) -> Exposure:
    spec = rule.spec
    gateway = _gateway(rule, facts)
    host = full_host(spec.hosts[0], gateway)
    not_hosts = narrower_hosts(host, facts, rule.object_name)
    matched = [Matched(Template.parse(one.path), frozenset(one.methods)) for one in spec.rules]
    not_paths = all_not_paths(matched)
    return Exposure(
        owner=rule.object_name,
        host=host,
        gateway=gateway.object_name,
        cors=_cors(spec.cors_policy),
        routes=tuple(
            Route(
                path=matched[index].path,
                methods=tuple(dict.fromkeys(one.methods)),
                not_paths=not_paths[index],
                access=_access(one),
                backend=_backend(rule, one, facts),
                timeout_s=one.timeout or spec.timeout or DEFAULT_TIMEOUT_S,
                request_headers=_request_headers(one.request),
                not_hosts=not_hosts,
            )
            for index, one in enumerate(spec.rules)
        ),
        space_delimited_claims=facts.space_delimited_claims,
    )


def _gateway(rule: v2.APIRule, facts: Facts) -> networking.Gateway:
    found = facts.find_gateway(ObjectName.parse(rule.spec.gateway or ""))
    if found is None:
        raise ValueError(f"{rule.object_name} names a Gateway that does not exist")
    return found.gateway


def _access(rule: v2.Rule) -> Access:
    if rule.jwt is not None:
        return _jwt_auth(rule.jwt)
    if rule.ext_auth is not None:
        restrictions = rule.ext_auth.restrictions
        return ExtAuth(
            authorizers=rule.ext_auth.authorizers,
            restrictions=None if restrictions is None else _jwt_auth(restrictions),
        )
    if not rule.no_auth:
        raise ValueError(f"nothing says who may use {rule.path}")
    return NoAuth()


def _jwt_auth(config: v2.Jwt) -> JwtAuth:
    return JwtAuth(
        issuers=tuple(_issuer(one) for one in config.authentications),
        grants=tuple(
            Grant(scopes=one.required_scopes or (), audiences=one.audiences or ())
            for one in config.authorizations or ()
            if one is not None
        )
        or (Grant(),),
    )


def _issuer(authentication: v2.Authentication) -> Issuer:
    headers = tuple((one.name, one.prefix) for one in authentication.from_headers)
    params = authentication.from_params + authentication.from_parameters
    if not headers and not params:
        headers = DEFAULT_TOKEN_HEADERS
    return Issuer(authentication.issuer, authentication.jwks_uri, headers, params)


def _backend(rule: v2.APIRule, one: v2.Rule, facts: Facts) -> Backend:
    name = rule.service_of(one)
    if name is None:
        raise ValueError(f"{rule.object_name} has a rule without a Service")
    return Backend(name, rule.port_of(one), facts.services[name].spec.selector or {})


def _request_headers(request: v2.RequestModifier | None) -> Mapping[str, str]:
    if request is None:
        return {}
    headers = dict(request.headers or {})
    if request.cookies:
        headers = {k: v for k, v in headers.items() if k.lower() != "cookie"}
        headers["Cookie"] = "; ".join(f"{k}={v}" for k, v in sorted(request.cookies.items()))
    return headers


def _cors(policy: v2.CorsPolicy | None) -> Cors:
    if policy is None:
        return Cors()
    return Cors(
        origins=tuple(
            OriginMatch(kind, value)
            for entry in policy.allow_origins
            for kind, value in sorted(entry.items())
        ),
        methods=policy.allow_methods,
        headers=policy.allow_headers,
        expose_headers=policy.expose_headers,
        credentials=policy.allow_credentials,
        max_age_s=policy.max_age,
    )
