"""Conversion between the two names of one shape."""

import copy
from typing import Any

import pytest

from apirule.convert import ConversionError, convert, original_version, stamp

ANNOTATION = "gateway.kyma-project.io/original-version"


def apirule(version: str, original: str | None = None, **spec: Any) -> dict[str, Any]:
    annotations = {"keep": "me"} | ({ANNOTATION: original} if original else {})
    return {
        "apiVersion": f"gateway.kyma-project.io/{version}",
        "kind": "APIRule",
        "metadata": {"name": "shop", "namespace": "web", "annotations": annotations},
        "spec": {"hosts": ["a.b.c"], **spec},
        "status": {"state": "Ready"},
    }


RULES = [{"path": "/a", "methods": ["GET"], "noAuth": True}]


@pytest.mark.parametrize(
    ("original", "rules", "noted"),
    [
        (None, RULES, "v2"),
        (None, [], "v2"),
        ("v1beta1", RULES, "v2"),
        ("v1beta1", [], "v1beta1"),
        ("v2alpha1", RULES, "v2alpha1"),
    ],
)
def test_writing_a_v2_rule_notes_the_version_its_writer_used(
    original: str | None, rules: list[dict[str, Any]], noted: str
) -> None:
    written = stamp(apirule("v2", original, rules=rules))

    assert original_version(written) == noted
    assert written["metadata"]["annotations"]["keep"] == "me"


def test_a_v2alpha1_rule_is_noted_when_it_is_written() -> None:
    assert original_version(stamp(apirule("v2alpha1", rules=RULES))) == "v2alpha1"


def test_there_and_back_changes_nothing() -> None:
    before = apirule("v2", rules=RULES)

    assert convert(convert(before, "v2alpha1"), "v2") == before


def test_reading_a_stored_rule_changes_only_the_name_of_the_version() -> None:
    stored = apirule("v2alpha1", "v2alpha1", rules=RULES)

    assert convert(stored, "v2") == {**stored, "apiVersion": "gateway.kyma-project.io/v2"}


def test_the_object_that_is_converted_stays_as_it_is() -> None:
    before = apirule("v2", rules=RULES)
    copied = copy.deepcopy(before)

    convert(before, "v2alpha1")

    assert before == copied


def test_an_object_without_metadata_or_spec_is_converted() -> None:
    bare = {"apiVersion": "gateway.kyma-project.io/v2", "kind": "APIRule"}

    assert convert(bare, "v2alpha1")["apiVersion"] == "gateway.kyma-project.io/v2alpha1"
    assert original_version(stamp(bare)) == "v2"


@pytest.mark.parametrize(("version", "wanted"), [("v2", "v9"), ("v9", "v2")])
def test_a_version_that_does_not_exist_is_refused(version: str, wanted: str) -> None:
    with pytest.raises(ConversionError, match="v9"):
        convert(apirule(version), wanted)
