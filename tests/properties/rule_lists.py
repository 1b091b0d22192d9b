"""Random lists of rules, and requests that come close to them; the same for the same seed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from apirule.apis import scheme
from apirule.apis.gateway import v2
from apirule.facts import Facts
from apirule.problem import errors
from apirule.validate import validate

METHODS = ("GET", "POST", "PUT", "DELETE")
RARE_METHODS = ("HEAD", "OPTIONS", "TRACE", "PATCH")
PLACES: tuple[Mapping[str, Any], ...] = (
    {},
    {"fromHeaders": [{"name": "x-token", "prefix": "Token "}]},
    {"fromParams": ["token"]},
)
"""Where an authentication looks for tokens; without a word in ``Authorization``."""
ISSUERS = ("https://a.example.org", "https://b.example.org/realms/x")
SERVICES = ("shop", "depot")
SCOPES = ("read", "write")
AUDIENCES = ("app", "web")
LITERALS = ("a", "b", "c", "a.b", "A", "a%20b", "(a)", "$a", "a+b", "~a;b=1", "")
WORDS = ("a", "b", "c", "zz", "a.b", "axb", "A", "a%20b", "", "1", "x:y@z", "a;b", "%C3%BC")
SPELLINGS = (
    *("{}/", "/{}", "{}//", "{}/.", "{}/..", "{}/../a", "/a/..{}", "/.{}", "/a//..{}", "{}?x=/a"),
    *("{}%2F", "{}%2f..%2fa", "{}%5Ca", "{};x", "{}.json", "{}%00x", "{}*", "{}|c", "{}%7C", "{}^"),
    *("{}%2e", "{}/%2E%2e/a", '{}"', "{}\xff", "{}\xc3\xbc", "{}%25", "{}%2541", "/b/%2e%2e{}"),
    *("{}[1]", "{}!", "{}'", "{},", "{}=", "{}&", "{}(", "{}\\a", "{}`", "{}~", "{}_-", "{}{{x}}"),
)


@dataclass(frozen=True)
class Token:
    """What a token says. ``fault`` names what is wrong with it; the empty text: nothing."""

    name: str
    issuer: str = ISSUERS[0]
    claims: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""


TOKENS = (
    None,
    Token("read of a", claims={"scope": "read", "aud": ["app"]}),
    Token("read and write of a", claims={"scp": "read write", "aud": ["app", "web"]}),
    Token("write of b", ISSUERS[1], {"scopes": ["write"], "aud": "web"}),
    Token("nothing of b", ISSUERS[1]),
    Token("scopes of a in two claims", claims={"scp": ["read"], "scope": "write", "aud": "web"}),
    Token("expired", claims={"scope": "read write", "aud": ["app", "web"]}, fault="expired"),
    Token("of a stranger", claims={"scope": "read write", "aud": ["app"]}, fault="stranger"),
    Token("of an unknown issuer", "https://nobody.example.org", fault="issuer"),
)


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    token: Token | None
    place: Mapping[str, Any] = field(default_factory=dict)
    """Where the token is, as an authentication names it."""


def rule_list(seed: object, host: str, facts: Facts) -> v2.APIRule:
    """Draw an APIRule that validation accepts."""
    random = Random(f"rules {seed}")  # noqa: S311 - nothing secret depends on it
    rules: list[dict[str, Any]] = []
    place = random.choice(PLACES) if random.random() < 0.4 else {}
    wanted = random.randint(1, 6)
    for _ in range(40):
        candidate = [*rules, _rule(random, place)]
        if not errors(validate(_apirule(host, candidate), facts)):
            rules = candidate
        if len(rules) == wanted:
            break
    return _apirule(host, rules)


def variation(seed: object, host: str, of: v2.APIRule) -> v2.APIRule:
    """Draw who may use each rule of an APIRule anew, for another host."""
    random = Random(f"variation {seed}")  # noqa: S311 - nothing secret depends on it
    place = random.choice(PLACES)
    rules = []
    for given in manifest(of)["spec"]["rules"]:
        kept = {field: value for field, value in given.items() if field not in ("jwt", "noAuth")}
        rules.append({**kept, **_access(random, place)})
    return _apirule(host, rules)


def manifest(rule: v2.APIRule) -> dict[str, Any]:
    return scheme.encode(rule)


def requests(seed: object, rule: v2.APIRule, count: int) -> Iterator[Request]:
    random = Random(f"requests {seed}")  # noqa: S311 - nothing secret depends on it
    for _ in range(count):
        strange = random.random() < 0.02
        yield Request(
            # Mostly the methods of the rules, so that most requests find one.
            random.choice([*random.choice(rule.spec.rules).methods, *METHODS])
            if not strange
            else random.choice((*RARE_METHODS, "PROPFIND")),
            _target(random, random.choice(rule.spec.rules).path),
            random.choice(TOKENS) if random.random() < 0.7 else None,
            random.choice(PLACES),
        )


def _apirule(host: str, rules: Sequence[Mapping[str, Any]]) -> v2.APIRule:
    return scheme.decode(
        {
            "metadata": {"name": _name(host), "namespace": "web", "generation": 1},
            "spec": {
                "hosts": [host],
                "gateway": "kyma-system/kyma-gateway",
                "service": {"name": SERVICES[0], "port": 80},
                "rules": list(rules),
            },
        },
        v2.APIRule,
    )


def _name(host: str) -> str:
    return host.removeprefix("*.").replace(".", "-")


def _rule(random: Random, place: Mapping[str, Any]) -> dict[str, Any]:
    known = METHODS if random.random() < 0.8 else METHODS + RARE_METHODS
    rule: dict[str, Any] = {
        "path": _path(random),
        "methods": random.sample(known, random.choice((1, 1, 1, 2, 2, 4))),
        **_access(random, place),
    }
    if random.random() < 0.2:
        rule["service"] = {"name": random.choice(SERVICES), "port": 80}
    return rule


def _access(random: Random, place: Mapping[str, Any]) -> dict[str, Any]:
    if random.random() < 0.4:
        return {"noAuth": True}
    return {"jwt": _jwt(random, place)}


def _path(random: Random) -> str:
    if random.random() < 0.1:
        return random.choice(("/*", "/", "/{**}"))
    # Few letters, so that paths meet; the odd ones now and then.
    letters = LITERALS[:3] if random.random() < 0.7 else LITERALS
    segments = [
        "{*}" if random.random() < 0.3 else random.choice(letters)
        for _ in range(random.randint(1, 3))
    ]
    if random.random() < 0.4:
        segments[random.choice((-1, -1, random.randrange(len(segments))))] = "{**}"
    return "/" + "/".join(segments)


def _jwt(random: Random, place: Mapping[str, Any]) -> dict[str, Any]:
    issuers = random.choice((ISSUERS[:1], ISSUERS[:1], ISSUERS[1:], ISSUERS))
    jwt: dict[str, Any] = {
        "authentications": [{"issuer": one, "jwksUri": f"{one}/keys", **place} for one in issuers]
    }
    if random.random() < 0.6:
        jwt["authorizations"] = [_grant(random) for _ in range(random.choice((1, 1, 2)))]
    return jwt


def _grant(random: Random) -> dict[str, Any]:
    grant: dict[str, Any] = {}
    if random.random() < 0.8:
        grant["requiredScopes"] = random.sample(SCOPES, random.choice((1, 2)))
    if random.random() < 0.3:
        grant["audiences"] = random.sample(AUDIENCES, random.choice((1, 2)))
    return grant


def _target(random: Random, path: str) -> str:
    """Fill in the operators of a path, and now and then write it otherwise."""
    if path == "/*":
        path = "/{**}"
    segments: list[str] = []
    for segment in path[1:].split("/"):
        if segment == "{**}":
            segments += [random.choice(WORDS) for _ in range(random.randint(0, 3))]
        elif segment == "{*}" or random.random() < 0.08:
            segments.append(random.choice(WORDS))
        else:
            segments.append(segment)
    target = "/" + "/".join(segments)
    if random.random() < 0.1:
        target = target.upper() if random.random() < 0.5 else target.replace("a", "%61", 1)
    if random.random() < 0.25:
        target = random.choice(SPELLINGS).format(target)
    return target
