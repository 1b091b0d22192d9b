"""RequestAuthentication to the JWT filter.

A token that is presented must be valid for one of the providers; a request without one passes on,
and the RBAC filter decides. Rules that say the same are one provider: APIRules write one
RequestAuthentication per JWT rule, and every further provider costs each request time.

A provider is named after its issuer and a digest of its rule, not by its number: another rule or
other keys then leave the names of the rest as they are, and a refusal by Envoy names the issuer.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import msgspec
from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.route.v3.route_components_pb2 import RouteMatch
from envoy.extensions.filters.http.jwt_authn.v3.config_pb2 import (
    JwtAuthentication,
    JwtCacheConfig,
    JwtClaimToHeader,
    JwtHeader,
    JwtProvider,
    JwtRequirement,
    JwtRequirementAndList,
    JwtRequirementOrList,
    RequirementRule,
)
from google.protobuf.empty_pb2 import Empty

from apirule import keysets, names
from apirule.apis.security import JWTHeader, JWTRule, RequestAuthentication
from apirule.keysets import KeySet
from apirule.mesh import matchers
from apirule.mesh.memo import Memo
from apirule.problem import SPEC, FieldPath, Problem, Reason, Severity

KeySets = Mapping[tuple[str, str], KeySet]

SPLIT_CLAIMS = frozenset({"permission", "scope", "scopes", "scp"})
"""Claims that may be one string of words (RFC 8693, 4.2). Istio splits the first two only."""

CACHED_TOKENS = 500
"""Verified tokens a provider remembers; expiry is still checked, new keys empty the cache."""

AUTHORIZATION = JWTHeader(name="Authorization", prefix="Bearer ")
"""Where a token is looked for by default. Envoy left alone would also read ``?access_token=``,
which leaks into logs (RFC 6750, 5.3)."""

_SCHEMES = ("Bearer ", "bearer ", "BEARER ")
"""The scheme is case-insensitive (RFC 9110, 11.1), Envoy's prefix is not: the usual spellings."""

_PARAMETER = re.compile(r"[^\x00-\x20\x7f&=#]+")


class _Provider(msgspec.Struct, frozen=True):
    """What makes two rules the same provider. The keys are not part of it: they change."""

    issuer: str
    jwks_uri: str
    jwks: str
    audiences: tuple[str, ...]
    headers: tuple[tuple[str, str], ...]
    params: tuple[str, ...]
    cookies: tuple[str, ...]
    forward: bool
    payload_header: str
    claim_headers: tuple[tuple[str, str], ...]
    split_claims: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.issuer}#{names.digest(repr(self))}"


def problems(policy: RequestAuthentication) -> list[Problem]:
    """Return everything in a policy that cannot be enforced as it is written."""
    return [
        problem
        for index, rule in enumerate(policy.spec.jwt_rules)
        for problem in _rule_problems(rule, SPEC / "jwtRules" / index)
    ]


def notices(
    policies: Sequence[RequestAuthentication], key_sets: KeySets
) -> Iterator[tuple[RequestAuthentication, Problem]]:
    """Yield what does not stop the policies of one workload, but what their owners should know."""
    sources = _sources(policies)
    for policy in policies:
        for index, rule in enumerate(policy.spec.jwt_rules):
            place = SPEC / "jwtRules" / index
            key_set = key_sets.get((rule.issuer, rule.jwks_uri))
            if not rule.jwks and not (key_set and key_set.document):
                yield policy, _no_keys(rule, key_set, place)
            if len(sources[rule.issuer]) > 1:
                yield policy, _disputed(rule, sources[rule.issuer], place)


def _sources(
    policies: Iterable[RequestAuthentication],
) -> Mapping[str, Mapping[tuple[str, str], RequestAuthentication]]:
    """Return where the keys of each issuer come from, each with the first policy that says so."""
    found: defaultdict[str, dict[tuple[str, str], RequestAuthentication]] = defaultdict(dict)
    for policy in policies:
        for rule in policy.spec.jwt_rules:
            found[rule.issuer].setdefault((rule.jwks, rule.jwks_uri), policy)
    return found


