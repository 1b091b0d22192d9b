"""JSON patch, merge patch and strategic merge patch, value by value."""

from typing import Any

import pytest

from apirule.local.apiserver.errors import StatusError
from apirule.local.apiserver.patching import PatchError, apply_json_patch, merge
from apirule.local.apiserver.strategic import strategic_merge

PORTS = {
    "type": "array",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["port", "protocol"],
    "items": {
        "type": "object",
        "properties": {"port": {"type": "integer"}, "protocol": {"default": "TCP"}},
    },
}
SCHEMA = {
    "properties": {
        "ports": PORTS,
        "names": {"type": "array", "x-kubernetes-list-type": "set"},
        "plain": {"type": "array"},
        "map": {"type": "object", "additionalProperties": {"type": "string"}},
    }
}


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": 1, "b": 1}, {"a": None}, {"b": 1}),
        ({"a": {"b": 1, "c": 1}}, {"a": {"b": None}}, {"a": {"c": 1}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": 1}, {"a": {"b": None, "c": 1}}, {"a": {"c": 1}}),
        ({"a": 1}, [1], [1]),
    ],
)
def test_a_merge_patch_replaces_removes_and_descends(target: Any, patch: Any, result: Any) -> None:
    assert merge(target, patch) == result


@pytest.mark.parametrize(
    ("operation", "result"),
    [
        ({"op": "add", "path": "/c", "value": 1}, {"a": [1, 2], "b": {"x": 1}, "c": 1}),
        ({"op": "add", "path": "/a/0", "value": 0}, {"a": [0, 1, 2], "b": {"x": 1}}),
        ({"op": "add", "path": "/a/-", "value": 3}, {"a": [1, 2, 3], "b": {"x": 1}}),
        ({"op": "add", "path": "/b/p~1q~0", "value": 1}, {"a": [1, 2], "b": {"x": 1, "p/q~": 1}}),
        ({"op": "remove", "path": "/a/0"}, {"a": [2], "b": {"x": 1}}),
        ({"op": "replace", "path": "/b/x", "value": None}, {"a": [1, 2], "b": {"x": None}}),
        ({"op": "move", "from": "/b/x", "path": "/y"}, {"a": [1, 2], "b": {}, "y": 1}),
        ({"op": "copy", "from": "/a", "path": "/z"}, {"a": [1, 2], "b": {"x": 1}, "z": [1, 2]}),
        ({"op": "test", "path": "/b/x", "value": 1}, {"a": [1, 2], "b": {"x": 1}}),
        ({"op": "test", "path": "/none", "value": None}, {"a": [1, 2], "b": {"x": 1}}),
    ],
)
def test_a_json_patch_operation_does_what_the_rfc_says(operation: Any, result: Any) -> None:
    document = {"a": [1, 2], "b": {"x": 1}}

    assert apply_json_patch(document, [operation]) == result
    assert document == {"a": [1, 2], "b": {"x": 1}}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/none"},
        {"op": "replace", "path": "/none", "value": 1},
        {"op": "add", "path": "/none/x", "value": 1},
        {"op": "add", "path": "/a/9", "value": 1},
        {"op": "add", "path": "/a/01", "value": 1},
        {"op": "test", "path": "/b/x", "value": True},
        {"op": "add", "path": "/c"},
        {"op": "jump", "path": "/a"},
        {"op": "add", "path": "a", "value": 1},
        {"op": "move", "path": "/a"},
        "no operation",
    ],
)
def test_a_json_patch_that_does_not_fit_is_refused(operation: Any) -> None:
    with pytest.raises(PatchError):
        apply_json_patch({"a": [1, 2], "b": {"x": 1}}, [operation])


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        pytest.param(
            {"ports": [{"port": 1, "n": "a"}]},
            {"ports": [{"port": 2}]},
            {"ports": [{"port": 1, "n": "a"}, {"port": 2}]},
            id="an item with a new key is added",
        ),
        pytest.param(
            {"ports": [{"port": 1, "n": "a"}]},
            {"ports": [{"port": 1, "n": "b"}]},
            {"ports": [{"port": 1, "n": "b"}]},
            id="an item with a known key is merged",
        ),
        pytest.param(
            {"ports": [{"port": 1}, {"port": 2}]},
            {"ports": [{"port": 1, "$patch": "delete"}]},
            {"ports": [{"port": 2}]},
            id="an item is deleted",
        ),
        pytest.param(
            {"ports": [{"port": 1}, {"port": 2}]},
            {"ports": [{"$patch": "replace"}, {"port": 3}]},
            {"ports": [{"port": 3}]},
            id="the list is replaced",
        ),
        pytest.param(
            {"ports": [{"port": 1}, {"port": 2}]},
            {"$setElementOrder/ports": [{"port": 3}, {"port": 2}], "ports": [{"port": 3}]},
            {"ports": [{"port": 1}, {"port": 3}, {"port": 2}]},
            id="the order is set",
        ),
        pytest.param(
            {"names": ["a", "b"]},
            {"names": ["b", "c"], "$deleteFromPrimitiveList/names": ["a"]},
            {"names": ["b", "c"]},
            id="a set grows and shrinks",
        ),
        pytest.param({"plain": [1]}, {"plain": [2]}, {"plain": [2]}, id="a list is replaced"),
        pytest.param(
            {"map": {"a": "1", "b": "1"}},
            {"map": {"$retainKeys": ["a"], "a": "2"}},
            {"map": {"a": "2"}},
            id="only the retained keys stay",
        ),
        pytest.param(
            {"map": {"a": "1"}},
            {"map": {"$patch": "replace", "b": "1"}},
            {"map": {"b": "1"}},
            id="a map is replaced",
        ),
        pytest.param({"map": {"a": "1"}}, {"map": {"$patch": "delete"}}, {}, id="a map goes"),
        pytest.param({"map": {"a": "1"}}, {"map": None}, {}, id="null removes"),
    ],
)
def test_a_strategic_patch_knows_the_lists(target: Any, patch: Any, result: Any) -> None:
    assert strategic_merge(target, patch, SCHEMA) == result


@pytest.mark.parametrize("patch", [{"ports": [{"n": "a"}]}, {"$patch": "explode"}, []])
def test_a_strategic_patch_that_makes_no_sense_is_400(patch: Any) -> None:
    with pytest.raises(StatusError) as refused:
        strategic_merge({}, patch, SCHEMA)

    assert refused.value.code == 400
