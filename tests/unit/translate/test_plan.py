"""What is written, and in which order."""

import copy
from collections.abc import Iterable
from typing import Any

import pytest
from tests.unit.translate.build import IDP, JWT, apirule, facts, rule, workload

from apirule.apis import core, scheme
from apirule.apis.gateway import v2
from apirule.apis.meta import Object, ObjectRef, Resource
from apirule.apis.security import DRY_RUN
from apirule.names import ObjectName
from apirule.ownership import HASH, INDEX, LEGACY_OWNER, OWNER_NAME, OWNER_NAMESPACE, selectors
from apirule.translate import translate
from apirule.translate.plan import (
    Change,
    Create,
    Delete,
    Plan,
    Update,
    farewell,
    owned,
    plan,
    removal,
)

OWNER = ObjectName("web", "shop")


def resources(rule_: v2.APIRule, *more: Resource) -> tuple[Resource, ...]:
    outcome = translate(rule_, facts(*more))
    assert outcome.resources is not None, outcome.problems
    return outcome.resources


def stored(desired: tuple[Resource, ...]) -> list[Object]:
    """Return objects as an API server hands them back."""
    return [
        {
            **(obj := scheme.encode(resource)),
            "metadata": {**obj["metadata"], "resourceVersion": "7", "uid": f"u{index}"},
        }
        for index, resource in enumerate(desired)
    ]


def as_peer(objects: list[Object]) -> list[Object]:
    """Rename objects as the Kyma operator would have, and let it write what it does not write."""
    renamed = copy.deepcopy(objects)
    for index, obj in enumerate(renamed):
        obj["metadata"]["name"] = f"shop-{'abcdefgh'[index] * 5}"
        for jwt_rule in obj["spec"].get("jwtRules", ()):
            del jwt_rule["spaceDelimitedClaims"], jwt_rule["fromHeaders"]
    return renamed


def writes(steps: Plan) -> tuple[Change, ...]:
    return steps.guards + steps.routes


def whole_way(desired: tuple[Resource, ...], actual: list[Object]) -> list[Change]:
    """Return all changes until nothing is left to do, with every step in force at once."""
    done: list[Change] = []
    objects = {ObjectRef.of(obj): obj for obj in actual}
    while True:
        steps = plan(desired, objects.values())
        changes = writes(steps) or farewell(steps.leaving)
        if not changes:
            return done
        for change in changes:
            if isinstance(change, Delete):
                del objects[change.ref]
            else:
                objects[change.ref] = change.object
        done += changes


def shown(changes: Iterable[Change]) -> list[tuple[str, str]]:
    return [(type(change).__name__, change.ref.kind) for change in changes]


def test_guards_are_created_before_the_route() -> None:
    desired = resources(apirule(rule(jwt=JWT)))

    assert shown(writes(plan(desired, []))) == [
        ("Create", "RequestAuthentication"),
        ("Create", "AuthorizationPolicy"),
        ("Create", "VirtualService"),
    ]


def test_the_route_is_deleted_before_its_guards() -> None:
    actual = stored(resources(apirule(rule(jwt=JWT))))

    assert shown(removal(actual)) == [
        ("Delete", "VirtualService"),
        ("Delete", "AuthorizationPolicy"),
        ("Delete", "RequestAuthentication"),
    ]


def test_nothing_is_written_when_nothing_differs() -> None:
    desired = resources(apirule(rule(jwt=JWT), rule("/*")))

    assert plan(desired, stored(desired)) == Plan()


def test_a_replacement_exists_before_the_old_object_goes() -> None:
    before = resources(apirule(rule("/a", jwt=JWT)))
    after = resources(apirule(rule("/b", jwt=JWT)))

    changes = whole_way(after, stored(before))

    assert shown(changes) == [
        ("Create", "AuthorizationPolicy"),
        ("Update", "VirtualService"),
        ("Update", "AuthorizationPolicy"),
        ("Delete", "AuthorizationPolicy"),
    ]


def test_a_policy_lets_nobody_in_any_more_before_it_goes() -> None:
    two = {**JWT, "authorizations": [{"audiences": ["a"]}, {"audiences": ["b"]}]}
    before = resources(apirule(rule(jwt=two)))
    after = resources(apirule(rule(jwt={**JWT, "authorizations": [{"audiences": ["a"]}]})))

    emptied, deleted = whole_way(after, stored(before))

    assert isinstance(emptied, Update)
    assert "rules" not in emptied.object["spec"]
    assert emptied.object["spec"]["selector"] == {"matchLabels": {"app": "shop", "tier": "front"}}
    assert isinstance(deleted, Delete)
    assert deleted.ref == emptied.ref


def test_another_audience_changes_the_policy_in_place() -> None:
    before = resources(apirule(rule(jwt={**JWT, "authorizations": [{"audiences": ["a"]}]})))
    after = resources(apirule(rule(jwt={**JWT, "authorizations": [{"audiences": ["b"]}]})))

    (change,) = writes(plan(after, stored(before)))

    assert isinstance(change, Update)
    assert change.object["spec"]["rules"][0]["when"][0]["values"] == ["b"]
    assert change.object["metadata"]["resourceVersion"] == "7"