def build(
    policies: Sequence[RequestAuthentication], key_sets: KeySets, memo: Memo | None = None
) -> JwtAuthentication:
    """Build the filter. Policies without problems only; none gives a filter that passes all.

    Of an issuer whose keys come from several places no token is believed: policies tell tokens
    apart by their issuer alone, so each place would open what was meant for the others. Whoever
    adds a policy could let in whom they like.
    """
    memo = memo or Memo()
    disputed = {issuer for issuer, places in _sources(policies).items() if len(places) > 1}
    found = [memo.of(policy, "providers", partial(_providers, policy)) for policy in policies]
    providers = sorted(frozenset().union(*found), key=lambda provider: provider.name)
    if not providers:
        return JwtAuthentication()
    return JwtAuthentication(
        providers={
            provider.name: _emit(
                provider,
                keysets.PLACEHOLDER if provider.issuer in disputed else _keys(provider, key_sets),
            )
            for provider in providers
        },
        rules=[
            RequirementRule(
                match=RouteMatch(prefix="/"),
                requires=_requirement([provider.name for provider in providers]),
            )
        ],
        bypass_cors_preflight=True,
    )


def _requirement(providers: Sequence[str]) -> JwtRequirement:
    """Require a valid token or none at all.

    One provider: it, or no token. Several: one that accepts the token; or else all of them find
    either no token or a valid one, as they may look in different places.
    """
    required = [JwtRequirement(provider_name=name) for name in providers]
    missing = JwtRequirement(allow_missing=Empty())
    if len(required) == 1:
        return _any([*required, missing])
    each = [_any([provider, missing]) for provider in required]
    all_of = JwtRequirement(requires_all=JwtRequirementAndList(requirements=each))
    return _any([*required, all_of])


def _any(requirements: Sequence[JwtRequirement]) -> JwtRequirement:
    return JwtRequirement(requires_any=JwtRequirementOrList(requirements=requirements))


def _providers(policy: RequestAuthentication) -> frozenset[_Provider]:
    return frozenset(_provider(rule) for rule in policy.spec.jwt_rules)


def _provider(rule: JWTRule) -> _Provider:
    places = rule.from_headers or rule.from_params or rule.from_cookies
    headers = rule.from_headers if places else (AUTHORIZATION,)
    return _Provider(
        issuer=rule.issuer,
        jwks_uri=rule.jwks_uri,
        jwks=rule.jwks,
        audiences=tuple(sorted(set(rule.audiences))),
        headers=tuple(
            dict.fromkeys(spelling for place in headers for spelling in _spellings(place))
        ),
        params=tuple(dict.fromkeys(rule.from_params)),
        cookies=tuple(dict.fromkeys(rule.from_cookies)),
        forward=rule.forward_original_token,
        payload_header=rule.output_payload_to_header,
        claim_headers=tuple((entry.header, entry.claim) for entry in rule.output_claim_to_headers),
        split_claims=tuple(sorted(SPLIT_CLAIMS.union(rule.space_delimited_claims))),
    )


def _keys(provider: _Provider, key_sets: KeySets) -> str:
    if provider.jwks:
        return keysets.clean(provider.jwks).document or keysets.PLACEHOLDER
    key_set = key_sets.get((provider.issuer, provider.jwks_uri))
    return (key_set.document if key_set else "") or keysets.PLACEHOLDER


def _spellings(place: JWTHeader) -> Iterator[tuple[str, str]]:
    name = place.name.lower()
    if name == "authorization" and place.prefix in _SCHEMES:
        yield from ((name, scheme) for scheme in _SCHEMES)
    else:
        yield name, place.prefix


def _emit(provider: _Provider, keys: str) -> JwtProvider:
    return JwtProvider(
        issuer=provider.issuer,
        audiences=provider.audiences,
        local_jwks=DataSource(inline_string=keys),
        forward=provider.forward,
        from_headers=[JwtHeader(name=n, value_prefix=prefix) for n, prefix in provider.headers],
        from_params=provider.params,
        from_cookies=provider.cookies,
        forward_payload_header=provider.payload_header,
        claim_to_headers=[
            JwtClaimToHeader(header_name=name, claim_name=claim)
            for name, claim in provider.claim_headers
        ],
        payload_in_metadata=matchers.PAYLOAD,
        normalize_payload_in_metadata=JwtProvider.NormalizePayload(
            space_delimited_claims=provider.split_claims
        ),
        jwt_cache_config=JwtCacheConfig(jwt_cache_size=CACHED_TOKENS),
    )


