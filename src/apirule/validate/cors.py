"""A ``corsPolicy``: what Envoy would refuse in it, and what does nothing."""

from __future__ import annotations

from collections.abc import Iterator

from apirule import re2
from apirule.apis.gateway import v2
from apirule.problem import SPEC, FieldPath, Problem, Reason, Severity
from apirule.validate import headers

_AT = SPEC / "corsPolicy"
_ORIGINS = _AT / "allowOrigins"
_KINDS = frozenset({"exact", "prefix", "regex"})
_SUCH_AS = "such as [{exact: https://app.example.org}]"


def check(policy: v2.CorsPolicy | None) -> Iterator[Problem]:
    if policy is None:
        return
    for index, entry in enumerate(policy.allow_origins):
        for kind, value in sorted(entry.items()):
            yield from _check_origin(kind, value, _ORIGINS / index / kind)
    for field, values in (
        ("allowMethods", policy.allow_methods),
        ("allowHeaders", policy.allow_headers),
        ("exposeHeaders", policy.expose_headers),
    ):
        for index, value in enumerate(values):
            if not headers.is_value(value):
                yield Problem(
                    _AT / field / index,
                    Reason.INVALID,
                    f"{value!r} contains a control character",
                    "Correct the value.",
                )


def _check_origin(kind: str, value: str, at: FieldPath) -> Iterator[Problem]:
    if not value:
        yield Problem(at, Reason.INVALID, "value is empty", f"Name an origin, {_SUCH_AS}.")
    elif kind == "regex" and (fault := re2.fault(value)):
        yield Problem(
            at,
            Reason.INVALID,
            f"{value!r} is not a regular expression: {fault}",
            "Write it as RE2 takes it, without look-around and references to groups.",
        )


def advise(rule: v2.APIRule) -> Iterator[Problem]:
    policy = rule.spec.cors_policy
    if policy is None:
        return
    if not any(policy.allow_origins):
        yield Problem(
            _AT,
            Reason.MISLEADING,
            "corsPolicy has no allowOrigins, so it has no effect",
            f"Add allowOrigins, {_SUCH_AS}.",
            Severity.WARNING,
        )
        return
    for index, entry in enumerate(policy.allow_origins):
        for kind in sorted(entry.keys() - _KINDS):
            yield Problem(
                _ORIGINS / index / kind,
                Reason.MISLEADING,
                f"{kind!r} is read as prefix",
                "Write exact, prefix or regex.",
                Severity.WARNING,
            )
    if not any("OPTIONS" in one.methods for one in rule.spec.rules):
        yield Problem(
            _AT,
            Reason.MISLEADING,
            "No rule serves OPTIONS, so a browser's preflight request is answered with 404",
            "Add OPTIONS to the methods of each rule that browsers call from other origins.",
            Severity.WARNING,
        )