def test_a_path_that_turns_from_open_to_guarded_is_never_open_and_guarded_at_once() -> None:
    before = resources(apirule(rule()))
    after = resources(apirule(rule(jwt=JWT)))

    changes = whole_way(after, stored(before))

    assert shown(changes) == [
        ("Create", "RequestAuthentication"),
        ("Update", "AuthorizationPolicy"),
    ]


def test_guards_move_with_the_service() -> None:
    moved = {"name": "shop", "namespace": "depot", "port": 80}
    before = resources(apirule(rule(jwt=JWT)))
    after = resources(apirule(rule(jwt=JWT), service=moved), *workload(namespace="depot"))

    changes = whole_way(after, stored(before))

    assert [(type(c).__name__, c.ref.kind, c.ref.namespace) for c in changes] == [
        ("Create", "RequestAuthentication", "depot"),
        ("Create", "AuthorizationPolicy", "depot"),
        ("Update", "VirtualService", "web"),
        ("Update", "AuthorizationPolicy", "web"),
        ("Delete", "AuthorizationPolicy", "web"),
        ("Delete", "RequestAuthentication", "web"),
    ]


def test_objects_of_the_kyma_operator_are_taken_over_in_place() -> None:
    desired = resources(apirule(rule(jwt=JWT), rule("/*")))
    actual = as_peer(stored(desired))

    changes = whole_way(desired, actual)

    # What it writes differently is set right; nothing is created or deleted.
    assert shown(changes) == [("Update", "RequestAuthentication")]
    assert changes[0].ref.name == "shop-aaaaa"


def test_a_policy_with_the_old_form_of_the_hash_is_taken_over() -> None:
    desired = resources(apirule())
    actual = as_peer(stored(desired))
    labels = actual[0]["metadata"]["labels"]
    labels[HASH] = ".".join(["web", *labels[HASH].split(".")[1:]])

    (change,) = whole_way(desired, actual)

    assert isinstance(change, Update)
    assert (
        change.object["metadata"]["labels"][HASH]
        == scheme.encode(desired[0])["metadata"]["labels"][HASH]
    )


@pytest.mark.parametrize(
    ("label", "value"), [(HASH, "a.b"), (HASH, None), (INDEX, None), (INDEX, "x")]
)
def test_a_policy_whose_labels_make_no_sense_is_replaced(label: str, value: str | None) -> None:
    desired = resources(apirule())
    actual = as_peer(stored(desired))
    actual[0]["metadata"]["labels"].pop(label)
    if value is not None:
        actual[0]["metadata"]["labels"][label] = value

    changes = whole_way(desired, actual)

    assert shown(changes) == [
        ("Create", "AuthorizationPolicy"),
        ("Update", "AuthorizationPolicy"),
        ("Delete", "AuthorizationPolicy"),
    ]


def test_a_policy_is_not_looked_for_in_another_namespace() -> None:
    # There its selector would find other Pods, whatever its labels say.
    desired = resources(apirule())
    actual = as_peer(stored(desired))
    actual[0]["metadata"]["namespace"] = "elsewhere"

    changes = whole_way(desired, actual)

    assert shown(changes) == [
        ("Create", "AuthorizationPolicy"),
        ("Update", "AuthorizationPolicy"),
        ("Delete", "AuthorizationPolicy"),
    ]


def test_what_a_hand_has_added_is_taken_out() -> None:
    desired = resources(apirule())
    actual = stored(desired)
    actual[0]["spec"]["rules"][0]["from"][0]["source"]["remoteIpBlocks"] = ["0.0.0.0/0"]

    (change,) = whole_way(desired, actual)

    assert isinstance(change, Update)
    assert change.object["spec"] == scheme.encode(desired[0])["spec"]


def test_labels_and_annotations_of_others_stay() -> None:
    desired = resources(apirule())
    actual = stored(desired)
    actual[0]["metadata"] |= {"annotations": {"a": "b"}}
    actual[0]["metadata"]["labels"] |= {"team": "blue", OWNER_NAME: "other"}

    (change,) = whole_way(desired, actual)

    assert isinstance(change, Update)
    assert change.object["metadata"]["annotations"] == {"a": "b"}
    assert change.object["metadata"]["labels"]["team"] == "blue"
    assert change.object["metadata"]["labels"][OWNER_NAME] == "shop"


def test_an_object_of_our_name_is_ours_even_when_its_content_was_changed() -> None:
    # Otherwise it would be created again, under a name that is taken.
    desired = resources(apirule(rule(jwt=JWT)))
    actual = stored(desired)
    actual[0]["spec"]["jwtRules"][0]["issuer"] = "https://evil.example.org"
    actual[1]["metadata"]["labels"].pop(HASH)

    assert shown(whole_way(desired, actual)) == [
        ("Update", "RequestAuthentication"),
        ("Update", "AuthorizationPolicy"),
    ]


