"""CEL rules of schemas: what passes, what is said, and that doubt refuses."""

from __future__ import annotations

from typing import Any

import pytest

from apirule.problem import Problem, Reason
from apirule.schema.expressions import Rules
from apirule.schema.matching import simple_match


def check(schema: dict[str, Any], value: Any, old: Any = None) -> list[Problem]:
    root = {"type": "object", "properties": {"f": schema}}
    return Rules(root).evaluate({"f": value}, None if old is None else {"f": old})


def ruled(kind: str, rule: str, **more: Any) -> dict[str, Any]:
    extra = more.pop("schema", {})
    return {"type": kind, **extra, "x-kubernetes-validations": [{"rule": rule, **more}]}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (ruled("string", "self.matches('^a+$')"), "aa", "aa\n"),
        (ruled("string", "self.startsWith('a') && size(self) > 1"), "ab", "b"),
        (ruled("integer", "self % 2 == 0"), 4, 5),
        (ruled("number", "self > 1.5"), 2, 1),
        (ruled("object", "has(self.a) != has(self.b)"), {"a": 1}, {"a": 1, "b": 2}),
        (ruled("object", "has(self.a) && self.a[0] == 'x'"), {"a": ["x"]}, {"a": ["y"]}),
        (ruled("array", "self.all(x, x.p != '')"), [{"p": "q"}], [{"p": ""}]),
        (ruled("object", "self.?a.orValue(3) == 3"), {}, {"a": 4}),
        (ruled("string", "self < duration('1h')", schema={"format": "duration"}), "5m", "2h"),
        (
            ruled(
                "string",
                "self < timestamp('2026-01-01T00:00:00Z')",
                schema={"format": "date-time"},
            ),
            "2025-01-01T00:00:00Z",
            "2027-01-01T00:00:00Z",
        ),
        (
            ruled(
                "object",
                "self.__namespace__ == 'a' && self.x__dash__y == 1",
                schema={"properties": {"namespace": {"type": "string"}, "x-y": {}}},
            ),
            {"namespace": "a", "x-y": 1},
            {"namespace": "b", "x-y": 1},
        ),
    ],
)
def test_a_rule_decides(schema: dict[str, Any], good: Any, bad: Any) -> None:
    assert check(schema, good) == []
    assert len(check(schema, bad)) == 1


def test_a_scalar_is_quoted_and_an_object_is_not() -> None:
    scalar = ruled("string", "false", message="No.")
    whole = ruled("object", "false", message="No.")

    assert str(check(scalar, "x")[0]) == 'f: Invalid value: "x": No.'
    assert str(check(whole, {"a": 1})[0]) == "f: Invalid value: No."


def test_a_rule_without_a_message_names_itself() -> None:
    assert check(ruled("object", "1 ==\n 2"), {})[0].message.endswith("failed rule: 1 == 2")


def test_a_rule_may_compute_its_message_and_its_field_and_choose_its_reason() -> None:
    schema = ruled(
        "object",
        "false",
        messageExpression="'because of ' + self.a",
        fieldPath=".deep.labels['x.y'][0]",
        reason="FieldValueForbidden",
    )

    (problem,) = check(schema, {"a": "this"})

    assert problem.message == "Forbidden: because of this"
    assert problem.field.parts == ("f", "deep", "labels", "x.y", 0)
    assert problem.reason is Reason.FORBIDDEN


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("self.a.b == 1", {}),
        ("1 / 0 == 1", {}),
        ("self.a", {"a": "text"}),
        ("self.a == 1 ==", {}),
        ("nosuch(self)", {}),
        ("self.a > 1", {"a": 10**30}),
    ],
    ids=["no such key", "division", "no boolean", "no CEL", "no function", "no such number"],
)
def test_a_rule_that_cannot_be_evaluated_refuses(rule: str, value: dict[str, Any]) -> None:
    assert len(check(ruled("object", rule), value)) == 1


def test_only_rules_that_do_not_compile_are_reported_to_the_author() -> None:
    schema = {
        "type": "object",
        "properties": {"f": ruled("string", "self +"), "g": ruled("string", "self == 'a'")},
    }

    (problem,) = Rules(schema).compile_problems()

    assert str(problem.field) == "properties.f.x-kubernetes-validations[0].rule"
    assert problem.message.startswith('Invalid value: "self +": compilation failed: ')


def test_a_transition_rule_waits_for_an_update() -> None:
    schema = ruled("string", "self == oldSelf", message="It cannot be changed.")

    assert check(schema, "a") == []
    assert check(schema, "a", "a") == []
    assert check(schema, "b", "a")[0].message == 'Invalid value: "b": It cannot be changed.'


def test_a_transition_rule_may_also_see_a_create() -> None:
    schema = ruled("integer", "oldSelf.orValue(5) <= self", optionalOldSelf=True)

    assert check(schema, 6) == []
    assert len(check(schema, 4)) == 1
    assert len(check(schema, 6, 7)) == 1


def test_items_of_a_map_list_are_compared_by_their_keys() -> None:
    item = ruled("object", "self.v >= oldSelf.v", message="v must not fall")
    schema = {
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["n"],
        "items": item,
    }
    old = [{"n": "a", "v": 1}, {"n": "b", "v": 5}]

    problems = check(schema, [{"n": "b", "v": 4}, {"n": "a", "v": 1}, {"n": "c", "v": 0}], old)

    assert [str(problem.field) for problem in problems] == ["f[0]"]


def test_items_of_other_lists_cannot_be_compared() -> None:
    schema = {"type": "array", "items": ruled("string", "self == oldSelf")}

    assert check(schema, ["b"], ["a"]) == []


def test_rules_in_maps_are_found() -> None:
    schema = {"type": "object", "additionalProperties": ruled("string", "self != 'x'")}

    assert [str(p.field) for p in check(schema, {"a": "y", "b": "x"})] == ["f.b"]


@pytest.mark.parametrize(
    "rule",
    [
        r"self.matches('\\d')",
        r"self.matches('(?i)a')",
        r"self.matches('[[:alpha:]]')",
        r"self.matches('a') || true",
        r"self.a.matches('a')",
        r"self.matches('[')",
        "self.matches('ü')",
    ],
)
def test_what_the_two_engines_might_read_differently_is_left_to_cel(rule: str) -> None:
    assert simple_match(rule) is None


@pytest.mark.parametrize("text", ["", "a", "aa", "xay", "b", "a.b", "a\nb", "a\n", "ä", "-"])
@pytest.mark.parametrize(
    "pattern", ["a", "^a+$", r"^[a-z]+(\\.[a-z]{1,2})*$", "^$", "[^a]", "^(?:a|b)?$", "^.$"]
)
def test_the_short_cut_decides_as_cel_does(pattern: str, text: str) -> None:
    short_cut = simple_match(f"self.matches('{pattern}')")
    by_cel = check(ruled("string", f"self.matches('{pattern}') && true"), text)

    assert short_cut is not None
    assert short_cut(text) == (by_cel == [])
