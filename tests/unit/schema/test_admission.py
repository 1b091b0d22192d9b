"""Admission as the API server calls it, and the golden pairs of tests/golden/schema."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apirule import manifest, schema
from apirule.apis import scheme
from apirule.apis.gateway import v2
from apirule.apis.meta import GroupVersionKind, Object

GOLDEN = Path(__file__).parents[2] / "golden" / "schema"
INPUTS = sorted(GOLDEN.glob("*.in.yaml"))
KINDS = {
    kind.gvk: kind
    for kind in [
        *schema.builtin_kinds(),
        *(kind for crd in schema.bundled_crds() for kind in schema.from_crd(crd)),
    ]
}
NOT_CHECKED = (
    "<nil>: Invalid value: null: some validation rules were not checked because the object was "
    "invalid; correct the existing errors to complete validation"
)


def admit(obj: Object, old: Object | None = None) -> schema.Admission:
    return schema.admit(obj, KINDS[GroupVersionKind.of(obj)], old=old)


def api_rule(spec: Any, **more: Any) -> Object:
    return {
        "apiVersion": "gateway.kyma-project.io/v2",
        "kind": "APIRule",
        "metadata": {"name": "a"},
        "spec": spec,
        **more,
    }


@pytest.mark.parametrize("case", INPUTS, ids=lambda path: path.name.removesuffix(".in.yaml"))
def test_golden(case: Path, pytestconfig: pytest.Config) -> None:
    expected = case.with_name(case.name.replace(".in.", ".out."))

    actual = _told(case.read_text())

    if pytestconfig.getoption("--update-golden"):
        expected.write_text(actual)
    assert actual == expected.read_text()


def test_there_are_golden_pairs() -> None:
    assert len(INPUTS) >= 4
    assert {path.name.replace(".in.", ".out.") for path in INPUTS} == {
        path.name for path in GOLDEN.glob("*.out.yaml")
    }


def _told(text: str) -> str:
    """Each object as it would be stored, and what is said of it."""
    loaded = manifest.load(text)
    assert loaded.findings == ()
    told = []
    for obj in loaded.objects:
        admission = admit(obj)
        told.append(
            {
                "unknownFields": admission.unknown_fields,
                "problems": [
                    {
                        "field": str(problem.field),
                        "reason": str(problem.reason),
                        "message": problem.message,
                        "fix": problem.fix,
                    }
                    for problem in admission.problems
                ],
                "object": admission.object,
            }
        )
    return manifest.dump(told)


def test_rules_are_not_asked_about_an_object_of_another_shape() -> None:
    spec = {"hosts": ["Bad_"], "rules": [{"path": "/*", "methods": ["GETT"], "noAuth": True}]}

    assert [str(problem) for problem in admit(api_rule(spec)).problems] == [
        (
            'spec.rules[0].methods[0]: Unsupported value: "GETT": supported values: "GET", "HEAD", '
            '"POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"'
        ),
        NOT_CHECKED,
    ]


def test_rules_are_asked_when_only_a_value_is_wrong() -> None:
    spec = {"hosts": ["Bad_"], "rules": [{"path": "bad path", "methods": ["GET"], "noAuth": True}]}

    fields = [str(problem.field) for problem in admit(api_rule(spec)).problems]

    assert fields == ["spec.rules[0].path", "spec.hosts[0]"]


def test_status_is_pruned_and_validated_like_spec() -> None:
    spec = {"hosts": ["a"], "rules": [{"path": "/*", "methods": ["GET"], "noAuth": True}]}

    admission = admit(api_rule(spec, status={"state": "Nope", "bogus": 1}))

    assert admission.unknown_fields == ["status.bogus"]
    assert [str(problem) for problem in admission.problems] == [
        (
            'status.state: Unsupported value: "Nope": supported values: "Processing", "Deleting", '
            '"Ready", "Error", "Warning"'
        ),
        NOT_CHECKED,
    ]


def test_metadata_has_known_fields_of_known_types() -> None:
    obj = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "a", "lables": {}, "labels": {"n": 1}, "creationTimestamp": None},
    }

    admission = admit(obj)

    assert admission.unknown_fields == ["metadata.lables"]
    assert [str(problem) for problem in admission.problems] == [
        (
            'metadata.labels.n: Invalid value: "integer": metadata.labels.n in body must be of '
            'type string: "integer"'
        )
    ]
    assert admission.object["metadata"] == {"name": "a", "labels": {"n": 1}}


def test_the_object_given_stays_as_it_was() -> None:
    obj = api_rule({"hosts": ["a"], "zap": {"x": 1}, "timeout": None, "rules": [{"path": 1}]})
    before = copy.deepcopy(obj)

    admit(obj)

    assert obj == before


def test_every_builtin_kind_accepts_an_object_with_nothing_but_what_it_requires() -> None:
    pod = {"containers": [{"name": "c", "image": "i"}]}
    labels = {"matchLabels": {"a": "b"}}
    template = {"metadata": {"labels": {"a": "b"}}, "spec": pod}
    required: dict[str, Object] = {
        "CustomResourceDefinition": schema.bundled_crds()[0],
        "Deployment": {"spec": {"selector": labels, "template": template}},
        "EndpointSlice": {"addressType": "IPv4", "endpoints": []},
        "Event": {"involvedObject": {}},
        "Pod": {"spec": pod},
        "ReplicaSet": {"spec": {"selector": labels, "template": template}},
        "Service": {"spec": {"ports": [{"port": 80}]}},
    }

    refused = {
        kind.kind: [str(problem) for problem in admission.problems]
        for kind in schema.builtin_kinds()
        if (
            admission := schema.admit(
                {"metadata": {"name": "a"}, **required.get(kind.kind, {})}, kind
            )
        ).problems
    }

    assert refused == {}


NUMBERS = st.integers(-1, 2**64) | st.floats() | st.sampled_from([1.0, 30.0, 80.0, 1e3, 3900.0])


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_the_numbers_of_an_admitted_rule_can_be_read(
    port: float, timeout: float, age: float, generation: float
) -> None:
    spec = {
        "hosts": ["shop.example.org"],
        "service": {"name": "shop", "port": port},
        "corsPolicy": {"maxAge": age},
        "rules": [{"path": "/a", "methods": ["GET"], "noAuth": True, "timeout": timeout}],
        "timeout": timeout,
    }

    admission = admit(api_rule(spec, status={"state": "Ready", "observedGeneration": generation}))

    assert admission.problems or scheme.decode(admission.object, v2.APIRule).spec.hosts


WORDS = st.sampled_from(
    [
        "hosts",
        "gateway",
        "service",
        "rules",
        "path",
        "methods",
        "jwt",
        "authentications",
        "noAuth",
        "timeout",
        "name",
        "port",
    ]
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("a/b"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=20,
)


@given(spec=ANYTHING, old=ANYTHING)
def test_nothing_a_client_sends_makes_admission_fail(spec: Any, old: Any) -> None:
    admission = admit(api_rule(spec), api_rule(old))

    assert all(problem.message for problem in admission.problems)


@given(spec=ANYTHING)
def test_what_was_admitted_is_admitted_again_as_it_is(spec: Any) -> None:
    first = admit(api_rule(spec))

    again = admit(first.object)

    assert repr(again.object) == repr(first.object)
    assert again.unknown_fields == []


def test_empty_lists_and_maps_of_a_built_in_kind_are_left_out_as_go_does() -> None:
    container = {"name": "c", "image": "i", "env": [], "args": [], "resources": {"limits": {}}}
    pod = {"containers": [container], "initContainers": [], "nodeSelector": {}, "affinity": {}}
    obj = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a", "labels": {}, "annotations": {"b": ""}, "finalizers": []},
        "spec": pod,
    }
    piece = {"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": {}}

    stored = admit(obj).object
    required = admit({**piece, "addressType": "IPv4", "endpoints": [], "ports": []}).object

    assert stored["metadata"] == {"name": "a", "annotations": {"b": ""}}
    # Of a type of its own, which Go keeps.
    assert stored["spec"]["affinity"] == {}
    assert "nodeSelector" not in stored["spec"]
    assert "initContainers" not in stored["spec"]
    (kept,) = stored["spec"]["containers"]
    assert kept["resources"] == {}
    assert not {"env", "args"} & kept.keys()
    assert "ports" not in required
    assert required["endpoints"] == []


def test_custom_resources_keep_what_is_empty() -> None:
    spec = {"hosts": ["a"], "rules": []}

    assert admit(api_rule(spec)).object["spec"]["rules"] == []
