"""What is wrong with a CustomResourceDefinition."""

from __future__ import annotations

from typing import Any

import pytest

from apirule import schema
from apirule.apis.meta import Object

STRING = {"type": "string"}


def crd(
    spec: dict[str, Any] | None = None, name: str = "cars.example.com", **version: Any
) -> Object:
    """A valid definition of cars, but for what is given."""
    valid = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object"}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "cars", "kind": "Car"},
            "versions": [{**valid, **version}],
            **(spec or {}),
        },
    }


def with_schema(**properties: Any) -> Object:
    return crd(schema={"openAPIV3Schema": {"type": "object", "properties": properties}})


def told(definition: Object) -> list[str]:
    return [str(problem) for problem in schema.check_crd(definition)]


def test_a_valid_definition_has_no_problems_and_gives_kinds() -> None:
    (kind,) = schema.from_crd(crd(deprecated=True))

    assert told(crd()) == []
    assert (kind.singular, kind.list_kind, kind.resource) == ("car", "CarList", "cars.example.com")
    assert kind.deprecation_warning == "example.com/v1 Car is deprecated"


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        (
            crd(name="trucks.example.com"),
            (
                'metadata.name: Invalid value: "trucks.example.com": '
                'must be spec.names.plural+"."+spec.group'
            ),
        ),
        (
            crd({"versions": []}),
            "spec.versions: Invalid value: must have exactly one version marked as storage version",
        ),
        (
            crd({"preserveUnknownFields": True}),
            "spec.preserveUnknownFields: Invalid value: true: must be false",
        ),
        (
            crd(additionalPrinterColumns=[{"name": "A", "type": "string", "jsonPath": "spec.a"}]),
            (
                "spec.versions[0].additionalPrinterColumns[0].jsonPath: "
                'Invalid value: "spec.a": must begin with a dot'
            ),
        ),
        (
            crd(schema=None),
            "spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required",
        ),
    ],
)
def test_a_definition_is_refused(definition: Object, message: str) -> None:
    assert told(definition) == [message]


@pytest.mark.parametrize("path", ["spec.size", ".spec[0]", ".metadata.name", ".spec", ".none", ""])
def test_only_plain_fields_of_the_schema_can_be_selected_by(path: str) -> None:
    size = {"type": "object", "properties": {"size": {"type": "integer"}}}
    fields = {"openAPIV3Schema": {"type": "object", "properties": {"spec": size}}}

    good = crd(schema=fields, selectableFields=[{"jsonPath": ".spec.size"}])
    (problem,) = told(crd(schema=fields, selectableFields=[{"jsonPath": path}]))

    assert told(good) == []
    assert problem.startswith("spec.versions[0].selectableFields[0].jsonPath: Invalid value")


@pytest.mark.parametrize(
    ("field", "place", "start"),
    [
        ({}, "type", "Required value"),
        ({"type": "text"}, "type", "Unsupported value"),
        ({"type": "array"}, "items", "Required value"),
        ({"type": "object", "$ref": "#/x"}, "$ref", "Forbidden"),
        (
            {"type": "object", "properties": {"a": STRING}, "additionalProperties": STRING},
            "additionalProperties",
            "Forbidden",
        ),
        ({"type": "array", "items": STRING, "uniqueItems": True}, "uniqueItems", "Forbidden"),
        (
            {"type": "string", "anyOf": [{"type": "string", "pattern": "a"}]},
            "anyOf[0].type",
            "Forbidden",
        ),
        (
            {"type": "integer", "x-kubernetes-int-or-string": True},
            "type",
            "Invalid value",
        ),
        (
            {"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map"},
            "x-kubernetes-list-map-keys",
            "Required value",
        ),
        ({"type": "integer", "default": "one"}, "default", "Invalid value"),
        (
            {"type": "object", "properties": {"a": STRING}, "default": {"b": "1"}},
            "default.b",
            "Forbidden",
        ),
        (
            {"type": "string", "x-kubernetes-validations": [{"rule": "self =="}]},
            "x-kubernetes-validations[0].rule",
            "Invalid value",
        ),
    ],
)
def test_a_schema_that_is_not_structural_or_does_not_compile_is_refused(
    field: dict[str, Any], place: str, start: str
) -> None:
    (problem,) = schema.check_crd(with_schema(f=field))

    at = "spec.versions[0].schema.openAPIV3Schema.properties.f"
    assert str(problem.field) == f"{at}.{place}"
    assert problem.message.startswith(start)


def test_a_pattern_that_is_no_regular_expression_is_refused() -> None:
    (problem,) = schema.check_crd(with_schema(f={"type": "string", "pattern": "["}))

    assert problem.message.startswith("Invalid value: ")


def test_int_or_string_may_spell_out_its_alternatives() -> None:
    field = {
        "x-kubernetes-int-or-string": True,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
    }

    assert told(with_schema(f=field)) == []


def test_all_problems_of_a_definition_come_at_once() -> None:
    definition = crd({"group": "example"}, additionalPrinterColumns=[{"jsonPath": "a"}])

    assert len(told(definition)) == 3


def test_only_names_may_be_restricted_in_metadata() -> None:
    restricted = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 3}}}
    forbidden = {"type": "object", "properties": {"labels": {"type": "object"}}}
    obj = {"apiVersion": "example.com/v1", "kind": "Car", "metadata": {"name": "long"}}

    (kind,) = schema.from_crd(with_schema(metadata=restricted))

    assert told(with_schema(metadata=restricted)) == []
    assert len(told(with_schema(metadata=forbidden))) == 1
    assert [str(p.field) for p in schema.admit(obj, kind).problems] == ["metadata.name"]


@pytest.mark.parametrize(
    "field",
    [
        "text",
        {"type": 1},
        {"type": "object", "properties": ["a"]},
        {"type": "object", "properties": {"a": None}},
        {"type": "string", "pattern": 1},
        {"type": "string", "maxLength": -1},
        {"type": "string", "enum": "a"},
        {"type": "string", "x-kubernetes-validations": [{}]},
        {"type": "string", "x-kubernetes-validations": {"rule": "true"}},
        {"type": "array", "items": [{"type": "string"}]},
        {"type": "object", "required": "a"},
        {"type": "string", "anyOf": [1]},
        {"type": "object", "additionalProperties": 1},
    ],
    ids=str,
)
def test_a_schema_of_no_sensible_shape_is_a_problem_and_no_crash(field: Any) -> None:
    (problem,) = schema.check_crd(with_schema(f=field))

    assert str(problem.field).startswith("spec.versions[0].schema.openAPIV3Schema.properties.f")
