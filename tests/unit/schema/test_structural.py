"""Structural schemas on small schemas of their own: prune, default, validate."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest

from apirule.problem import Reason
from apirule.schema import StructuralSchema, messages

STRING = {"type": "string"}


def schema_of(**properties: Any) -> StructuralSchema:
    return StructuralSchema({"type": "object", "properties": properties})


def messages_of(schema: StructuralSchema, obj: Any) -> list[str]:
    return [str(problem) for problem in schema.validate(obj)]


def test_unknown_fields_are_pruned_and_named_in_the_order_of_their_paths() -> None:
    rule = {"type": "object", "properties": {"path": STRING}}
    schema = schema_of(
        spec={"type": "object", "properties": {"rules": {"type": "array", "items": rule}}}
    )
    rules = [{"path": "/", "zap": 1, "b": 2}, {}, {"zap": 1}, *([{}] * 7), {"zap": 1}]

    pruned, unknown = schema.prune({"spec": {"rules": rules, "bogus": {"deep": 1}}, "extra": 1})

    assert pruned["spec"] == {"rules": [{"path": "/"}, *([{}] * 10)]}
    assert unknown == [
        *("extra", "spec.bogus", "spec.rules[0].b", "spec.rules[0].zap"),
        # As text, not as numbers: so does a real server.
        *("spec.rules[10].zap", "spec.rules[2].zap"),
    ]


def test_what_every_object_has_is_kept_at_the_root_only() -> None:
    schema = schema_of(spec={"type": "object", "properties": {}})
    obj = {"apiVersion": "v1", "kind": "K", "metadata": {}, "spec": {"kind": "K"}}

    pruned, unknown = schema.prune(obj)

    assert pruned == {"apiVersion": "v1", "kind": "K", "metadata": {}, "spec": {}}
    assert unknown == ["spec.kind"]


def test_an_embedded_resource_keeps_type_and_metadata() -> None:
    embedded = {"type": "object", "x-kubernetes-embedded-resource": True, "properties": {}}
    obj = {"template": {"apiVersion": "v1", "kind": "K", "metadata": {"a": 1}, "b": 1}}

    pruned, unknown = schema_of(template=embedded).prune(obj)

    assert pruned == {"template": {"apiVersion": "v1", "kind": "K", "metadata": {"a": 1}}}
    assert unknown == ["template.b"]


def test_a_preserving_object_keeps_what_it_does_not_know_and_prunes_what_it_does() -> None:
    known = {"type": "object", "properties": {"a": STRING}}
    spec = {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
        "properties": {"known": known},
    }
    obj = {"spec": {"known": {"a": "1", "b": 2}, "other": {"c": 3}}}

    pruned, unknown = schema_of(spec=spec).prune(obj)

    assert pruned == {"spec": {"known": {"a": "1"}, "other": {"c": 3}}}
    assert unknown == ["spec.known.b"]


def test_defaults_are_filled_in_at_every_depth_and_never_shared() -> None:
    inner = {"type": "object", "properties": {"x": {"type": "integer", "default": 1}}}
    schema = schema_of(a={**inner, "default": {}}, tags={"type": "array", "default": ["t"]})

    first = schema.default({})
    first["tags"].append("changed")
    second = schema.default({})

    assert second == {"a": {"x": 1}, "tags": ["t"]}


@pytest.mark.parametrize(
    ("child", "given", "wanted"),
    [
        pytest.param(STRING, {"f": None}, {}, id="without a default it counts as absent"),
        pytest.param({**STRING, "default": "d"}, {"f": None}, {"f": "d"}, id="a default takes it"),
        pytest.param({**STRING, "nullable": True}, {"f": None}, {"f": None}, id="nullable stays"),
        pytest.param(
            {"type": "object", "additionalProperties": STRING},
            {"f": {"a": None, "b": "x"}},
            {"f": {"b": "x"}},
            id="in a map it is dropped too",
        ),
    ],
)
def test_null(child: dict[str, Any], given: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert schema_of(f=child).default(given) == wanted


INTEGER: dict[str, Any] = {"type": "integer"}
INT_OR_STRING = {"x-kubernetes-int-or-string": True}


@pytest.mark.parametrize(
    ("child", "value", "wanted"),
    [
        (INTEGER, 30.0, "30"),
        (INTEGER, 1e3, "1000"),
        (INTEGER, -(2.0**63), "-9223372036854775808"),
        (INTEGER, 2.0**63, "9.223372036854776e18"),
        (INTEGER, 30.5, "30.5"),
        (INT_OR_STRING, 80.0, "80"),
        ({"type": "array", "items": INTEGER}, [1.0, 2.5], "[1,2.5]"),
        ({"type": "object", "additionalProperties": INTEGER}, {"a": 1.0}, '{"a":1}'),
        ({"type": "number"}, 30.0, "30.0"),
        (STRING, 30.0, "30.0"),
    ],
)
def test_a_whole_number_is_an_integer_where_one_is_due(
    child: dict[str, Any], value: Any, wanted: str
) -> None:
    complete = schema_of(f=child).default({"f": value})

    assert msgspec.json.encode(complete["f"]).decode() == wanted


def test_nothing_changes_the_object_given() -> None:
    schema = schema_of(
        a={"type": "object", "properties": {"b": {**STRING, "default": "x"}}},
        list={"type": "array", "items": {"type": "object", "properties": {"c": STRING}}},
    )
    obj = {"a": {"zap": 1, "b": None}, "list": [{"c": "1", "d": 2}], "e": 3}
    before = copy.deepcopy(obj)

    pruned, _ = schema.prune(obj)
    schema.default(pruned)
    schema.validate(obj)

    assert obj == before


@pytest.mark.parametrize(
    ("child", "value", "message", "reason"),
    [
        (
            {"type": "integer", "maximum": 65535},
            99999,
            "Invalid value: 99999: f in body should be less than or equal to 65535",
            Reason.INVALID,
        ),
        (
            {"type": "integer", "minimum": 1},
            0,
            "Invalid value: 0: f in body should be greater than or equal to 1",
            Reason.INVALID,
        ),
        (
            {"type": "number", "minimum": 0, "exclusiveMinimum": True},
            0,
            "Invalid value: 0: f in body should be greater than 0",
            Reason.INVALID,
        ),
        (
            {"type": "integer", "format": "int32"},
            2**31,
            "Invalid value: 2147483648: f in body should be less than or equal to 2.147483647e+09",
            Reason.INVALID,
        ),
        (
            {"type": "integer"},
            "ten",
            'Invalid value: "string": f in body must be of type integer: "string"',
            Reason.TYPE_INVALID,
        ),
        (
            {"type": "integer"},
            1.5,
            'Invalid value: "number": f in body must be of type integer: "number"',
            Reason.TYPE_INVALID,
        ),
        (
            STRING,
            True,
            'Invalid value: "boolean": f in body must be of type string: "boolean"',
            Reason.TYPE_INVALID,
        ),
        (
            {**STRING, "enum": ["GET", "PUT"]},
            "GETT",
            'Unsupported value: "GETT": supported values: "GET", "PUT"',
            Reason.NOT_SUPPORTED,
        ),
        (
            {**STRING, "pattern": "^[a-z]+$"},
            "a\n",
            "Invalid value: \"a\\n\": f in body should match '^[a-z]+$'",
            Reason.INVALID,
        ),
        (
            {**STRING, "maxLength": 3},
            "abcd",
            "Too long: may not be more than 3 bytes",
            Reason.TOO_LONG,
        ),
        (
            {**STRING, "minLength": 1},
            "",
            'Invalid value: "": f in body should be at least 1 chars long',
            Reason.INVALID,
        ),
        (
            {"type": "array", "items": STRING, "minItems": 1},
            [],
            "Invalid value: 0: f in body should have at least 1 items",
            Reason.INVALID,
        ),
        (
            {"type": "array", "items": STRING, "maxItems": 1},
            ["a", "b"],
            "Too many: 2: must have at most 1 item",
            Reason.TOO_MANY,
        ),
        (
            {**STRING, "format": "date-time"},
            "yesterday",
            'Invalid value: "yesterday": f in body must be of type date-time: "yesterday"',
            Reason.TYPE_INVALID,
        ),
        (
            {"x-kubernetes-int-or-string": True},
            [],
            'Invalid value: "array": f in body must be of type integer,string: "array"',
            Reason.TYPE_INVALID,
        ),
        (
            {"type": "integer", "anyOf": [{"minimum": 10}, {"maximum": 1}]},
            5,
            "Invalid value: 5: f in body must validate at least one schema (anyOf)",
            Reason.INVALID,
        ),
    ],
)
def test_a_problem_is_told_in_the_words_of_kubernetes(
    child: dict[str, Any], value: object, message: str, reason: Reason
) -> None:
    (problem,) = schema_of(f=child).validate({"f": value})

    assert problem.message == message
    assert problem.reason is reason
    assert str(problem.field) == "f"


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        ("duration", ["1h30m", "0", "-2.5s", "100ms"], ["PT1H", "1", "1 h", "h", "1h\n"]),
        (
            "date-time",
            ["2026-01-31T12:00:00Z", "2026-01-31t12:00:00.123456789+01:00"],
            ["2026-01-31", "2026-13-01T00:00:00Z", "2026-01-31 12:00:00Z"],
        ),
        ("byte", ["", "aGk=", "aGk=\n"], ["a", "%%%%"]),
        ("ipv4", ["10.0.0.1"], ["10.0.0", "::1"]),
        ("cidr", ["10.0.0.0/8"], ["10.0.0.1", "x/8"]),
        ("uuid", ["123e4567-e89b-12d3-a456-426614174000"], ["1"]),
        ("hostname", ["a.b"], ["a_b", "-a", "a" * 64]),
        ("made-up", ["anything"], []),
    ],
)
def test_formats_are_those_of_kubernetes(form: str, good: list[str], bad: list[str]) -> None:
    schema = schema_of(f={**STRING, "format": form})

    accepted = [text for text in (*good, *bad) if not schema.validate({"f": text})]

    assert accepted == good


def test_all_problems_come_at_once_in_schema_order() -> None:
    schema = StructuralSchema(
        {
            "type": "object",
            "required": ["z", "missing"],
            "properties": {
                "z": {"type": "integer"},
                "list": {"type": "array", "items": {"type": "object", "required": ["n"]}},
                "missing": {"type": "string", "description": "The name. And more."},
                "a": STRING,
            },
        }
    )

    problems = schema.validate({"a": 1, "list": [{"n": 1}, {}], "z": "x"})

    assert [str(problem.field) for problem in problems] == ["z", "list[1].n", "missing", "a"]
    assert problems[2].fix == "Add missing. The name."


def test_a_null_in_a_list_is_of_the_wrong_type() -> None:
    schema = schema_of(f={"type": "array", "items": {**STRING, "enum": ["a"]}})

    assert messages_of(schema, {"f": [None]}) == [
        'f[0]: Invalid value: "null": f[0] in body must be of type string: "null"'
    ]


def test_items_of_a_map_list_must_differ_in_their_keys() -> None:
    item = {"type": "object", "properties": {"name": STRING, "value": STRING}}
    schema = schema_of(
        f={
            "type": "array",
            "items": item,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        },
        s={"type": "array", "items": STRING, "x-kubernetes-list-type": "set"},
    )

    found = messages_of(
        schema, {"f": [{"name": "a"}, {"name": "b"}, {"name": "a", "value": "2"}], "s": ["x", "x"]}
    )

    assert found == [
        'f[2]: Duplicate value: {"name":"a"}',
        's[1]: Duplicate value: "x"',
    ]


@pytest.mark.parametrize(
    "obj", [{"f": float("nan")}, {"f": {"a": object()}}], ids=["not a number", "no JSON"]
)
def test_a_value_that_is_no_json_is_refused(obj: dict[str, Any]) -> None:
    assert schema_of(f=STRING).validate(obj)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1, "1"),
        (65535, "65535"),
        (0, "0"),
        (0.5, "0.5"),
        (999999, "999999"),
        (1000000, "1e+06"),
        (2**31 - 1, "2.147483647e+09"),
        (-(2**31), "-2.147483648e+09"),
        (0.00001, "1e-05"),
        (0.0001, "0.0001"),
    ],
)
def test_limits_are_printed_as_go_prints_them(number: float, text: str) -> None:
    assert messages.go_number(number) == text
