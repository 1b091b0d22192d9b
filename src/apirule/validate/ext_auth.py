"""An ``extAuth`` section: authorizers that the mesh does not know, its tokens, and advice."""

from __future__ import annotations

from collections.abc import Iterator

from apirule.apis.gateway import v2
from apirule.facts import Facts
from apirule.names import ObjectName
from apirule.problem import SPEC, FieldPath, Problem, Reason, Severity
from apirule.providers import CONFIG_MAP, FIELD, HTTP, KEY, Fault
from apirule.validate import jwt

_WHERE = f"{FIELD} of the key {KEY} in ConfigMap {CONFIG_MAP}"
_UNREADABLE = {
    Fault.NO_KEY: "Istio ConfigMap does not contain mesh key",
    Fault.NOT_YAML: "Failed to unmarshal mesh data",
}


def check(config: v2.ExtAuth, at: FieldPath) -> Iterator[Problem]:
    if not config.authorizers:
        yield Problem(
            at / "authorizers",
            Reason.REQUIRED,
            "No authorizers defined",
            "Name an external authorizer, or use jwt or noAuth.",
        )
    if config.restrictions is not None:
        # The Kyma operator leaves ``restrictions`` out of the place.
        yield from jwt.check(config.restrictions, at)


def check_authorizers(config: v2.ExtAuth, at: FieldPath, facts: Facts) -> Iterator[Problem]:
    providers = facts.providers
    if providers.fault is Fault.MISSING:
        yield Problem(
            at,
            Reason.NOT_FOUND,
            "Failed to get Istio ConfigMap",
            f"Create ConfigMap {CONFIG_MAP} with the authorizer under {FIELD} of its key {KEY}.",
        )
        return
    at /= "externalAuthorizers"
    if providers.fault is not None:
        yield Problem(
            at,
            Reason.INVALID,
            _UNREADABLE[providers.fault],
            f"Write the mesh configuration as YAML under the key {KEY} of ConfigMap {CONFIG_MAP}.",
        )
        return
    for name in dict.fromkeys(config.authorizers):
        provider = providers.by_name.get(name)
        if provider is None:
            known = ", ".join(sorted(providers.by_name)) or "none"
            yield Problem(
                at / name,
                Reason.NOT_FOUND,
                "Authorizer not found in Istio ConfigMap mesh data",
                f"Add {name!r} to spec.config.authorizers of the Istio resource, or to {_WHERE};"
                f" known are: {known}.",
            )
        elif not provider.is_http:
            yield Problem(
                at / name,
                Reason.NOT_SUPPORTED,
                "EnvoyExtAuthzHttp not found in Istio ConfigMap mesh data for authorizer",
                f"Give {name!r} the section {HTTP}; one that speaks gRPC is for an"
                " AuthorizationPolicy of your own.",
            )
        elif provider.fault:
            yield Problem(
                at / name,
                Reason.INVALID,
                f"Authorizer {name!r} cannot be asked: {provider.fault.rstrip('.')}",
                f"Correct its entry in {_WHERE}.",
            )


def advise(rule: v2.APIRule) -> Iterator[Problem]:
    """Yield a note where a workload has several authorizers, which Istio has to be told of."""
    first: dict[ObjectName | None, str] = {}
    for index, one in enumerate(rule.spec.rules):
        for name in one.ext_auth.authorizers if one.ext_auth is not None else ():
            if first.setdefault(rule.service_of(one), name) != name:
                yield Problem(
                    SPEC / "rules" / index / "extAuth" / "authorizers",
                    Reason.MISLEADING,
                    f"The workload asks {name!r} besides {first[rule.service_of(one)]!r}; in a"
                    " cluster, Istio then refuses every request unless istiod runs with"
                    " PILOT_ENABLE_MULTIPLE_CUSTOM_AUTHZ_PROVIDERS=true",
                    "Use one authorizer per workload, or set the variable there; here all are"
                    " asked.",
                    Severity.NOTE,
                )
                return
