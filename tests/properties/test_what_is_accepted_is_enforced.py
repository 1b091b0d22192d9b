"""Whatever text stands in a field: a rule that validation accepts is one the engine can enforce.

A policy that an Envoy would refuse closes its workload for all other rules too, so validation has
to refuse first. One place after the other gets odd text, in rules that are fine otherwise.
"""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import inspect
from tests.unit.translate.build import facts

from apirule.apis import core, networking, scheme, security
from apirule.apis.gateway import v2
from apirule.apis.meta import Object, ObjectMeta
from apirule.mesh import policies, routes
from apirule.mesh.config import MeshSettings
from apirule.mesh.memo import Memo
from apirule.mesh.route_match import Caller
from apirule.mesh.routes import HostScope
from apirule.mesh.snapshot import Snapshot
from apirule.problem import Problem, errors
from apirule.translate import translate

MESH = core.ConfigMap(
    metadata=ObjectMeta(namespace="istio-system", name="istio"),
    data={
        "mesh": "extensionProviders: [{name: p, envoyExtAuthzHttp: {service: p.auth, port: 80}}]"
    },
)
KNOWN = facts(MESH)
GATEWAY = Caller("istio-system", frozenset({"kyma-system/kyma-gateway"}), 443, {})

KEY = "(key)"


def tokens(issuer: str, **place: Any) -> Object:
    """Ask for a token of an issuer. Each has its own, as its tokens have one place."""
    return {
        "authentications": [
            {"issuer": f"https://{issuer}.org", "jwksUri": f"https://{issuer}.org/keys", **place}
        ],
        "authorizations": [{"requiredScopes": ["read"], "audiences": ["shop"]}],
    }


SERVICE = {"name": "shop", "namespace": "web", "port": 80}
SPECS: list[Object] = [
    {
        "hosts": ["shop.example.org"],
        "gateway": "kyma-system/kyma-gateway",
        "service": SERVICE,
        "corsPolicy": {
            "allowOrigins": [{"exact": "https://a.example.org"}, {"regex": "https://.*"}],
            "allowMethods": ["GET"],
            "allowHeaders": ["x-a"],
            "exposeHeaders": ["x-b"],
        },
        "rules": [
            {
                "path": "/headers",
                "methods": ["GET"],
                "jwt": tokens("a", fromHeaders=[{"name": "x-token", "prefix": "Kyma "}]),
                "service": SERVICE,
                "request": {"headers": {"x-c": "d"}, "cookies": {"e": "f"}},
            },
            {"path": "/params", "methods": ["GET"], "jwt": tokens("b", fromParams=["token"])},
        ],
    },
    {
        "hosts": ["*.example.org"],
        "gateway": "kyma-system/kyma-gateway",
        "service": SERVICE,
        "corsPolicy": {"allowOrigins": [{"prefix": "https://a"}, {"anything": "https://b"}]},
        "rules": [
            {
                "path": "/ext/{**}",
                "methods": ["GET"],
                "extAuth": {
                    "authorizers": ["p"],
                    "restrictions": tokens("c", fromParameters=["token"]),
                },
            },
        ],
    },
]

ODD = st.lists(
    st.sampled_from(
        [
            *(
                "a",
                "https://idp.example.org",
                "*",
                "/",
                "%",
                "%0a",
                "%%",
                "{*}",
                "{**}",
                "\\",
                "\\1",
            ),
            *("\n", "\r", "\t", "\x00", "\x7f", "\x85", "\u2028", "ü", " ", "host", ":authority"),
            *('"', "'", "(", ")", "[", "]", "{", "}", "^", "$", "|", "?", "#", "&", "=", ";", ","),
            *(":", "://", "@", "-", "x" * 300),
        ]
    ),
    max_size=4,
).map("".join)


def places(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield where text stands; a key of a map ends in ``KEY``."""
    if isinstance(value, str):
        yield at
    for part, item in value.items() if isinstance(value, dict) else ():
        yield from places(item, (*at, part))
        if at[-1:] in (("headers",), ("cookies",)) or at[-2:-1] == ("allowOrigins",):
            yield (*at, part, KEY)
    for index, item in enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*at, index))


PLACES = [(index, place) for index, spec in enumerate(SPECS) for place in places(spec)]


def with_text(spec: Object, place: tuple[str | int, ...], text: str) -> v2.APIRule:
    changed = copy.deepcopy(spec)
    holder: Any = changed
    is_key = place[-1] == KEY
    *way, last = place[:-1] if is_key else place
    for part in way:
        holder = holder[part]
    if is_key:
        holder[text] = holder.pop(last)
    else:
        holder[last] = text
    obj = {"metadata": {"name": "shop", "namespace": "web"}, "spec": changed}
    return scheme.decode(obj, v2.APIRule)


def engine_problems(rule: v2.APIRule) -> list[Problem]:
    """Return what the engine says of everything a rule is translated to."""
    outcome = translate(rule, KNOWN)
    found: list[Problem] = []
    for made in outcome.resources or ():
        match made:
            case security.RequestAuthentication() | security.AuthorizationPolicy():
                found += policies.problems_of(made, MeshSettings())
            case networking.VirtualService():
                world = Snapshot.of([*KNOWN.services.values(), made])
                found += routes.emit(made, world, Memo(), GATEWAY).problems
                found += routes.host_problems(made, [HostScope("*")])
            case _:
                raise AssertionError(made)
    return errors(found)


def text_fields(shape: inspect.Type, name: str = "") -> Iterator[str]:
    match shape:
        case inspect.StrType():
            yield name
        case inspect.StructType(fields=fields):
            for field in fields:
                yield from text_fields(field.type, field.encode_name)
        case inspect.UnionType(types=types):
            for one in types:
                yield from text_fields(one, name)
        case inspect.VarTupleType(item_type=item) | inspect.DictType(value_type=item):
            yield from text_fields(item, name)
        case _:
            return


def test_every_field_with_text_has_its_turn() -> None:
    tried = {part for _, place in PLACES for part in place}

    # No rule with an externalGateway is accepted.
    assert set(text_fields(inspect.type_info(v2.APIRuleSpec))) - tried == {"externalGateway"}


@pytest.mark.parametrize("spec", SPECS)
def test_without_odd_text_all_is_accepted_and_enforced(spec: Object) -> None:
    rule = scheme.decode(
        {"metadata": {"name": "shop", "namespace": "web"}, "spec": spec}, v2.APIRule
    )

    assert translate(rule, KNOWN).resources
    assert engine_problems(rule) == []


@pytest.mark.parametrize(
    ("spec", "place"),
    PLACES,
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else None,
)
@settings(max_examples=50)
@given(odd=ODD)
@example(odd="tenant-1\n")
@example(odd="")
def test_a_rule_that_is_accepted_can_be_enforced(
    spec: int, place: tuple[str | int, ...], odd: str
) -> None:
    assert engine_problems(with_text(SPECS[spec], place, odd)) == []
