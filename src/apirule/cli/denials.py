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
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    if not isinstance(entry, dict) or not str(entry.get("details", "")).startswith(OURS):
        return None
    return entry


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
    policy = _POLICY.search(details)
    if policy is not None:
        number = int(policy["rule"]) + 1
        return (
            f"AuthorizationPolicy {policy['namespace']}/{policy['name']} denies it (rule {number})"
        )
    marks = entry.get("policy") or {}
    if isinstance(marks, dict) and marks.get(_MARKER) == "allowed":
        return "it has no token, and this path asks for one"
    return "no rule allows this caller, path and method with what the token holds"
