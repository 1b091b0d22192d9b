"""managedFields after updates and applies: who owns what, and who must not touch it."""

from typing import Any

import pytest

from apirule.local.apiserver import ownership
from apirule.local.apiserver.errors import StatusError
from apirule.local.apiserver.fields import from_v1, path_text, to_v1
from apirule.local.apiserver.nodes import root_of

NODE = root_of(
    {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "properties": {
                    "size": {"type": "integer"},
                    "items": {
                        "type": "array",
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["name"],
                        "items": {"type": "object", "properties": {"name": {"type": "string"}}},
                    },
                    "tags": {"type": "array", "x-kubernetes-list-type": "set"},
                    "plain": {"type": "array"},
                },
            },
            "data": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    }
)


def writer(name: str, subresource: str = "", *, custom: bool = True) -> ownership.Writer:
    now = "2026-01-01T00:00:00Z"
    return ownership.Writer(name, "v1", subresource, now, NODE, custom)


def thing(**content: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "t"}, **content}


def apply(live: Any, applied: Any, by: str, *, force: bool = False) -> Any:
    return ownership.apply(live, applied, writer(by), force=force)


def owned(obj: Any) -> dict[tuple[str, str], Any]:
    entries = obj["metadata"].get("managedFields", ())
    return {(e["manager"], e["operation"]): e["fieldsV1"] for e in entries}


def test_an_update_owns_what_it_wrote_with_its_containers() -> None:
    obj = thing(spec={"size": 1, "items": [{"name": "a"}]})

    ownership.track_update(None, obj, writer("me"))

    assert owned(obj) == {
        ("me", "Update"): {
            "f:spec": {
                ".": {},
                "f:size": {},
                "f:items": {".": {}, 'k:{"name":"a"}': {".": {}, "f:name": {}}},
            }
        }
    }


def test_kinds_of_kubernetes_itself_always_have_a_spec() -> None:
    obj = thing(spec={"size": 1})

    ownership.track_update(None, obj, writer("me", custom=False))

    assert owned(obj) == {("me", "Update"): {"f:spec": {"f:size": {}}}}


def test_an_update_takes_only_what_it_changes() -> None:
    old = thing(data={"a": "1", "b": "1"})
    ownership.track_update(None, old, writer("one"))
    new = {**old, "metadata": dict(old["metadata"]), "data": {"a": "2", "b": "1", "c": "1"}}

    ownership.track_update(old, new, writer("two"))

    assert owned(new) == {
        ("one", "Update"): {"f:data": {".": {}, "f:b": {}}},
        ("two", "Update"): {"f:data": {"f:a": {}, "f:c": {}}},
    }


def test_what_is_removed_is_owned_by_nobody() -> None:
    old = thing(data={"a": "1"})
    ownership.track_update(None, old, writer("one"))
    new = {**old, "metadata": dict(old["metadata"])}
    del new["data"]

    ownership.track_update(old, new, writer("two"))

    assert "managedFields" not in new["metadata"]


def test_an_apply_removes_what_it_no_longer_says() -> None:
    live = apply(None, thing(data={"a": "1", "b": "1"}), "me")

    after = apply(live, thing(data={"a": "1"}), "me")

    assert after["data"] == {"a": "1"}
    assert owned(after) == {("me", "Apply"): {"f:data": {"f:a": {}}}}


def test_what_another_owns_too_stays() -> None:
    live = apply(None, thing(data={"a": "1", "b": "1"}), "me")
    live = apply(live, thing(data={"b": "1"}), "you")

    after = apply(live, thing(data={"a": "1"}), "me")

    assert after["data"] == {"a": "1", "b": "1"}


def test_the_last_word_of_a_map_takes_the_map_with_it() -> None:
    live = apply(None, thing(spec={"size": 1}, data={"a": "1"}), "me")

    after = apply(live, thing(spec={"size": 1}), "me")

    assert "data" not in after


def test_an_item_of_a_keyed_list_goes_alone() -> None:
    items = [{"name": "a", "x": 1}, {"name": "b"}]
    live = apply(None, thing(spec={"items": items}), "me")
    live = apply(live, thing(spec={"items": [{"name": "c"}]}), "you")

    after = apply(live, thing(spec={"items": [{"name": "b"}]}), "me")

    assert [item["name"] for item in after["spec"]["items"]] == ["b", "c"]


