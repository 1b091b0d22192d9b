"""Why a proxy refused a request: its access log entry in one readable line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

OURS = ("jwt_authn_access_denied", "rbac_access_denied", "ext_authz_denied", "route_not_found")
"""What a proxy answers by itself; what the program answers, 401 and 403 among it, is its own."""

_INNER = re.compile(r"^\w+?\{(?P<words>.*)\}$")
_POLICY = re.compile(r"ns\[(?P<namespace>[^]]*)\]-policy\[(?P<name>[^]]*)\]-rule\[(?P<rule>\d+)\]")
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
    of_host = str(entry.get("authority", "")).partition(":")[0] == host
    return of_host and entry.get("path") == path and str(entry.get("time", "")) >= since


def in_words(entry: Mapping[str, Any], proxy: str) -> str:
    """Return time, status, request, reason, and the proxy that refused."""
    request = f"{entry.get('method', '?')} {entry.get('authority', '')}{entry.get('path', '')}"
    when, status = entry.get("time", ""), entry.get("status", "?")
    return f"{when}  {status}  {request}  {reason(entry)}  ({proxy})"


def reason(entry: Mapping[str, Any]) -> str:
    """Say what Envoy's response code details mean."""
    details = str(entry.get("details", ""))
    if details.startswith("route_not_found"):
        return "no APIRule has this host, path and method"
    if details.startswith("ext_authz_denied"):
        return "the external authorizer refused it"
    if details.startswith("jwt_authn_access_denied"):
        found = _INNER.match(details)
        return found["words"].replace("_", " ") if found else "the token was refused"
    return _of_policies(entry, details)


def _of_policies(entry: Mapping[str, Any], details: str) -> str:
    policy = _POLICY.search(details)
    if policy is not None:
        number = int(policy["rule"]) + 1
        return (
            f"AuthorizationPolicy {policy['namespace']}/{policy['name']} denies it (rule {number})"
        )
    marks = entry.get("policy") or {}
    if isinstance(marks, dict) and marks.get(_MARKER) == "allowed":
        if entry.get("issuer"):
            return "its token lacks a scope, an audience or another claim that this path asks for"
        return "it has no token, and this path asks for one"
    return "no rule allows this caller, path and method with what the token holds"
