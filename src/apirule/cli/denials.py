"""Why a proxy refused a request: its access log entry in one readable line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from apirule import names
from apirule.apis.gateway import v2
from apirule.cli import asked
from apirule.cli.asked import Known

OURS = ("jwt_authn_access_denied", "rbac_access_denied", "ext_authz_denied", "route_not_found")
"""What a proxy answers by itself; what the program answers, 401 and 403 among it, is its own."""

_INNER = re.compile(r"^\w+?\{(?P<words>.*)\}$")
_POLICY = re.compile(r"ns\[(?P<namespace>[^]]*)\]-policy\[(?P<name>[^]]*)\]-rule\[(?P<rule>\d+)\]")
NO_ROUTE = "no APIRule has this host, path and method"
_MEANINGS = {
    "Jwt verification fails": "another key signed it, or it was changed",
    "Jwks doesn't have key to match kid or alg from Jwt": "its key is not in the key set",
    "Jwt not yet valid": "its nbf is still to come: the clocks differ",
}
"""What Envoy's words do not say. They come with blanks as underscores."""
_UNKNOWN_ISSUER = "Jwt issuer is not configured"
_GATEWAY = f"spiffe://{names.INGRESS_PRINCIPAL}"
_MARKER = "apirule_challenge_shadow_engine_result"


def read(line: str) -> Mapping[str, Any] | None:
    """Return the entry of a refusal; None for any other line."""
    entry = read_any(line)
    return entry if entry is not None and is_refusal(entry) else None


def read_any(line: str) -> Mapping[str, Any] | None:
    """Return the entry of a request; None for what a proxy says besides."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def is_refusal(entry: Mapping[str, Any]) -> bool:
    return str(entry.get("details", "")).startswith(OURS)


def is_about(entry: Mapping[str, Any], *, host: str, path: str, since: str) -> bool:
    """Whether it is of a request to this host and path, at that time (RFC 3339) or later."""
    return (
        _host(entry) == host and entry.get("path") == path and str(entry.get("time", "")) >= since
    )


def in_words(entry: Mapping[str, Any], proxy: str, known: Known | None = None) -> str:
    """Return time, status, request, reason, and the proxy that refused."""
    request = f"{entry.get('method', '?')} {entry.get('authority', '')}{entry.get('path', '')}"
    when, status = entry.get("time", ""), entry.get("status", "?")
    return f"{when}  {status}  {request}  {reason(entry, known)}  ({proxy})"


def reason(entry: Mapping[str, Any], known: Known | None = None) -> str:
    """Say what Envoy's response code details mean, and what the APIRule concerned asks for."""
    details = str(entry.get("details", ""))
    rule = known.exposing(_host(entry)) if known is not None else None
    if details.startswith("route_not_found"):
        return _no_route(entry, rule) if known is not None else NO_ROUTE
    if details.startswith("ext_authz_denied"):
        return "the external authorizer refused it"
    if details.startswith("jwt_authn_access_denied"):
        return _of_token(details, entry, rule)
    return _of_policies(entry, details, rule)


def _no_route(entry: Mapping[str, Any], rule: v2.APIRule | None) -> str:
    if rule is None:
        return f"no APIRule has the host {_host(entry)}"
    path, method = str(entry.get("path", "")), str(entry.get("method", ""))
    if methods := asked.methods_of(rule, path):
        if method in methods:
            return f"APIRule {rule.object_name} has a rule for it, but does not serve it"
        return f"APIRule {rule.object_name} has this path for {', '.join(methods)} only"
    return f"APIRule {rule.object_name} has no rule for this path"


def _of_token(details: str, entry: Mapping[str, Any], rule: v2.APIRule | None) -> str:
    found = _INNER.match(details)
    words = found["words"].replace("_", " ") if found else "the token was refused"
    if words == _UNKNOWN_ISSUER and rule is not None and (number := _number(entry, rule)):
        return f"{words}{asked.issuers_wanted(rule, number)}"
    return f"{words}: {_MEANINGS[words]}" if words in _MEANINGS else words


def _of_policies(entry: Mapping[str, Any], details: str, rule: v2.APIRule | None) -> str:
    policy = _POLICY.search(details)
    if policy is not None:
        number = int(policy["rule"]) + 1
        return (
            f"AuthorizationPolicy {policy['namespace']}/{policy['name']} denies it (rule {number})"
        )
    claims = entry.get("token") or {}
    # Only what comes from the gateway meets an APIRule.
    if rule is not None and entry.get("peer") == _GATEWAY:
        number = _number(entry, rule)
        if number and (lacking := asked.lacking(rule, number, claims)):
            return lacking
    marks = entry.get("policy") or {}
    if isinstance(marks, dict) and marks.get(_MARKER) == "allowed":
        if claims:
            return "its token lacks a scope, an audience or another claim that this path asks for"
        return "it has no token, and this path asks for one"
    return "no rule allows this caller, path and method with what the token holds"


def _number(entry: Mapping[str, Any], rule: v2.APIRule) -> int:
    return asked.number_of(rule, str(entry.get("path", "")), str(entry.get("method", "")))


def _host(entry: Mapping[str, Any]) -> str:
    return str(entry.get("authority", "")).partition(":")[0]