def test_members_of_a_set_have_owners_of_their_own() -> None:
    live = apply(None, thing(spec={"tags": ["x", "y"]}), "me")
    live = apply(live, thing(spec={"tags": ["y", "z"]}), "you")

    after = apply(live, thing(spec={"tags": ["x"]}), "me")

    assert after["spec"]["tags"] == ["x", "y", "z"]


def test_labels_go_with_the_apply_that_set_them() -> None:
    first = thing(data={"a": "1"})
    first["metadata"]["labels"] = {"l": "1"}
    live = apply(None, first, "me")

    after = apply(live, thing(data={"a": "1"}), "me")

    assert "labels" not in after["metadata"]
    assert after["metadata"]["name"] == "t"


def test_a_conflict_names_every_owner_and_field() -> None:
    live = apply(None, thing(data={"a": "1"}, spec={"size": 1}), "one")
    live = apply(live, thing(data={"a": "1"}), "two")

    with pytest.raises(StatusError) as refused:
        apply(live, thing(data={"a": "9"}, spec={"size": 9}), "three")

    assert refused.value.code == 409
    assert refused.value.message == (
        'Apply failed with 3 conflicts: conflicts with "one":\n- .data.a\n- .spec.size\n'
        'conflicts with "two":\n- .data.a'
    )


def test_force_takes_the_fields_over() -> None:
    live = apply(None, thing(data={"a": "1"}), "one")

    after = apply(live, thing(data={"a": "9"}), "two", force=True)

    assert after["data"] == {"a": "9"}
    assert owned(after) == {("two", "Apply"): {"f:data": {"f:a": {}}}}


def test_lists_without_a_key_are_owned_as_a_whole() -> None:
    live = apply(None, thing(spec={"plain": [1, 2]}), "one")

    with pytest.raises(StatusError):
        apply(live, thing(spec={"plain": [1]}), "two")


def test_an_apply_that_changes_nothing_gives_the_same_object() -> None:
    live = apply(None, thing(data={"a": "1"}), "me")

    later = ownership.Writer("me", "v1", "", "2027-01-01T00:00:00Z", NODE, custom=True)

    assert ownership.apply(live, thing(data={"a": "1"}), later, force=False) == live


def test_leaving_managed_fields_out_does_not_delete_them_but_the_reset_form_does() -> None:
    old = thing(data={"a": "1"})
    ownership.track_update(None, old, writer("one"))
    forgetful = thing(data={"a": "1"})
    reset = thing(data={"a": "1"})
    reset["metadata"]["managedFields"] = [{}]

    ownership.track_update(old, forgetful, writer("two"))
    ownership.track_update(old, reset, writer("two"))

    assert owned(forgetful) == owned(old)
    assert owned(reset) == {}


def test_many_updaters_are_folded_into_one_entry() -> None:
    obj = thing(data={})
    for number in range(15):
        new = {**obj, "metadata": dict(obj["metadata"]), "data": {**obj["data"], f"k{number}": "1"}}
        ownership.track_update(obj, new, writer(f"m{number:02}"))
        obj = new

    updaters = [manager for manager, _ in owned(obj)]
    assert len(updaters) == ownership.MAX_UPDATERS
    assert "ancient-changes" in updaters


def test_fields_are_read_back_as_they_were_written() -> None:
    written: dict[str, Any] = {
        "f:a": {".": {}, 'k:{"n":"x"}': {".": {}, "f:y": {}}, 'v:"s"': {}},
        "f:b": {},
    }

    assert to_v1(from_v1(written)) == written


@pytest.mark.parametrize("fields", [[], {"a": {}}, {"f:a": 1}])
def test_fields_that_are_none_are_refused(fields: Any) -> None:
    with pytest.raises(ValueError, match="fieldsV1"):
        from_v1(fields)


def test_a_path_reads_as_in_messages() -> None:
    path = ("f:spec", "f:ports", 'k:{"port":80,"protocol":"TCP"}', "f:name")

    assert path_text(path) == '.spec.ports[port=80,protocol="TCP"].name'


def test_an_item_without_its_key_cannot_be_applied() -> None:
    with pytest.raises(StatusError, match='omits key field "name"'):
        apply(None, thing(spec={"items": [{"x": 1}]}), "me")


def test_an_item_without_its_key_can_be_updated() -> None:
    obj = thing(spec={"items": [{"x": 1}]})

    ownership.track_update(None, obj, writer("me"))

    assert "i:0" in owned(obj)["me", "Update"]["f:spec"]["f:items"]
