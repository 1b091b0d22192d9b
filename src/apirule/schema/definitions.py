"""Is a CustomResourceDefinition itself valid: names, versions, and schemas that are structural.

A structural schema gives every field a type outside of ``allOf`` and its like, so that unknown
fields can be pruned and defaults filled in. What is accepted here compiles: patterns, rules and
defaults are tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema_rs

from apirule.problem import SPEC, FieldPath, Problem, Reason
from apirule.schema import messages
from apirule.schema.kinds import DNS_LABEL_1035, compiled_once
from apirule.schema.structural import StructuralSchema

_TYPES = ("array", "boolean", "integer", "number", "object", "string")
_FORBIDDEN = (
    "$ref",
    "additionalItems",
    "definitions",
    "dependencies",
    "id",
    "patternProperties",
)
_ONLY_OUTSIDE_OF_JUNCTORS = (
    "additionalProperties",
    "default",
    "description",
    "nullable",
    "title",
    "type",
    "x-kubernetes-preserve-unknown-fields",
)
_JUNCTORS = ("allOf", "anyOf", "oneOf")
_LIST_TYPES = ("atomic", "map", "set")
_METADATA_FIELDS = {"name", "generateName"}
_SCOPES = ("Cluster", "Namespaced")
_TEXT, _TRUTH, _LIST = {"type": "string"}, {"type": "boolean"}, {"type": "array"}
_NUMBER, _COUNT = {"type": "number"}, {"type": "integer", "minimum": 0}
_TEXTS = {"type": "array", "items": _TEXT}
_SCHEMA = {"$ref": "#/$defs/schema"}
_SCHEMAS = {"type": "array", "items": _SCHEMA}
_NAMED_SCHEMAS = {"type": "object", "additionalProperties": _SCHEMA}
_RULE_WORDS = ("rule", "message", "messageExpression", "reason", "fieldPath")
_RULE = {
    "type": "object",
    "required": ["rule"],
    "properties": {**dict.fromkeys(_RULE_WORDS, _TEXT), "optionalOldSelf": _TRUTH},
}
_SHAPE = jsonschema_rs.Draft202012Validator(
    {
        **_SCHEMA,
        "$defs": {
            "schema": {
                "type": "object",
                "properties": {
                    **dict.fromkeys(("type", "format", "description", "title", "pattern"), _TEXT),
                    **dict.fromkeys(("minimum", "maximum", "multipleOf"), _NUMBER),
                    **dict.fromkeys(("exclusiveMinimum", "exclusiveMaximum"), _TRUTH),
                    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _COUNT),
                    **dict.fromkeys(("minProperties", "maxProperties"), _COUNT),
                    **dict.fromkeys(("allOf", "anyOf", "oneOf"), _SCHEMAS),
                    **dict.fromkeys(("not", "items"), _SCHEMA),
                    **dict.fromkeys(("nullable", "uniqueItems"), _TRUTH),
                    **dict.fromkeys(("required", "x-kubernetes-list-map-keys"), _TEXTS),
                    "enum": _LIST,
                    "properties": _NAMED_SCHEMAS,
                    "additionalProperties": {"anyOf": [_SCHEMA, _TRUTH]},
                    "x-kubernetes-validations": {"type": "array", "items": _RULE},
                    "x-kubernetes-list-type": _TEXT,
                    "x-kubernetes-map-type": _TEXT,
                    "x-kubernetes-int-or-string": _TRUTH,
                    "x-kubernetes-preserve-unknown-fields": _TRUTH,
                    "x-kubernetes-embedded-resource": _TRUTH,
                },
            }
        },
    }
)
"""What a schema looks like, whatever it says: an API server decodes it to a type."""

_SCALE_PATHS = {
    "specReplicasPath": ("spec",),
    "statusReplicasPath": ("status",),
    "labelSelectorPath": ("status", "spec"),
}
_SELECTABLE = ("string", "boolean", "integer")
_FIELDS = r"(\.[A-Za-z_][-\w]*)+"

_VERSION_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


def check_crd(crd: Mapping[str, Any]) -> list[Problem]:
    """Return all problems of a CustomResourceDefinition that its own schema cannot find.

    Expects an object that was admitted as a CustomResourceDefinition.
    """
    spec = crd.get("spec") or {}
    found = [*_check_names(crd, spec), *_check_versions(spec)]
    for index, version in enumerate(spec.get("versions") or ()):
        found += _check_version(version, SPEC / "versions" / index)
    return found


def _check_names(crd: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[Problem]:
    names = spec.get("names") or {}
    wanted = f"{names.get('plural', '')}.{spec.get('group', '')}"
    name = (crd.get("metadata") or {}).get("name", "")
    if name != wanted:
        detail = 'must be spec.names.plural+"."+spec.group'
        at = FieldPath("metadata", "name")
        yield _invalid(at, name, detail, f"Name it {wanted}.")
    if "." not in spec.get("group", ""):
        detail = "should be a domain with at least one dot"
        yield _invalid(SPEC / "group", spec.get("group", ""), detail, "Use a domain you own.")
    if spec.get("scope") not in _SCOPES:
        message = messages.unsupported(spec.get("scope"), _SCOPES)
        yield Problem(SPEC / "scope", Reason.NOT_SUPPORTED, message, "Write Namespaced or Cluster.")
    for field in ("plural", "singular", "kind", "listKind"):
        value = names.get(field)
        if value is not None and not DNS_LABEL_1035.fullmatch(value.lower()):
            detail = "must be letters, digits and hyphens, beginning with a letter"
            yield _invalid(SPEC / "names" / field, value, detail, "Use one word.")
    if spec.get("preserveUnknownFields") is True:
        detail = "must be false"
        fix = "Set x-kubernetes-preserve-unknown-fields in the schema instead."
        yield _invalid(SPEC / "preserveUnknownFields", True, detail, fix)


def _check_versions(spec: Mapping[str, Any]) -> Iterator[Problem]:
    versions = spec.get("versions") or []
    at = SPEC / "versions"
    if sum(version.get("storage") is True for version in versions) != 1:
        detail = "must have exactly one version marked as storage version"
        yield Problem(at, Reason.INVALID, f"Invalid value: {detail}", "Set storage: true on one.")
    seen: set[str] = set()
    for index, version in enumerate(versions):
        name = version.get("name", "")
        if name in seen:
            message = f"Duplicate value: {messages.show(name)}"
            yield Problem(at / index / "name", Reason.DUPLICATE, message, "Name it differently.")
        seen.add(name)
        if not _VERSION_NAME.fullmatch(name):
            detail = "must be a lowercase DNS label such as v1"
            yield _invalid(at / index / "name", name, detail, "Write v1, v1beta1 or the like.")


def _check_version(version: Mapping[str, Any], at: FieldPath) -> list[Problem]:
    found = [
        *_check_columns(version, at / "additionalPrinterColumns"),
        *_check_scale(version, at),
        *_check_selectable(version, at / "selectableFields"),
    ]
    schema = (version.get("schema") or {}).get("openAPIV3Schema")
    at = at / "schema" / "openAPIV3Schema"
    if isinstance(schema, Mapping):
        malformed = messages.problems(_SHAPE.iter_errors(schema), {}, schema)
        if malformed:
            return [*found, *(_moved(problem, at) for problem in malformed)]
    else:
        message = "Required value: schemas are required"
        return [*found, Problem(at, Reason.REQUIRED, message, "Add a schema of type object.")]
    if schema.get("type") != "object":
        detail = "must be object at the root"
        found.append(_invalid(at / "type", schema.get("type"), detail, "Write type: object."))
    shape = [*_check_schema(schema, at), *_check_metadata(schema, at)]
    if shape:
        return found + shape
    return [*found, *_check_compiled(schema, at)]


def _check_scale(version: Mapping[str, Any], at: FieldPath) -> Iterator[Problem]:
    scale = (version.get("subresources") or {}).get("scale") or {}
    for name, roots in _SCALE_PATHS.items():
        path = str(scale.get(name) or "")
        if path and not any(re.fullmatch(rf"\.{root}{_FIELDS}", path) for root in roots):
            detail = f"should be a json path under {' or '.join('.' + root for root in roots)}"
            fix = f"Write fields only, such as .{roots[0]}.replicas."
            yield _invalid(at / "subresources" / "scale" / name, path, detail, fix)


def _check_columns(version: Mapping[str, Any], at: FieldPath) -> Iterator[Problem]:
    for index, column in enumerate(version.get("additionalPrinterColumns") or ()):
        path = column.get("jsonPath", "")
        if not path.startswith("."):
            place = at / index / "jsonPath"
            yield _invalid(place, path, "must begin with a dot", f"Write .{path}.")


def _check_selectable(version: Mapping[str, Any], at: FieldPath) -> Iterator[Problem]:
    schema = (version.get("schema") or {}).get("openAPIV3Schema") or {}
    for index, field in enumerate(version.get("selectableFields") or ()):
        path = field.get("jsonPath", "")
        place = at / index / "jsonPath"
        if not re.fullmatch(_FIELDS, path) or path.startswith(".metadata."):
            detail = "must be a simple path to a field, outside of metadata"
            yield _invalid(place, path, detail, "Write fields only, such as .spec.color.")
            continue
        found: Any = schema
        for name in path.split(".")[1:]:
            properties = found.get("properties") if isinstance(found, Mapping) else None
            found = properties.get(name) if isinstance(properties, Mapping) else None
        if not isinstance(found, Mapping) or found.get("type") not in _SELECTABLE:
            detail = f"must point to a field of the type {', '.join(_SELECTABLE)}"
            yield _invalid(place, path, detail, "Name a field of the schema.")


def _check_schema(schema: Mapping[str, Any], at: FieldPath) -> Iterator[Problem]:
    yield from _check_keywords(schema, at)
    yield from _check_type(schema, at)
    yield from _check_list(schema, at)
    for name, child in (schema.get("properties") or {}).items():
        yield from _check_schema(child, at / "properties" / name)
    for name in ("additionalProperties", "items"):
        if isinstance(schema.get(name), Mapping):
            yield from _check_schema(schema[name], at / name)
    for place, child in _junctor_children(schema, at):
        yield from _check_junctor(child, place)


def _check_keywords(schema: Mapping[str, Any], at: FieldPath) -> Iterator[Problem]:
    for name in _FORBIDDEN:
        if name in schema:
            yield _forbidden(at / name, "must not be set: the schema would not be structural")
    if schema.get("uniqueItems") is True:
        yield _forbidden(
            at / "uniqueItems", "cannot be set to true: comparing all items is too slow"
        )
    if schema.get("properties") and schema.get("additionalProperties"):
        yield _forbidden(at / "additionalProperties", "properties are set already")


def _check_type(schema: Mapping[str, Any], at: FieldPath) -> Iterator[Problem]:
    kind = schema.get("type")
    free = (
        schema.get("x-kubernetes-int-or-string") is True
        or schema.get("x-kubernetes-preserve-unknown-fields") is True
    )
    if kind is None and not free:
        message = "Required value: must not be empty for specified object fields"
        yield Problem(at / "type", Reason.REQUIRED, message, f"Write one of {', '.join(_TYPES)}.")
    elif kind is not None and kind not in _TYPES:
        message = messages.unsupported(kind, _TYPES)
        yield Problem(at / "type", Reason.NOT_SUPPORTED, message, "Write one type.")
    if schema.get("x-kubernetes-int-or-string") is True and kind is not None:
        yield _invalid(at / "type", kind, "must be empty if int-or-string is true", "Remove it.")


def _check_list(schema: Mapping[str, Any], at: FieldPath) -> Iterator[Problem]:
    if schema.get("type") == "array" and not isinstance(schema.get("items"), Mapping):
        message = "Required value: must be specified"
        yield Problem(at / "items", Reason.REQUIRED, message, "Describe the items of the list.")
    list_type = schema.get("x-kubernetes-list-type")
    if list_type is not None and list_type not in _LIST_TYPES:
        message = messages.unsupported(list_type, _LIST_TYPES)
        yield Problem(at / "x-kubernetes-list-type", Reason.NOT_SUPPORTED, message)
    keys = schema.get("x-kubernetes-list-map-keys")
    if list_type == "map" and not keys:
        message = "Required value: must not be empty if x-kubernetes-list-type is map"
        fix = "List the fields that tell the items apart."
        yield Problem(at / "x-kubernetes-list-map-keys", Reason.REQUIRED, message, fix)
    known = (schema.get("items") or {}).get("properties") or {}
    for key in keys or ():
        if key not in known:
            detail = "must be a property of the items"
            place = at / "x-kubernetes-list-map-keys"
            yield _invalid(place, key, detail, "Name a property of the items.")


def _junctor_children(
    schema: Mapping[str, Any], at: FieldPath
) -> Iterator[tuple[FieldPath, Mapping[str, Any]]]:
    for name in _JUNCTORS:
        for index, child in enumerate(schema.get(name) or ()):
            yield at / name / index, child
    if isinstance(schema.get("not"), Mapping):
        yield at / "not", schema["not"]


def _check_junctor(schema: Mapping[str, Any], at: FieldPath) -> Iterator[Problem]:
    # `type` in the two alternatives of int-or-string is the one thing allowed here.
    spoken_for = schema in ({"type": "integer"}, {"type": "string"})
    for name in _ONLY_OUTSIDE_OF_JUNCTORS:
        if name in schema and not spoken_for:
            yield _forbidden(at / name, "must be empty to be structural")
    for name, child in (schema.get("properties") or {}).items():
        yield from _check_junctor(child, at / "properties" / name)
    if isinstance(schema.get("items"), Mapping):
        yield from _check_junctor(schema["items"], at / "items")
    for place, child in _junctor_children(schema, at):
        yield from _check_junctor(child, place)


def _check_metadata(schema: Mapping[str, Any], at: FieldPath) -> Iterator[Problem]:
    metadata = (schema.get("properties") or {}).get("metadata") or {}
    for name in metadata.get("properties") or ():
        if name not in _METADATA_FIELDS:
            place = at / "properties" / "metadata" / "properties" / name
            yield _forbidden(place, "only name and generateName may be restricted")


def _check_compiled(schema: Mapping[str, Any], at: FieldPath) -> Iterator[Problem]:
    compiled = compiled_once(schema)
    try:
        compiled.compile()
    except ValueError as error:
        yield Problem(at, Reason.INVALID, f"Invalid value: {error}", "Correct the pattern.")
        return
    for problem in compiled.rules.compile_problems():
        yield _moved(problem, at)
    yield from _check_defaults(schema, at)


def _check_defaults(schema: Mapping[str, Any], at: FieldPath) -> Iterator[Problem]:
    if "default" in schema:
        holder = StructuralSchema({"type": "object", "properties": {"default": schema}})
        value = {"default": schema["default"]}
        _, unknown = holder.prune(value)
        for name in unknown:
            yield _forbidden(at / name, "is no field of the schema")
        for problem in holder.validate(value):
            yield _moved(problem, at)
    for name, child in (schema.get("properties") or {}).items():
        yield from _check_defaults(child, at / "properties" / name)
    for name in ("additionalProperties", "items"):
        if isinstance(schema.get(name), Mapping):
            yield from _check_defaults(schema[name], at / name)


def _moved(problem: Problem, at: FieldPath) -> Problem:
    field = FieldPath(*at.parts, *problem.field.parts)
    return Problem(field, problem.reason, problem.message, problem.fix, problem.severity)


def _invalid(at: FieldPath, value: object, detail: str, fix: str) -> Problem:
    return Problem(at, Reason.INVALID, messages.invalid(value, detail), fix)


def _forbidden(at: FieldPath, detail: str) -> Problem:
    return Problem(at, Reason.FORBIDDEN, f"Forbidden: {detail}", "Remove it.")
