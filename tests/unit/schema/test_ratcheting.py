"""What an update of a custom resource has to mend, and what may stay as it was."""

from typing import Any

import pytest

from apirule.problem import Reason
from apirule.schema import KindInfo, admit, from_crd

Object = dict[str, Any]

SPEC: Object = {
    "type": "object",
    "required": ["color"],
    "properties": {
        "color": {"type": "string", "enum": ["red"]},
        "size": {"type": "integer", "maximum": 9},
        "parts": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "size": {"type": "integer", "maximum": 9},
                },
            },
        },
        "words": {"type": "array", "items": {"type": "string", "maxLength": 3}},
        "either": {"type": "string", "oneOf": [{"maxLength": 1}, {"minLength": 9}]},
        "ruled": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "x-kubernetes-validations": [{"rule": "self.a < 3"}, {"rule": "self.b > oldSelf.b"}],
        },
    },
}


def kind(**more: Any) -> KindInfo:
    status = {"type": "object"}
    schema = {"type": "object", "properties": {"spec": SPEC, "status": status}, **more}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
    }
    names = {"plural": "things", "kind": "Thing"}
    spec = {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [version]}
    return from_crd({"spec": spec})[0]


def found(old: Object, new: Object) -> list[str]:
    """Return the fields that an update from one spec to the other is refused for."""

    def thing(spec: Object) -> Object:
        metadata = {"name": "one", "labels": {str(len(str(spec))): "x"}}
        spec = {"color": "red", **spec}
        return {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": metadata, "spec": spec}

    fields = [str(p.field) for p in admit(thing(new), kind(), old=thing(old)).problems]
    return [field for field in fields if field != "<nil>"]  # "some rules were not checked"


PART = {"name": "p", "size": 99}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param({"size": 99}, {"size": 99, "parts": []}, id="a value"),
        pytest.param({"color": "blue"}, {"color": "blue", "size": 1}, id="an enum"),
        pytest.param(
            {"parts": [PART]},
            {"parts": [{"name": "new"}, PART]},
            id="an entry of a keyed list that moved",
        ),
        pytest.param(
            {"words": ["long one"]}, {"words": ["long one"], "size": 1}, id="a whole list"
        ),
    ],
)
def test_what_was_invalid_may_stay_as_it_was(old: Object, new: Object) -> None:
    assert found(old, new) == []


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        pytest.param({"size": 99}, {"size": 98}, "spec.size", id="changed, and still invalid"),
        pytest.param({}, {"size": 99}, "spec.size", id="added"),
        pytest.param(
            {"parts": [PART]},
            {"parts": [{**PART, "size": 98}]},
            "spec.parts[0].size",
            id="changed in a keyed list",
        ),
        pytest.param(
            {"words": ["long one"]},
            {"words": ["long one", "b"]},
            "spec.words[0]",
            id="in a list whose items cannot be told apart",
        ),
        pytest.param({"either": "abc"}, {"either": "abc"}, "spec.either", id="under a oneOf"),
        pytest.param({"size": 1}, {"size": True}, "spec.size", id="equal to Python only"),
    ],
)
def test_what_changes_has_to_be_valid(old: Object, new: Object, field: str) -> None:
    assert found(old, new) == [field]


def test_a_rule_is_not_asked_about_what_stayed_unless_it_looks_back() -> None:
    ruled = {"ruled": {"a": 5, "b": 1}}

    problems = admit(
        {"spec": {"color": "red", **ruled, "size": 1}},
        kind(),
        old={"spec": {"color": "red", **ruled}},
    ).problems

    assert [problem.message for problem in problems] == [
        "Invalid value: failed rule: self.b > oldSelf.b"
    ]


def test_what_is_missing_is_missed_at_every_write() -> None:
    old: Object = {"spec": {"size": 1}}

    problem, *_ = admit({"spec": {"size": 1}}, kind(), old=old).problems

    assert problem.reason is Reason.REQUIRED


@pytest.mark.parametrize(
    ("old", "new", "fields"),
    [
        pytest.param({}, {"status": {}}, [], id="as before"),
        pytest.param({"spec": {"color": "red"}}, {}, ["spec"], id="taken away"),
        pytest.param({}, {"spec": {}}, ["spec.color"], id="given, and not complete"),
        pytest.param(None, {}, ["spec"], id="in a new object"),
    ],
)
def test_what_an_object_as_a_whole_lacks_may_be_missing_still(
    old: Object | None, new: Object, fields: list[str]
) -> None:
    problems = admit(new, kind(required=["spec"]), old=old).problems

    assert [str(p.field) for p in problems if str(p.field) != "<nil>"] == fields
