"""Every field of an AuthorizationPolicy, with both verdicts, as ALLOW and as DENY, in a real Envoy.

Each rule is for a path of its own. The same rules stand in two workloads: where ALLOW lets a
request in, DENY has to refuse it, and the other way round.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.shells.security_envoy import Engine, Mtls, Workload, engine
from tests.shells.security_given import (
    JWT_A,
    KEYS,
    A,
    Authority,
    authentication,
    bearer,
    manifests,
    policy,
    token,
)

from apirule.apis import scheme
from apirule.apis.security import Operation, Source
from apirule.mesh.attributes import CONDITIONS

pytestmark = pytest.mark.envoy

CA = Authority.make()
X, ROBOT = "cluster.local/ns/team-a/sa/x", "cluster.local/ns/shop/sa/robot"
ELSEWHERE = "other.mesh/ns/team-b/sa/y"


@dataclass(frozen=True)
class Ask:
    """What is asked, where it differs from a GET of the workload X without a token."""

    caller: str = X
    method: str = "GET"
    host: str = "api.example"
    sni: str = "workload"
    claims: Mapping[str, Any] | None = None
    headers: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        told = [bearer(token(self.claims))] if self.claims is not None else []
        return [*told, *self.headers]


@dataclass(frozen=True)
class Rule:
    """``text`` is what stands in the rule besides its path."""

    text: str
    meets: tuple[Ask, ...] = (Ask(),)
    misses: tuple[Ask, ...] = field(default_factory=tuple)


def source(text: str) -> str:
    return f"from: [{{source: {{{text}}}}}]"


def when(key: str, *values: str, unless: bool = False) -> str:
    name = "notValues" if unless else "values"
    return f"when: [{{key: '{key}', {name}: [{', '.join(repr(v) for v in values)}]}}]"


def both(key: str, value: str, meets: Ask, misses: Ask) -> dict[str, Rule]:
    """Return a condition and its opposite."""
    name = key.translate(str.maketrans("[].", "---"))
    return {
        f"{name}-is": Rule(when(key, value), (meets,), (misses,)),
        f"{name}-is-not": Rule(when(key, value, unless=True), (misses,), (meets,)),
    }


ROBOT_ASKS, OTHER = Ask(caller=ROBOT), Ask(caller=ELSEWHERE)
ALICE, BOB = Ask(claims={}), Ask(claims={"sub": "bob"})
FAR, NEAR = Ask(headers=("x-forwarded-for: 10.1.2.3",)), Ask(headers=("x-forwarded-for: 9.9.9.9",))

RULES: Mapping[str, Rule] = {
    "principals": Rule(source(f"principals: ['{X}']"), (Ask(),), (ROBOT_ASKS, OTHER)),
    "principals-prefix": Rule(
        source("principals: ['cluster.local/ns/team-a/*']"), (Ask(),), (ROBOT_ASKS, OTHER)
    ),
    "principals-suffix": Rule(source("principals: ['*/sa/y']"), (OTHER,), (Ask(), ROBOT_ASKS)),
    "principals-any": Rule(source("principals: ['*']"), (Ask(), OTHER)),
    "not-principals": Rule(source(f"notPrincipals: ['{X}']"), (ROBOT_ASKS, OTHER), (Ask(),)),
    "request-principals": Rule(source(f"requestPrincipals: ['{A}/alice']"), (ALICE,), (Ask(), BOB)),
    "request-principals-prefix": Rule(
        source(f"requestPrincipals: ['{A}/al*']"), (ALICE,), (Ask(), BOB)
    ),
    "request-principals-suffix": Rule(source("requestPrincipals: ['*/bob']"), (BOB,), (ALICE,)),
    "request-principals-any": Rule(source("requestPrincipals: ['*']"), (ALICE, BOB), (Ask(),)),
    "not-request-principals": Rule(
        source(f"notRequestPrincipals: ['{A}/alice']"), (Ask(), BOB), (ALICE,)
    ),
    "namespaces": Rule(source("namespaces: [team-a]"), (Ask(),), (ROBOT_ASKS, OTHER)),
    "namespaces-wildcard": Rule(source("namespaces: ['team-*']"), (Ask(), OTHER), (ROBOT_ASKS,)),
    "not-namespaces": Rule(source("notNamespaces: [team-a]"), (ROBOT_ASKS, OTHER), (Ask(),)),
    "service-accounts": Rule(source("serviceAccounts: [team-a/x]"), (Ask(),), (ROBOT_ASKS, OTHER)),
    "service-accounts-own": Rule(source("serviceAccounts: [robot]"), (ROBOT_ASKS,), (Ask(),)),
    "not-service-accounts": Rule(
        source("notServiceAccounts: [team-a/x]"), (ROBOT_ASKS, OTHER), (Ask(),)
    ),
    "trust-domains": Rule(source("trustDomains: [cluster.local]"), (Ask(),), (OTHER,)),
    "trust-domains-wildcard": Rule(source("trustDomains: ['*.mesh']"), (OTHER,), (Ask(),)),
    "trust-domains-any": Rule(source("trustDomains: ['*']"), (Ask(), OTHER)),
    "not-trust-domains": Rule(source("notTrustDomains: ['*.mesh']"), (Ask(),), (OTHER,)),
    "ip-blocks": Rule(source("ipBlocks: [127.0.0.0/8]"), (Ask(), FAR)),
    "ip-blocks-elsewhere": Rule(source("ipBlocks: [10.0.0.0/8]"), (), (Ask(), FAR)),
    "not-ip-blocks": Rule(source("notIpBlocks: [127.0.0.1]"), (), (Ask(), FAR)),
    "remote-ip-blocks": Rule(source("remoteIpBlocks: [10.0.0.0/8, '::1']"), (FAR,), (Ask(), NEAR)),
    "not-remote-ip-blocks": Rule(source("notRemoteIpBlocks: [10.1.2.3]"), (Ask(), NEAR), (FAR,)),
    "all-of-a-source": Rule(
        source("namespaces: [team-a], remoteIpBlocks: [10.0.0.0/8]"), (FAR,), (Ask(), ROBOT_ASKS)
    ),
    **both("source.ip", "127.0.0.1", Ask(), Ask()),
    **both("remote.ip", "10.0.0.0/8", FAR, NEAR),
    **both("source.principal", X, Ask(), OTHER),
    **both("source.namespace", "team-a", Ask(), ROBOT_ASKS),
    **both("source.serviceAccount", "team-a/x", Ask(), ROBOT_ASKS),
    **both("source.trustDomain", "*.mesh", OTHER, Ask()),
    **both("connection.sni", "*.example", Ask(sni="shop.example"), Ask(sni="shop.other")),
    **both("request.auth.principal", f"{A}/bob", BOB, ALICE),
    **both("request.auth.audiences", "app", Ask(claims={"aud": ["x", "app"]}), ALICE),
    **both("request.auth.presenter", "cli*", Ask(claims={"azp": "client"}), ALICE),
    **both("request.auth.claims[group]", "*min", Ask(claims={"group": ["admin"]}), ALICE),
    **both("request.auth.claims[a][b]", "c", Ask(claims={"a": {"b": "c"}}), Ask(claims={"a": "c"})),
    **both(
        "request.headers[x-team]",
        "blue*",
        Ask(headers=("X-Team: blueish",)),
        Ask(headers=("x: y",)),
    ),
    "destination-ip-is": Rule(when("destination.ip", "127.0.0.0/8"), (Ask(),)),
    "destination-ip-is-not": Rule(when("destination.ip", "10.0.0.0/8", unless=True), (Ask(),)),
    "destination-ip-elsewhere": Rule(when("destination.ip", "10.0.0.0/8"), (), (Ask(),)),
    "destination-port-is": Rule(when("destination.port", "80"), (Ask(),)),
    "destination-port-is-not": Rule(when("destination.port", "80", unless=True), (), (Ask(),)),
    "operation-hosts": Rule("hosts: ['*.example']", (Ask(),), (Ask(host="api.other"),)),
    "operation-not-hosts": Rule("notHosts: [API.example]", (Ask(host="x"),), (Ask(),)),
    "operation-methods": Rule("methods: [P*]", (Ask(method="PUT"),), (Ask(),)),
    "operation-not-methods": Rule("notMethods: [GET]", (Ask(method="PUT"),), (Ask(),)),
    "operation-ports": Rule("ports: ['80']", (Ask(),)),
    "operation-not-ports": Rule("notPorts: ['80']", (), (Ask(),)),
    "operation-not-paths": Rule("notPaths: ['*-not-paths']", (), (Ask(),)),
}
# An address is always this machine's, so one of the two has nothing that would meet it.
NEVER = {"source-ip-is": ("misses",), "source-ip-is-not": ("meets",)}


def rules() -> str:
    found = []
    for name, rule in RULES.items():
        more = f", {rule.text}" if name.startswith("operation") else ""
        rest = "" if more else f", {rule.text}"
        found.append(f"{{to: [{{operation: {{paths: [/{name}]{more}}}}}]{rest}}}")
    return f"[{', '.join(found)}]"


def workload(name: str, action: str) -> Workload:
    certificate, key = CA.issue("spiffe://cluster.local/ns/shop/sa/default")
    text = manifests(
        authentication(JWT_A), policy(f"{{action: {action}, rules: {rules()}}}", action.lower())
    )
    return Workload(name, text, KEYS, mtls=Mtls(certificate, key, CA.pem))


@pytest.fixture(scope="module")
def envoy() -> Iterator[Engine]:
    with (
        tempfile.TemporaryDirectory(prefix="ap", dir="/tmp") as folder,
        engine(Path(folder), [workload("allow", "ALLOW"), workload("deny", "DENY")]) as running,
    ):
        yield running


def test_no_field_is_forgotten() -> None:
    text = rules()
    fields = [name for shape in (Source, Operation) for name in scheme.field_names(shape)]

    assert [name for name in fields if f"{name}: [" not in text] == []
    assert [key for key in CONDITIONS if f"key: '{key}'" not in text] == []


def cases() -> Iterator[Any]:
    for name, rule in RULES.items():
        for verdict, asks in (("meets", rule.meets), ("misses", rule.misses)):
            if verdict in NEVER.get(name, ()):
                continue
            for number, ask in enumerate(asks):
                yield pytest.param(name, ask, verdict == "meets", id=f"{name}-{verdict}-{number}")


@pytest.mark.parametrize(("name", "ask", "meets"), list(cases()))
def test_allow_lets_in_what_deny_refuses(
    envoy: Engine, tmp_path: Path, name: str, ask: Ask, *, meets: bool
) -> None:
    tls = CA.client(tmp_path, ask.caller)
    verdicts = {
        action: envoy.send(
            action,
            f"/{name}",
            *ask.lines(),
            method=ask.method,
            host=ask.host,
            tls=tls,
            sni=ask.sni,
        ).status
        == 200
        for action in ("allow", "deny")
    }

    assert verdicts == {"allow": meets, "deny": not meets}
