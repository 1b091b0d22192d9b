"""What the API server tells the writer of an APIRule at once."""

from typing import Any

import pytest
from tests.unit.translate.build import facts, rule, workload

from apirule.apis import scheme
from apirule.apis.gateway import v2
from apirule.validate import admission_warnings, validate


def obj(version: str = "v2", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"gateway.kyma-project.io/{version}",
        "kind": "APIRule",
        "metadata": {"name": "shop", "namespace": "web"},
        "spec": {
            "hosts": ["shop.example.org"],
            "gateway": "kyma-system/kyma-gateway",
            "service": {"name": "shop", "port": 80},
            "rules": [rule("/a/{**}/{**}")],
            **spec,
        },
    }


@pytest.mark.parametrize("version", ["v2", "v2alpha1"])
def test_the_writer_is_warned_without_knowing_the_cluster(version: str) -> None:
    (warning,) = admission_warnings(obj(version))

    assert warning == (
        "spec.rules[0].path: Only one {**} operator is allowed in the path. Keep the last {**} of"
        " /a/{**}/{**} and write {*} for the ones before it."
    )


@pytest.mark.parametrize(
    "other",
    [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}},
        obj("v1beta1"),
        obj(rules="none"),
        {},
    ],
)
def test_other_objects_and_those_without_shape_get_no_warnings(other: dict[str, Any]) -> None:
    assert admission_warnings(other) == []


def test_a_warning_is_one_line_of_bearable_length() -> None:
    warnings = admission_warnings(obj(hosts=["x" * 400 + "\n_"]))

    assert [w for w in warnings if len(w) > 256 or "\n" in w] == []
    assert len(warnings) == 2


def test_warnings_fit_into_an_answer_and_say_what_they_leave_out() -> None:
    rules = [rule(f"/ü{n}") for n in range(300)]

    *told, last = admission_warnings(obj(rules=rules))

    assert 10 < len(told) < 64
    assert sum(len(text.encode()) for text in (*told, last)) <= 4096
    assert last == f"{300 - len(told)} more; see the condition Accepted"


@pytest.mark.parametrize(
    "change",
    [
        {"status": {"state": "Error"}},
        {"metadata": {"name": "shop", "namespace": "web", "finalizers": ["f"]}},
        {"apiVersion": "gateway.kyma-project.io/v2alpha1"},
    ],
)
def test_a_write_that_leaves_the_spec_as_it_was_is_not_warned_of(change: dict[str, Any]) -> None:
    old = obj()

    assert admission_warnings({**old, **change}, old) == []
    assert admission_warnings(obj(timeout=5), old) == admission_warnings(old) != []


def test_what_the_cluster_lacks_is_told_if_it_is_known() -> None:
    wrong = obj(rules=[rule()], gateway="web/none", service={"name": "gone", "port": 80})

    known = admission_warnings(wrong, facts=facts)

    assert [text.partition(":")[0] for text in known] == ["spec.gateway", "spec.rules[0]"]
    assert admission_warnings(wrong) == []


def test_the_writer_may_be_about_to_start_the_workload() -> None:
    service, _ = workload("idle")
    given = obj(rules=[rule()], service={"name": "idle", "port": 80})

    assert admission_warnings(given, facts=lambda: facts(service)) == []
    (warning,) = validate(scheme.decode(given, v2.APIRule), facts(service))
    assert "selects no Pod" in warning.message


@pytest.mark.parametrize(("enabled", "warnings"), [(True, 1), (False, 0), (None, 0)])
def test_network_policies_are_said_to_have_no_effect(enabled: bool | None, warnings: int) -> None:
    obj = {
        "apiVersion": "operator.kyma-project.io/v1alpha1",
        "kind": "APIGateway",
        "metadata": {"name": "default"},
        "spec": {"networkPoliciesEnabled": enabled},
    }

    found = admission_warnings(obj)

    assert len(found) == warnings
    assert all(text.startswith("spec.networkPoliciesEnabled: It has no effect") for text in found)
