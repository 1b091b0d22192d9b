"""What an object says in vain: it is valid, and does nothing or something else than it seems."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from apirule import keysets
from apirule.apis import networking
from apirule.apis.meta import Resource
from apirule.apis.security import (
    DRY_RUN,
    AuthorizationPolicy,
    PeerAuthentication,
    RequestAuthentication,
)
from apirule.apis.traffic import DestinationRule, TrafficSettings
from apirule.mesh.proxy import MAX_PORT
from apirule.mesh.route_match import PSEUDO_HEADERS
from apirule.problem import SPEC, FieldPath, Problem, Reason, Severity

_OPERATOR = re.compile(r"%(?!REQ\(:AUTHORITY\)%)[A-Z_]+(\([^%]*\))?(:[0-9]+)?%")
_HEADER_KEY = re.compile(r"request\.headers\[([^\]]*)\]")


def advice(resource: Resource) -> Iterable[Problem]:
    match resource:
        case networking.VirtualService():
            return _of_rule(resource)
        case RequestAuthentication():
            return _of_authentication(resource)
        case AuthorizationPolicy():
            return _of_authorization(resource)
        case PeerAuthentication():
            return _of_modes(resource)
        case DestinationRule():
            return _of_destination(resource)
        case _:
            return ()


def _of_rule(rule: networking.VirtualService) -> Iterator[Problem]:
    for index, http in enumerate(rule.spec.http):
        at = SPEC / "http" / index
        for position, match in enumerate(http.match):
            yield from _of_match(match, at / "match" / position)
        if http.redirect is not None or http.direct_response is not None:
            for name, value in (("timeout", http.timeout), ("retries", http.retries)):
                if value is not None:
                    why = "Nothing is waited for: the proxy answers by itself."
                    yield _vain(at / name, why, f"Remove {name}.")
        if http.cors_policy is not None and not http.cors_policy.allow_origins:
            why = "Without allowOrigins it does nothing: no origin is allowed."
            yield _vain(at / "corsPolicy", why, "Name the origins, or remove corsPolicy.")
        yield from _of_headers(http.headers, at / "headers")
        for position, destination in enumerate(http.route):
            yield from _of_headers(destination.headers, at / "route" / position / "headers")


def _of_match(match: networking.HTTPMatchRequest, at: FieldPath) -> Iterator[Problem]:
    for field, group in (("headers", match.headers), ("withoutHeaders", match.without_headers)):
        for name in group or {}:
            if name.lower() in PSEUDO_HEADERS:
                why = f"A header called {name} is not looked at."
                yield _vain(at / field / name, why, f"Write the field {name.lower()} of the match.")
            yield from _underscore(name, at / field / name)
    if match.ignore_uri_case and match.uri is not None and match.uri.regex is not None:
        why = "A regular expression does not heed it."
        yield _vain(at / "ignoreUriCase", why, "Begin the expression with (?i).")


def _of_headers(headers: networking.Headers | None, at: FieldPath) -> Iterator[Problem]:
    sides: Mapping[str, networking.HeaderOperations | None] = (
        {"request": headers.request, "response": headers.response} if headers else {}
    )
    for side, operations in sides.items():
        if operations is None:
            continue
        for verb, values in (("set", operations.set), ("add", operations.add)):
            for name, value in (values or {}).items():
                found = _OPERATOR.search(value)
                if found is not None:
                    why = f"{found[0]} is sent as it stands: Envoy's operators are text here."
                    yield _vain(at / side / verb / name, why, "Write the value out.")


def _of_authentication(policy: RequestAuthentication) -> Iterator[Problem]:
    for index, rule in enumerate(policy.spec.jwt_rules):
        at = SPEC / "jwtRules" / index
        for position, header in enumerate(rule.from_headers):
            yield from _underscore(header.name, at / "fromHeaders" / position / "name")
        if not rule.jwks:
            continue
        cleaned = keysets.clean(rule.jwks)
        if cleaned.document and cleaned.problems:
            told = " ".join(problem.message for problem in cleaned.problems[: keysets.FEW])
            yield _vain(at / "jwks", f"Some keys are not used. {told}", "Remove them.")


def _of_authorization(policy: AuthorizationPolicy) -> Iterator[Problem]:
    tried = policy.annotations.get(DRY_RUN)
    if tried is not None and tried.lower() not in ("true", "false"):
        place = FieldPath("metadata", "annotations", DRY_RUN)
        why = f'"{tried}" is neither true nor false, so the policy is enforced.'
        yield _vain(place, why, "Write true to try it only.")
    for index, rule in enumerate(policy.spec.rules):
        for position, when in enumerate(rule.when):
            named = _HEADER_KEY.fullmatch(when.key)
            if named is not None:
                at = SPEC / "rules" / index / "when" / position / "key"
                yield from _underscore(named[1], at)


def _of_modes(policy: PeerAuthentication) -> Iterator[Problem]:
    for port in policy.spec.port_level_mtls or {}:
        if port.isdecimal() and not 0 < int(port) <= MAX_PORT:
            why = f"{port} is not a port, so it holds for none."
            yield _vain(SPEC / "portLevelMtls" / port, why, "Name a port of the workload.")


def _of_destination(rule: DestinationRule) -> Iterator[Problem]:
    policies = [(SPEC / "trafficPolicy", rule.spec.traffic_policy)]
    policies += [
        (SPEC / "subsets" / index / "trafficPolicy", part.traffic_policy)
        for index, part in enumerate(rule.spec.subsets)
    ]
    for at, policy in policies:
        if policy is None:
            continue
        yield from _of_settings(policy, at)
        for index, own in enumerate(policy.port_level_settings):
            yield from _of_settings(own, at / "portLevelSettings" / index)


def _of_settings(settings: TrafficSettings, at: FieldPath) -> Iterator[Problem]:
    tls = settings.tls
    if tls is None or tls.mode != "DISABLE":
        return
    for name, value in (("sni", tls.sni), ("subjectAltNames", tls.subject_alt_names)):
        if value:
            why = "With the mode DISABLE nobody is asked who they are."
            yield _vain(at / "tls" / name, why, f"Remove {name}, or set another mode.")


def _underscore(name: str, at: FieldPath) -> Iterator[Problem]:
    if "_" in name:
        why = f"A gateway drops headers with an underscore, {name} among them."
        yield _vain(at, why, "Use a name without underscores.")


def _vain(at: FieldPath, why: str, fix: str) -> Problem:
    return Problem(at, Reason.MISLEADING, why, fix, Severity.WARNING)