def test_two_policies_with_their_labels_exchanged_both_come_right() -> None:
    desired = resources(apirule(rule("/a"), rule("/b")))
    actual = stored(desired)
    first, second = (obj["metadata"]["labels"] for obj in actual[:2])
    first[HASH], second[HASH] = second[HASH], first[HASH]

    assert shown(whole_way(desired, actual)) == [("Update", "AuthorizationPolicy")] * 2


def test_of_several_virtual_services_one_is_ours_and_the_others_are_left_alone() -> None:
    desired = resources(apirule())
    actual = stored(desired)
    extra = {**actual[-1], "metadata": {**actual[-1]["metadata"], "name": "shop-peer1"}}

    steps = plan(desired, [extra, *actual])

    assert steps == Plan(apart=(extra,))
    assert extra in [change.object for change in removal([extra, *actual])]


def test_of_several_guards_for_the_same_the_oldest_stays() -> None:
    desired = resources(apirule())
    guard, *others = as_peer(stored(desired))
    aged = [
        {**guard, "metadata": {**guard["metadata"], "name": name, "creationTimestamp": created}}
        for name, created in (("a", "2026-01-02T00:00:00Z"), ("b", "2026-01-01T00:00:00Z"))
    ]

    steps = plan(desired, [*aged, *others])

    assert [obj["metadata"]["name"] for obj in steps.leaving] == ["a"]


def test_an_annotation_that_would_switch_a_policy_off_is_taken_away() -> None:
    desired = resources(apirule())
    actual = stored(desired)
    actual[0]["metadata"]["annotations"] = {DRY_RUN: "true", "a": "b"}

    (change,) = whole_way(desired, actual)

    assert change.object["metadata"]["annotations"] == {"a": "b"}


def test_names_are_derived_and_tell_objects_apart() -> None:
    two = rule("/a", jwt={**JWT, "authorizations": [{"audiences": ["a"]}, {"audiences": ["b"]}]})
    other = rule("/b", jwt={"authentications": [{**IDP, "issuer": "https://b.example.org"}]})

    created = writes(plan(resources(apirule(two, other)), []))

    names = [change.ref for change in created]
    assert len(set(names)) == len(names) == 6
    assert all(isinstance(change, Create) for change in created)


def test_objects_are_owned_by_either_pair_of_labels_or_by_a_derived_name() -> None:
    desired = resources(apirule())
    current, bare = stored(desired)
    legacy = copy.deepcopy(current)
    legacy["metadata"] |= {"name": "old", "labels": {LEGACY_OWNER: "shop.web"}}
    foreign = copy.deepcopy(current)
    foreign["metadata"] |= {
        "name": "foreign",
        "labels": {OWNER_NAME: "shop", OWNER_NAMESPACE: "web", LEGACY_OWNER: "other.web"},
    }
    del bare["metadata"]["labels"]

    found = owned([current, legacy, foreign, bare], OWNER, desired)

    assert found == [current, legacy, bare]


def test_the_legacy_selector_is_left_out_where_it_cannot_be_a_label() -> None:
    assert len(selectors(OWNER)) == 2
    assert len(selectors(ObjectName("n" * 30, "m" * 40))) == 1


def ext_auth(**more: Any) -> Object:
    return rule(extAuth={"authorizers": ["gate"], **more})


@pytest.mark.parametrize("other", [{"jwt": JWT}, {"noAuth": True}], ids=["jwt", "noAuth"])
def test_an_authorizer_is_asked_before_a_path_opens_to_it_and_until_it_closes(
    other: dict[str, Any],
) -> None:
    asking, plain = resources(apirule(ext_auth()), mesh()), resources(apirule(rule(**other)))

    there = [policy_change(c) for c in whole_way(asking, stored(plain))]
    back = [policy_change(c) for c in whole_way(plain, stored(asking))]

    assert there[0] == ("Create", "CUSTOM")
    assert ("Delete", "CUSTOM") not in there
    assert back[-1] == ("Delete", "CUSTOM")
    assert ("Create", "CUSTOM") not in back
    assert not {("Update", "CUSTOM")} & {*there, *back}


def test_a_rule_that_asks_authorizers_leaves_them_for_last_when_it_goes() -> None:
    changes = removal(stored(resources(apirule(ext_auth()), mesh())))

    kinds = [policy_change(change) for change in changes]
    assert kinds == [
        ("Delete", "VirtualService"),
        ("Delete", "AuthorizationPolicy"),
        ("Delete", "CUSTOM"),
    ]


def policy_change(change: Any) -> tuple[str, str]:
    return type(change).__name__, change.object["spec"].get("action", change.ref.kind)


def mesh() -> Resource:
    text = "extensionProviders: [{name: gate, envoyExtAuthzHttp: {service: a/gate, port: 80}}]"
    obj = {"metadata": {"namespace": "istio-system", "name": "istio"}, "data": {"mesh": text}}
    return scheme.decode(obj, core.ConfigMap)
