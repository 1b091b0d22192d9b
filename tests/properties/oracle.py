"""What must be answered: the first rule that matches path and method decides. Nothing else does.

Written from the contract alone, as slowly and plainly as possible; it shares no code with the
product. Three more sentences of the contract stand here:

* what two rules share belongs to the earlier one in all methods of the later one, as soon as they
  share one method (a policy cannot name pairs of paths and methods);
* the operators stand for the characters of a URI path;
* of a path of nothing but slashes two are left: what guards ``/`` shuts it out, and no more.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from tests.properties.rule_lists import Request, Token

from apirule.apis.gateway import v2

REFUSED = frozenset((401, 403))
_OF_A_PATH = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*")
_ESCAPED = re.compile(r'[ "<>^`{|}]')
_UNRESERVED = re.compile(r"%(?:2[DdEe]|3[0-9]|4[1-9A-Fa-f]|5[0-9AaFf]|6[1-9A-Fa-f]|7[0-9AaEe])")


def expected(rule: v2.APIRule, request: Request) -> tuple[frozenset[int], str]:
    """Return the statuses that are right, and the Service that answers 200."""
    if "%00" in request.target or not request.target.isascii():
        return frozenset((400,)), ""
    path = normal(request.target)
    for index, one in enumerate(rule.spec.rules):
        if request.method in one.methods and routed(one.path, path):
            return _decided(rule, index, path, request.token)
    return frozenset((404,)), ""


def _decided(
    rule: v2.APIRule, index: int, path: str, token: Token | None
) -> tuple[frozenset[int], str]:
    one = rule.spec.rules[index]
    if token is not None and token.fault:
        return frozenset((401,)), ""
    if _is_closed(rule, index, path):
        return REFUSED, ""
    if one.jwt is not None and token is None:
        return frozenset((401,)), ""
    if one.jwt is not None and token is not None and not suffices(token, one.jwt):
        return frozenset((403,)), ""
    service = one.service or rule.spec.service
    return frozenset((200,)), service.name if service else ""


def routed(pattern: str, path: str) -> bool:
    return pattern == "/*" or (matches(pattern, path) and _plain(pattern, path))


def matches(pattern: str, path: str) -> bool:
    return _match(("/{**}" if pattern == "/*" else pattern).split("/")[1:], path.split("/")[1:])


def _match(parts: list[str], segments: list[str]) -> bool:
    if not parts:
        return not segments
    if parts[0] == "{**}":
        return any(_match(parts[1:], segments[n:]) for n in range(1, len(segments) + 1))
    if not segments:
        return False
    fits = segments[0] != "" if parts[0] == "{*}" else segments[0] == parts[0]
    return fits and _match(parts[1:], segments[1:])


def _plain(pattern: str, path: str) -> bool:
    return "{" not in pattern or all(map(_OF_A_PATH.fullmatch, path.split("/")))


def _is_closed(rule: v2.APIRule, index: int, path: str) -> bool:
    methods = set(rule.spec.rules[index].methods)
    return any(
        methods & set(earlier.methods)
        and _same(earlier.path) != _same(rule.spec.rules[index].path)
        and (matches(earlier.path, path) or (path == "//" and earlier.path == "/"))
        for earlier in rule.spec.rules[:index]
    )


def _same(pattern: str) -> str:
    return "/{**}" if pattern == "/*" else pattern


def suffices(token: Token, jwt: v2.Jwt) -> bool:
    if token.issuer not in [one.issuer for one in jwt.authentications]:
        return False
    grants = [one for one in jwt.authorizations or () if one is not None]
    return not grants or any(_grants(token.claims, one) for one in grants)


def _grants(claims: Mapping[str, Any], grant: v2.Authorization) -> bool:
    scopes, audiences = set(grant.required_scopes or ()), set(grant.audiences or ())
    in_one = any(scopes <= _values(claims, name) for name in ("scp", "scope", "scopes"))
    return (in_one or not scopes) and audiences <= _values(claims, "aud")


def _values(claims: Mapping[str, Any], name: str) -> set[str]:
    value = claims.get(name, [])
    return set(value.split(" ") if isinstance(value, str) else value)


def normal(target: str) -> str:
    """Return the path that gateway, policy and program see."""
    path = target.partition("?")[0]
    path = re.sub(r"%2[Ff]|%5[Cc]|\\", "/", path)
    path = _ESCAPED.sub(lambda found: f"%{ord(found[0]):02X}", path)
    path = _UNRESERVED.sub(lambda escape: unquote(escape[0]), path)
    segments: list[str] = []
    parts = path.split("/")[1:]
    for place, part in enumerate(parts):
        last = place == len(parts) - 1
        if part == "..":
            segments = segments[:-1]
        elif part != ".":
            segments.append(part)
        if last and part in (".", ".."):
            segments.append("")
    merged = "/" + "/".join(segments)
    return re.sub("/+", "/", merged) if merged.strip("/") else merged[:2]