def _rule_problems(rule: JWTRule, place: FieldPath) -> Iterator[Problem]:
    checks: list[tuple[FieldPath, str, Callable[[str], object]]] = [
        (place / "issuer", rule.issuer, matchers.checked),
        *((place / "audiences" / i, a, matchers.checked) for i, a in enumerate(rule.audiences)),
        *(
            (place / "fromHeaders" / i / "name", header.name, matchers.header_name)
            for i, header in enumerate(rule.from_headers)
        ),
        *(
            (place / "fromHeaders" / i / "prefix", header.prefix, matchers.checked)
            for i, header in enumerate(rule.from_headers)
            if header.prefix
        ),
        *((place / "fromParams" / i, p, _parameter) for i, p in enumerate(rule.from_params)),
        *(
            (place / "fromCookies" / i, cookie, matchers.header_name)
            for i, cookie in enumerate(rule.from_cookies)
        ),
        *(
            (place / "spaceDelimitedClaims" / i, claim, matchers.checked)
            for i, claim in enumerate(rule.space_delimited_claims)
        ),
    ]
    if rule.output_payload_to_header:
        name = rule.output_payload_to_header
        checks.append((place / "outputPayloadToHeader", name, matchers.header_name))
    for index, entry in enumerate(rule.output_claim_to_headers):
        at = place / "outputClaimToHeaders" / index
        checks += [
            (at / "header", entry.header, matchers.header_name),
            (at / "claim", entry.claim, matchers.checked),
        ]
    for at, value, check in checks:
        try:
            check(value)
        except ValueError as error:
            yield _invalid(at, str(error))
    yield from _key_problems(rule, place)


def _key_problems(rule: JWTRule, place: FieldPath) -> Iterator[Problem]:
    if rule.jwks and rule.jwks_uri:
        yield _invalid(place / "jwks", "Both jwks and jwksUri are given.", "Give one of them.")
    if rule.jwks:
        cleaned = keysets.clean(rule.jwks)
        if not cleaned.document:
            yield _invalid(place / "jwks", cleaned.error)


def _parameter(value: str) -> None:
    if not _PARAMETER.fullmatch(value):
        raise ValueError(f"{value!r} is not the name of a query parameter.")


def _invalid(
    place: FieldPath, message: str, fix: str = "Correct the value; until then nothing passes."
) -> Problem:
    return Problem(field=place, reason=Reason.INVALID, message=message, fix=fix)


def _no_keys(rule: JWTRule, key_set: KeySet | None, place: FieldPath) -> Problem:
    why = key_set.error if key_set and key_set.error else "They have not been fetched yet."
    return Problem(
        field=place / "jwksUri",
        reason=Reason.KEYS_UNAVAILABLE,
        message=f"There are no keys of the issuer {rule.issuer}, so its tokens are refused. {why}",
        fix="Check that the jwksUri answers with a key set; it is asked again by itself.",
        # Before the first answer there is nothing to advise.
        severity=Severity.WARNING if key_set else Severity.NOTE,
    )


def _disputed(
    rule: JWTRule, sources: Mapping[tuple[str, str], RequestAuthentication], place: FieldPath
) -> Problem:
    names = dict.fromkeys(f"RequestAuthentication {one.object_name}" for one in sources.values())
    return Problem(
        field=place / ("jwks" if rule.jwks else "jwksUri"),
        reason=Reason.CONFLICT,
        message=f"The keys of the issuer {rule.issuer} come from {len(sources)} places on one "
        f"workload ({', '.join(names)}), so its tokens are refused there: each place could let in "
        "whom the others do not know.",
        fix="Use one jwksUri, or one jwks, for an issuer.",
    )
