"""Errors of a ``jwt`` section: whose tokens, where they stand, what they must say."""

from __future__ import annotations

import re
from collections.abc import Iterator

from apirule.apis.gateway import v2
from apirule.problem import SPEC, FieldPath, Problem, Reason
from apirule.validate import headers, uris

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PARAMETER = re.compile(r"[^\x00-\x20\x7f&=#]+")


def check(config: v2.Jwt, at: FieldPath) -> Iterator[Problem]:
    yield from _check_authorizations(config, at / "authorizations")
    yield from _check_authentications(config, at / "authentications")


def check_equality(rule: v2.APIRule) -> Iterator[Problem]:
    """Yield a problem where one issuer's tokens are looked for in different places."""
    first: dict[tuple[str, str], tuple[v2.Authentication, FieldPath]] = {}
    for at, one in authentications(rule):
        if "extAuth" in at.parts:
            continue  # the Kyma operator does not compare restrictions either
        reference, place = first.setdefault((one.issuer, one.jwks_uri), (one, at))
        if _places(one) != _places(reference):
            yield Problem(
                at,
                Reason.CONFLICT,
                "multiple jwt configurations that differ for the same issuer",
                f"Give it the same fromHeaders and fromParams as {place}: a workload looks for "
                "the tokens of an issuer in the same places on every path.",
            )


def authentications(rule: v2.APIRule) -> Iterator[tuple[FieldPath, v2.Authentication]]:
    """Yield each authentication of a rule, and where it stands."""
    for at, config in configs(rule):
        for j, authentication in enumerate(config.authentications):
            yield at / "authentications" / j, authentication


def configs(rule: v2.APIRule) -> Iterator[tuple[FieldPath, v2.Jwt]]:
    """Yield what each rule asks of tokens: its ``jwt``, or the restrictions of ``extAuth``."""
    for index, one in enumerate(rule.spec.rules):
        at = SPEC / "rules" / index
        if one.jwt is not None:
            yield at / "jwt", one.jwt
        if one.ext_auth is not None and one.ext_auth.restrictions is not None:
            yield at / "extAuth" / "restrictions", one.ext_auth.restrictions


def params(authentication: v2.Authentication) -> tuple[str, ...]:
    """Return the query parameters that may hold a token, under either spelling of the field."""
    return authentication.from_params + authentication.from_parameters


def _places(one: v2.Authentication) -> tuple[tuple[v2.FromHeader, ...], tuple[str, ...]]:
    return one.from_headers, params(one)


def _check_authorizations(config: v2.Jwt, at: FieldPath) -> Iterator[Problem]:
    if config.authorizations is None:
        return
    if not config.authorizations:
        yield Problem(
            at,
            Reason.INVALID,
            "authorizations defined, but no configuration exists",
            "Leave authorizations out to accept every valid token, or add an entry.",
        )
    for j, one in enumerate(config.authorizations):
        if one is None:
            yield Problem(
                at / j,
                Reason.INVALID,
                "authorization is empty",
                "Write {} for an entry that asks for nothing, or remove it.",
            )
            continue
        yield from _check_values(one.required_scopes, "scope", at / j / "requiredScopes")
        yield from _check_values(one.audiences, "audience", at / j / "audiences")


def _check_values(values: tuple[str, ...] | None, noun: str, at: FieldPath) -> Iterator[Problem]:
    if values is None:
        return
    if not values:
        yield Problem(
            at, Reason.INVALID, "value is empty", f"List each {noun} to ask for, or drop the field."
        )
    if "" in values:
        yield Problem(
            at,
            Reason.INVALID,
            f"{noun} value is empty",
            'Remove the "" from the list.',
        )
    # Envoy would not take such a policy, and without it the whole workload stays closed.
    for index, value in enumerate(values):
        if _CONTROL.search(value):
            yield _unusable(at / index, f"{noun} value {value!r} contains a control character")


def _unusable(at: FieldPath, message: str) -> Problem:
    return Problem(at, Reason.INVALID, message, "Correct the value.")


def _check_authentications(config: v2.Jwt, at: FieldPath) -> Iterator[Problem]:
    if not config.authentications:
        yield Problem(
            at,
            Reason.REQUIRED,
            "A JWT config must have at least one authentication",
            "Add an entry with issuer and jwksUri.",
        )
    seen: set[str] = set()
    for j, one in enumerate(config.authentications):
        yield from _check_issuer(one.issuer, at / j / "issuer")
        yield from _check_uri(uris.request_uri_fault(one.jwks_uri), at / j / "jwksUri")
        yield from _check_kind_of_places(one, at / j, seen)
        yield from _check_places(one, at / j)


def _check_issuer(issuer: str, at: FieldPath) -> Iterator[Problem]:
    fault = uris.issuer_fault(issuer)
    yield from _check_uri(fault, at)
    if fault is None and _CONTROL.search(issuer):
        yield Problem(
            at,
            Reason.INVALID,
            f"{issuer!r} contains a control character, which no proxy takes",
            "Write it in one line: what stands under | in YAML ends with a line break.",
        )


def _check_uri(fault: str | None, at: FieldPath) -> Iterator[Problem]:
    if fault is not None:
        yield Problem(
            at,
            Reason.INVALID,
            f"value is empty or not a valid uri err={fault}",
            "Copy the value from the issuer's /.well-known/openid-configuration.",
        )


def _check_kind_of_places(
    one: v2.Authentication, at: FieldPath, seen: set[str]
) -> Iterator[Problem]:
    """Yield what is against one place, of one kind, for all entries; ``seen`` are their kinds."""
    places = {"fromHeaders": one.from_headers, "fromParams": params(one)}
    used = [field for field, given in places.items() if given]
    for field in used:
        if seen - {field}:
            yield _mixture(at / field)
        seen.add(field)
    for field in used:
        if len(places[field]) > 1:
            yield _several(at / field, field)


def _check_places(one: v2.Authentication, at: FieldPath) -> Iterator[Problem]:
    """Yield what no header and no query parameter can be."""
    for index, header in enumerate(one.from_headers):
        place = at / "fromHeaders" / index
        if not headers.is_name(header.name):
            yield _unusable(place / "name", f"{header.name!r} is not the name of a header")
        if _CONTROL.search(header.prefix):
            message = f"prefix {header.prefix!r} contains a control character"
            yield _unusable(place / "prefix", message)
    for field, names in (("fromParams", one.from_params), ("fromParameters", one.from_parameters)):
        for index, name in enumerate(names):
            if not _PARAMETER.fullmatch(name):
                message = f"{name!r} is not the name of a query parameter"
                yield _unusable(at / field / index, message)


def _mixture(at: FieldPath) -> Problem:
    return Problem(
        at,
        Reason.FORBIDDEN,
        "mixture of multiple fromHeaders and fromParams is not supported",
        "Use fromHeaders in all authentications of a rule, or fromParams in all of them.",
    )


def _several(at: FieldPath, field: str) -> Problem:
    return Problem(
        at,
        Reason.TOO_MANY,
        f"multiple {field} are not supported",
        "Keep one entry.",
    )
