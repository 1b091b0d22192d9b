"""Checks with many small cases, and what the API server tells at once."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.unit.translate.build import JWT, apirule, facts, gateway, rule

from apirule import paths
from apirule.apis.gateway import v2
from apirule.apis.meta import ObjectMeta
from apirule.apis.networking import VirtualService, VirtualServiceSpec
from apirule.ownership import OWNER_NAME, OWNER_NAMESPACE
from apirule.paths import Template
from apirule.problem import Reason, Severity, errors
from apirule.translate import translate
from apirule.validate import validate

VECTORS = Path(__file__).parents[2] / "vectors" / "trie.json"


def messages(rule_: v2.APIRule) -> list[str]:
    return [problem.message for problem in errors(validate(rule_, facts()))]


@pytest.mark.parametrize(
    "host",
    [
        *("a", "1", "a.bc", "10.0.0.12", "a" * 63, "*.local.kyma.dev", "shop.example.org"),
        "a." * 125 + "org",
    ],
)
def test_a_host_of_either_form_is_accepted(host: str) -> None:
    assert messages(apirule(hosts=[host])) == []


@pytest.mark.parametrize(
    "host",
    [
        *("a.b", "1.2.3.4", "x.y.c-d", "a-.com", "*", "*.local", "api.*.com", "Foo", "foo_bar"),
        *("a" * 64, "a.bc\n", "", "a." * 125 + "orgs"),
    ],
)
def test_any_other_host_is_refused(host: str) -> None:
    assert messages(apirule(hosts=[host])) == ["Host must be a valid FQDN or short host name"]


@pytest.mark.parametrize(
    ("rules", "conflicting"),
    [
        ([("/a", "GET"), ("/a", "POST")], None),
        ([("/a", "GET"), ("/a", "GET")], "Path /a with method GET"),
        ([("/a", "GET POST"), ("/a", "PUT POST")], "Path /a with method POST"),
        ([("/*", "GET"), ("/{**}", "GET")], "Path /{**} with method GET"),
        ([("/a/b", "GET"), ("/a", "GET"), ("/a", "GET")], "Path /a with method GET"),
        ([("/a", "GET"), ("/b", "GET"), ("/a", "GET")], "Path /a with method GET"),
        ([("/a/{*}", "GET"), ("/a/{**}", "GET")], None),
    ],
)
def test_a_rule_conflicts_when_no_request_can_reach_it_in_one_of_its_methods(
    rules: list[tuple[str, str]], conflicting: str | None
) -> None:
    found = messages(apirule(*(rule(path, tuple(methods.split())) for path, methods in rules)))

    expected = f"{conflicting} conflicts with at least one of the previous rule paths"
    assert found == ([expected] if conflicting else [])


TRIE_DEVIATIONS = {
    # Accepted here: the second path is not covered.
    ("/{*}", "/"): "",
    ("/a/{**}/z", "/a/z"): "",
    ("/{**}/z", "/z"): "",
    ("/a/{*}", "/a/{**}"): "",
    ("/{*}", "/{**}"): "",
    ("/a/{*}/z", "/a/{**}/z"): "",
    ("/a/{*}/b", "/a/{**}/b"): "",
    ("//a", "/a"): "",
    # Refused here: the last path is covered, but a longer one came first.
    ("/a/b", "/a", "/a"): "/a",
    ("/a/b/c", "/a/b", "/a/b"): "/a/b",
    ("/{*}/b", "/{*}", "/x"): "/x",
}


@pytest.mark.parametrize(
    ("texts", "rejected"),
    [
        (tuple(vector["Paths"]), vector["Rejected"])
        for vector in json.loads(VECTORS.read_text())
        if " " not in "".join(vector["Paths"])  # not of the grammar
    ],
)
def test_conflicts_are_those_of_the_kyma_operator_or_a_named_deviation(
    texts: tuple[str, ...], rejected: str
) -> None:
    found = validate(apirule(*(rule(text) for text in texts)), facts())

    conflicts = [p.message for p in errors(found) if p.reason is Reason.CONFLICT]
    expected = TRIE_DEVIATIONS.get(texts, rejected)
    assert [text.split()[1] for text in conflicts[:1]] == ([expected] if expected else [])


def test_conflicts_are_told_by_method_in_the_order_of_first_appearance() -> None:
    several = [("/{**}", "GET PUT"), ("/a/a", "PUT GET"), ("/b", "PUT"), ("/c", "GET")]

    found = messages(apirule(*(rule(path, tuple(ms.split())) for path, ms in several)))

    assert [text.partition(" conflicts")[0] for text in found] == [
        "Path /a/a with method GET",
        "Path /c with method GET",
        "Path /b with method PUT",
    ]


@pytest.mark.parametrize(
    "forms",
    [
        ("/api/v1/{}", "/api/v1/x{}"),
        ("/api/v1/{}/{{*}}", "/api/v1/x{}/{{**}}"),
        ("/{{*}}/{}", "/{}/x/{{*}}"),
        ("/{{*}}/x{}", "/{}/{{*}}"),
    ],
)
@pytest.mark.parametrize("methods", [("GET", "GET POST"), ("GET PUT", "GET POST"), ("GET", "GET")])
def test_a_thousand_rules_are_not_compared_pair_by_pair(
    forms: tuple[str, str], methods: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Counter[str] = Counter()
    for name in ("covers", "overlap"):
        monkeypatch.setattr(f"apirule.paths.{name}", counted(getattr(paths, name), asked, name))
    rules = [
        rule(forms[n % 2].format(f"r{n}"), tuple(methods[n % 2].split()), jwt=JWT)
        for n in range(1000)
    ]

    list(validate(apirule(*rules), facts()))

    assert asked.total() < 20_000


def counted(
    function: Callable[[Template, Template], bool], asked: Counter[str], name: str
) -> Callable[[Template, Template], bool]:
    def ask(one: Template, other: Template) -> bool:
        asked[name] += 1
        return function(one, other)

    return ask


def test_advice_of_one_kind_ends_somewhere() -> None:
    found = validate(apirule(*(rule(f"/a{n}//") for n in range(300))), facts())

    assert len(found) == 21
    assert str(found[-1].field) == "spec.rules[20].path"
    assert "more of this kind" in found[-1].message


def test_a_conflict_shows_a_request_that_the_earlier_rule_takes() -> None:
    problems = errors(validate(apirule(rule("/a/{**}"), rule("/a/{*}/b")), facts()))

    assert "GET /a/x/b for one" in problems[0].fix
    assert problems[0].reason is Reason.CONFLICT


def test_a_path_with_an_operator_is_refused_where_envoy_would() -> None:
    fits = "/" + "a" * 252 + "/{**}"
    literal = "/" + "a" * 300

    assert messages(apirule(rule(fits))) == []
    assert messages(apirule(rule(literal))) == []
    assert len(messages(apirule(rule("/a" + fits[1:])))) == 1


TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", "/", "/a", "/{**}/{**}", "/{*}", "/*", "://", "https://[", "a", "*.a.bc"]),
)


@st.composite
def any_rules(draw: st.DrawFn) -> v2.APIRule:
    """Anything that has the shape of an APIRule, whatever a schema would say."""
    jwt = st.fixed_dictionaries(
        {
            "authentications": st.lists(
                st.fixed_dictionaries({"issuer": TEXTS, "jwksUri": TEXTS}), max_size=2
            )
        },
        optional={
            "authorizations": st.lists(
                st.none() | st.fixed_dictionaries({"requiredScopes": st.lists(TEXTS, max_size=2)}),
                max_size=2,
            )
        },
    )
    one = st.fixed_dictionaries(
        {"path": TEXTS, "methods": st.lists(st.sampled_from(["GET", "get", "", "POST"]))},
        optional={
            "noAuth": st.booleans(),
            "jwt": jwt,
            "service": st.fixed_dictionaries({"name": TEXTS, "port": st.integers(0, 99)}),
            "request": st.fixed_dictionaries({"headers": st.dictionaries(TEXTS, TEXTS)}),
        },
    )
    rules = draw(st.lists(one, max_size=3))
    return apirule(
        rule(), hosts=draw(st.lists(TEXTS, max_size=2)), gateway=draw(TEXTS), rules=rules
    )


@given(any_rules())
def test_nothing_with_the_shape_of_a_rule_breaks_a_check(drawn: v2.APIRule) -> None:
    outcome = translate(drawn, facts())

    assert (outcome.resources is None) == bool(errors(list(outcome.problems)))


def test_a_method_that_is_listed_twice_is_no_conflict() -> None:
    assert messages(apirule(rule(methods=("GET", "GET")))) == []


def test_a_name_that_cannot_be_a_label_is_refused() -> None:
    long = apirule()

    found = validate(replace(long, metadata=replace(long.metadata, name="n" * 64)), facts())

    assert [problem.reason for problem in errors(found)] == [Reason.TOO_LONG]


@pytest.mark.parametrize(
    ("path", "advised"),
    [
        ("/a", False),
        ("/a%20b", False),
        ("/a..b", False),
        ("/.well-known/x", False),
        ("/a//b", True),
        ("/a/../b", True),
        ("/a/.", True),
        ("/a%2Fb", True),
        ("/%61dmin", True),
    ],
)
def test_a_path_that_no_request_has_is_pointed_out(path: str, advised: bool) -> None:
    found = validate(apirule(rule(path)), facts())

    assert [problem.reason for problem in found] == ([Reason.MISLEADING] if advised else [])


@pytest.mark.parametrize(
    ("rules", "opened"),
    [
        ([rule("/admin", jwt=JWT), rule("/*")], "GET /admin/, /ADMIN, /admin;x, /admin."),
        ([rule("/a/1", jwt=JWT), rule("/a/{**}")], "GET /a/1/, /a/1;x, /a/1."),
        ([rule("/A", jwt=JWT), rule("/A/{*}"), rule("/A/{**}")], "GET /A/"),
        ([rule("/a/b", jwt=JWT), rule("/a/{*}")], "GET /a/B, /a/b;x, /a/b."),
        ([rule("/a/b", ("PUT", "GET"), jwt=JWT), rule("/a/{*}")], "GET /a/B, /a/b;x, /a/b."),
        ([rule("/admin", jwt=JWT), rule("/admin/{**}", jwt=JWT), rule("/*")], None),
        ([rule("/admin", jwt=JWT), rule("/*", ("POST",))], None),
        ([rule("/admin", jwt=JWT), rule("/*", jwt=JWT)], None),
        ([rule("/admin/{*}", jwt=JWT), rule("/*")], None),
    ],
)
def test_what_is_open_beside_a_guarded_path_is_pointed_out(
    rules: list[dict[str, Any]], opened: str | None
) -> None:
    found = [p for p in validate(apirule(*rules), facts()) if str(p.field) == "spec.rules[0].path"]

    told = [problem.message.partition("serves ")[2].partition(" without")[0] for problem in found]
    assert told == ([] if opened is None else [opened])
    assert {problem.reason for problem in found} <= {Reason.INSECURE}


@pytest.mark.parametrize(
    ("uri", "reasons"),
    [
        ("https://idp.example.org/keys", []),
        ("http://localhost:8080/keys", []),
        ("http://oidc.kyma.localhost:8080/keys", []),
        ("http://keycloak.iam.svc.cluster.local/keys", []),
        ("http://keycloak/keys", []),
        ("http://idp.example.org/keys", [Reason.INSECURE]),
        ("/keys", [Reason.MISLEADING]),
        ("mailto:a@b", [Reason.MISLEADING]),
        ("https://", [Reason.MISLEADING]),
    ],
)
def test_a_key_set_that_cannot_be_trusted_is_pointed_out(uri: str, reasons: list[Reason]) -> None:
    jwt = {"authentications": [{"issuer": "https://idp.example.org", "jwksUri": uri}]}

    assert [p.reason for p in validate(apirule(rule(jwt=jwt)), facts())] == reasons


@pytest.mark.parametrize(
    ("selector", "advised"),
    [
        ({"istio": "ingressgateway"}, False),
        ({"app": "istio-ingressgateway"}, False),
        ({"istio": "ingressgateway", "app": "istio-ingressgateway"}, False),
        ({"istio": "another"}, True),
        ({"istio": "ingressgateway", "tier": "edge"}, True),
    ],
)
def test_d18_a_gateway_of_another_ingress_is_pointed_out(
    selector: dict[str, str], advised: bool
) -> None:
    one = gateway()
    other = replace(one, spec=replace(one.spec, selector=selector))

    found = validate(apirule(), facts(other))

    assert [(str(p.field), p.reason, p.severity) for p in found] == (
        [("spec.gateway", Reason.MISLEADING, Severity.WARNING)] if advised else []
    )


@pytest.mark.parametrize("origins", [{}, {"allowOrigins": []}, {"allowOrigins": [{}, {}]}])
def test_d25_a_cors_policy_without_origins_is_pointed_out(origins: dict[str, Any]) -> None:
    (found,) = validate(apirule(corsPolicy={"allowMethods": ["GET"], **origins}), facts())

    assert found.message == "corsPolicy has no allowOrigins, so it has no effect"
    assert (str(found.field), found.severity) == ("spec.corsPolicy", Severity.WARNING)


@pytest.mark.parametrize(("methods", "advised"), [(("GET",), True), (("GET", "OPTIONS"), False)])
def test_d25_a_preflight_that_no_rule_serves_is_pointed_out(
    methods: tuple[str, ...], advised: bool
) -> None:
    policy = {"allowOrigins": [{"exact": "https://app.example.org"}]}

    found = validate(apirule(rule(methods=methods), corsPolicy=policy), facts())

    assert ["OPTIONS" in problem.message for problem in found] == [True] * advised


def routes(owner: str, created: str) -> VirtualService:
    return VirtualService(
        metadata=ObjectMeta(
            name=f"{owner}-1",
            namespace="web",
            creation_timestamp=created,
            labels={OWNER_NAME: owner, OWNER_NAMESPACE: "web"},
        ),
        spec=VirtualServiceSpec(hosts=("shop.example.org",)),
    )


NOON, LATER = "2026-01-02T12:00:00Z", "2026-01-02T12:00:01Z"


@pytest.mark.parametrize(
    ("others", "taken"),
    [
        ([routes("shop", NOON)], False),
        ([routes("other", NOON)], True),
        ([routes("shop", NOON), routes("other", LATER)], False),
        ([routes("shop", LATER), routes("other", NOON)], True),
        ([routes("shop", NOON), routes("other", NOON)], True),
    ],
)
def test_a_host_belongs_to_whoever_had_it_first(others: list[VirtualService], taken: bool) -> None:
    found = errors(validate(apirule(), facts(*others)))

    assert [problem.reason for problem in found] == ([Reason.HOST_TAKEN] if taken else [])
