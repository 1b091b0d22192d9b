"""No rule opens what an earlier rule guards: rendered policies against the first matching rule."""

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.unit.translate.build import JWT, apirule, facts, rule

from apirule.apis.gateway import v2
from apirule.apis.security import AuthorizationPolicy, Operation
from apirule.paths import Template
from apirule.problem import errors
from apirule.translate import translate
from apirule.validate import validate

METHODS = ("GET", "POST")
PATTERNS = (
    *("/", "/*", "/{**}", "/a", "/a/", "/{*}", "/a/b", "/a/{*}", "/a/{**}", "/{*}/b"),
    *("/a/{**}/b", "/{*}/{**}"),
)
REQUESTS = [
    (method, "/" + "/".join(word))
    for method in METHODS
    for length in range(1, 5)
    for word in itertools.product(("", "a", "b", "z"), repeat=length)
]


def policies(apirule_: v2.APIRule) -> list[AuthorizationPolicy]:
    outcome = translate(apirule_, facts())
    assert outcome.resources is not None, outcome.problems
    return [r for r in outcome.resources if isinstance(r, AuthorizationPolicy)]


def not_paths(apirule_: v2.APIRule) -> list[tuple[str, ...]]:
    return [p.spec.rules[0].to[0].operation.not_paths for p in policies(apirule_)]


def allows(operation: Operation, method: str, path: str) -> bool:
    """Evaluate a policy as Istio does."""
    return (
        method in operation.methods
        and any(Template.parse(p).matches(path) for p in operation.paths)
        and not any(Template.parse(p).matches(path) for p in operation.not_paths)
    )


def test_an_open_rest_leaves_the_guarded_root_alone() -> None:
    assert not_paths(apirule(rule("/", jwt=JWT), rule("/*"))) == [(), ("/",)]


def test_a_path_between_two_rules_of_one_path_is_left_alone() -> None:
    rules = [
        rule("/bar/{*}", ("GET",), jwt=JWT),
        rule("/bar/x", ("POST",), jwt=JWT),
        rule("/bar/{*}", ("POST",)),
    ]

    assert not_paths(apirule(*rules)) == [(), (), ("/bar/x",)]


def test_paths_of_earlier_rules_are_listed_even_if_they_cannot_meet() -> None:
    # So that the text is the one of the Kyma operator, and with it the hash.
    rules = [rule("/a"), rule("/b", ("POST",)), rule("/c", ("GET", "POST"))]

    assert not_paths(apirule(*rules)) == [(), (), ("/a", "/b")]


def test_a_root_in_front_lists_what_comes_after_it() -> None:
    assert not_paths(apirule(rule("/"), rule("/a"))) == [("/a",), ()]


def test_a_path_of_two_rules_is_listed_twice() -> None:
    # The hash is made of the list, and two equal entries cancel each other out in it.
    rules = [
        rule("/orders", ("GET",)),
        rule("/orders", ("POST",), jwt=JWT),
        rule("/{**}", ("GET", "POST")),
    ]

    assert not_paths(apirule(*rules))[2] == ("/orders", "/orders")


def as_the_kyma_operator(rules: tuple[v2.Rule, ...], index: int) -> list[str]:
    """The list of apirule-v2, 4.5, step by step."""
    found, before = [], True
    for one in rules:
        if one.path in ("/*", "/{**}", "/"):
            continue
        if one.path == rules[index].path:
            before = False
            continue
        if before and set(one.methods) & set(rules[index].methods):
            found.append(one.path)
    return found


METHOD_SETS = st.sampled_from([("GET",), ("POST",), METHODS])


@st.composite
def rule_sets(
    draw: st.DrawFn, methods: st.SearchStrategy[tuple[str, ...]] = METHOD_SETS
) -> v2.APIRule:
    drawn = draw(
        st.lists(
            st.tuples(st.sampled_from(PATTERNS), methods, st.booleans()),
            min_size=1,
            max_size=5,
        )
    )
    return apirule(
        *(
            rule(path, methods, jwt=JWT) if guarded else rule(path, methods)
            for path, methods, guarded in drawn
        )
    )


@given(rule_sets())
def test_only_the_first_matching_rule_lets_a_request_in(drawn: v2.APIRule) -> None:
    assume(not errors(validate(drawn, facts())))
    operations = [policy.spec.rules[0].to[0].operation for policy in policies(drawn)]

    for method, path in REQUESTS:
        first = next(
            (
                index
                for index, one in enumerate(drawn.spec.rules)
                if method in one.methods and Template.parse(one.path).matches(path)
            ),
            None,
        )
        opening = [i for i, operation in enumerate(operations) if allows(operation, method, path)]
        assert opening in ([], [first]), f"{method} {path}"


@given(METHOD_SETS.map(st.just).flatmap(rule_sets))
def test_a_request_is_let_in_unless_an_earlier_rule_shares_another_method(
    drawn: v2.APIRule,
) -> None:
    assume(not errors(validate(drawn, facts())))
    operations = [policy.spec.rules[0].to[0].operation for policy in policies(drawn)]

    for method, path in REQUESTS:
        served = any(
            method in one.methods and Template.parse(one.path).matches(path)
            for one in drawn.spec.rules
        )
        assert any(allows(operation, method, path) for operation in operations) == served


@given(rule_sets())
def test_the_list_begins_with_that_of_the_kyma_operator(drawn: v2.APIRule) -> None:
    assume(not errors(validate(drawn, facts())))

    for index, paths in enumerate(not_paths(drawn)):
        theirs = as_the_kyma_operator(drawn.spec.rules, index)
        assert list(paths[: len(theirs)]) == theirs
        assert not set(paths[len(theirs) :]) & set(theirs)


@given(rule_sets())
def test_translation_is_deterministic(drawn: v2.APIRule) -> None:
    assert translate(drawn, facts()) == translate(drawn, facts())


@pytest.mark.parametrize("path", ["/*", "/{**}"])
def test_both_forms_of_everything_are_one(path: str) -> None:
    assert not_paths(apirule(rule("/a"), rule(path))) == [(), ("/a",)]
