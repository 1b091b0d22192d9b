"""Advice about tokens: issuers, key sets, scopes and audiences."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from apirule.apis.gateway import v2
from apirule.problem import FieldPath, Problem, Reason, Severity
from apirule.validate import jwt


def advise(rule: v2.APIRule) -> tuple[Iterator[Problem], ...]:
    """Return one iterator for each kind of advice."""
    return (
        _aliases(rule),
        _key_sets(rule),
        _wildcards(rule),
        _several_issuers(rule),
        _two_key_sets(rule),
    )


def _aliases(rule: v2.APIRule) -> Iterator[Problem]:
    for at, one in jwt.authentications(rule):
        if one.from_parameters:
            yield Problem(
                at / "fromParameters",
                Reason.MISLEADING,
                "fromParameters is read as fromParams; elsewhere it is dropped without a word",
                "Rename it to fromParams.",
                Severity.WARNING,
            )


def _key_sets(rule: v2.APIRule) -> Iterator[Problem]:
    for at, one in jwt.authentications(rule):
        yield from _key_set(one.jwks_uri, at / "jwksUri")


def _key_set(uri: str, at: FieldPath) -> Iterator[Problem]:
    try:
        parts = urlsplit(uri)
    except ValueError:
        return
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host:
        yield Problem(
            at,
            Reason.MISLEADING,
            f"{uri!r} cannot be fetched, so every token of the issuer is refused",
            "Write the https address of the key set.",
            Severity.WARNING,
        )
    elif parts.scheme == "http" and not _stays_here(host):
        yield Problem(
            at,
            Reason.INSECURE,
            f"{uri!r} is fetched without TLS: whoever is on the way can put in own keys",
            "Write the https address of the key set.",
            Severity.WARNING,
        )


def _stays_here(host: str) -> bool:
    """Whether a name leads to this machine or into the cluster."""
    return (
        host in ("localhost", "127.0.0.1", "::1")
        or host.endswith((".localhost", ".svc", ".svc.cluster.local"))
        or "." not in host
    )


def _several_issuers(rule: v2.APIRule) -> Iterator[Problem]:
    for at, config in jwt.configs(rule):
        issuers = dict.fromkeys(one.issuer for one in config.authentications)
        if len(issuers) > 1:
            yield Problem(
                at / "authentications",
                Reason.MISLEADING,
                f"A token of any of {len(issuers)} issuers is accepted, and the authorizations hold"
                " for all of them",
                "Give each issuer a rule of its own where they may do different things.",
                Severity.NOTE,
            )


def _wildcards(rule: v2.APIRule) -> Iterator[Problem]:
    for at, authentication in jwt.authentications(rule):
        if "*" in authentication.issuer:
            yield _wildcard(authentication.issuer, at / "issuer", "issuer")
    for at, config in jwt.configs(rule):
        for j, one in enumerate(config.authorizations or ()):
            if one is not None:
                yield from _wildcards_of(one, at / "authorizations" / j)


def _wildcards_of(one: v2.Authorization, at: FieldPath) -> Iterator[Problem]:
    for field, values in (("requiredScopes", one.required_scopes), ("audiences", one.audiences)):
        for index, value in enumerate(values or ()):
            if value.startswith("*") or value.endswith("*"):
                yield _wildcard(value, at / field / index, field)


def _wildcard(value: str, at: FieldPath, noun: str) -> Problem:
    return Problem(
        at,
        Reason.INSECURE,
        f"The * in {value!r} stands for anything, so more tokens are let in than {noun} says",
        "Write the value out.",
        Severity.WARNING,
    )


def _two_key_sets(rule: v2.APIRule) -> Iterator[Problem]:
    first: dict[str, tuple[str, FieldPath]] = {}
    for at, one in jwt.authentications(rule):
        uri, place = first.setdefault(one.issuer, (one.jwks_uri, at))
        if uri != one.jwks_uri:
            yield Problem(
                at / "jwksUri",
                Reason.INSECURE,
                f"{one.issuer!r} has another key set at {place}; on one machine a workload believes"
                " neither, in a cluster either one on every path",
                "Use one jwksUri for an issuer.",
                Severity.WARNING,
            )
