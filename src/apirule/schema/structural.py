"""Structural schemas: what a CRD says of its objects, compiled.

Three jobs, in the order in which an API server does them: ``prune`` takes away what the schema does
not know, ``default`` fills in, ``validate`` finds every problem. The checks themselves are done by
jsonschema-rs on a translated schema; prune and default are ours, as JSON Schema has neither.

Nothing here changes what it is given. Results share the parts that stayed as they were with the
input, so treat both as immutable.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema_rs

from apirule.apis.meta import Object
from apirule.problem import ROOT, FieldPath, Problem, Reason
from apirule.schema import formats, messages
from apirule.schema.expressions import Rules

_EVERY_OBJECT = frozenset({"apiVersion", "kind", "metadata"})
_MISSING = object()
_TWO_63 = 2.0**63
"""Where the integers end that JSON of Go can hold."""

_COPIED_KEYWORDS = (
    "type",
    "required",
    "pattern",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "multipleOf",
    "minimum",
    "maximum",
)


class StructuralSchema:
    """One version of one kind. Compiled when first used, then kept; safe to share."""

    def __init__(self, openapi: Mapping[str, Any]) -> None:
        """Take an OpenAPI v3 schema without ``$ref``. It must be structural (``check_crd``)."""
        self.openapi = openapi

    @functools.cached_property
    def rules(self) -> Rules:
        """The CEL rules of the schema."""
        return Rules(self.openapi)

    @functools.cached_property
    def _root(self) -> _Node:
        return _Node(self.openapi, is_object=True)

    @functools.cached_property
    def _validator(self) -> jsonschema_rs.Validator:
        return _json_validator(self.openapi)

    def compile(self) -> None:
        """Do now what the first use would do. ValueError: a pattern is no regular expression."""
        _ = self._validator

    @property
    def has_defaults(self) -> bool:
        return self._root.has_defaults

    def prune(self, obj: Mapping[str, Any]) -> tuple[Object, list[str]]:
        """Return the object without unknown fields, and their paths, sorted as text.

        A real server sorts them so for a custom resource: ``a[10].x`` comes before ``a[2].x``.
        """
        unknown: list[str] = []
        return _prune(dict(obj), self._root, ROOT, unknown), sorted(unknown)

    def default(self, obj: Mapping[str, Any]) -> Object:
        """Fill in defaults. A null that the schema does not allow counts as absent.

        Where an integer is due, ``30.0`` becomes ``30``: a real server writes no other JSON.
        """
        result: Object = _default(dict(obj), self._root)
        return result

    def drop_empty(self, obj: Mapping[str, Any]) -> Object:
        """Take away lists and maps that are empty and not required, as Go's ``omitempty`` does."""
        result: Object = _drop_empty(dict(obj), self._root)
        return result

    def validate(self, obj: Mapping[str, Any]) -> list[Problem]:
        """Return all problems in schema order; CEL rules are not looked at (``rules``)."""
        try:
            valid = self._validator.is_valid(obj)
            found = [] if valid else self._explain(obj)
        except (ValueError, OverflowError, RecursionError) as error:
            # A value that is no JSON, or is nested without end.
            return [Problem(ROOT, Reason.INVALID, f"Invalid value: {error}")]
        if self._root.has_unique_lists:
            found += _duplicates(obj, self._root, ROOT)
        return found

    def _explain(self, obj: Mapping[str, Any]) -> list[Problem]:
        return messages.problems(self._validator.iter_errors(obj), self.openapi, obj)


class _Node:
    """What prune, default and the list checks need to know of one place of a schema."""

    __slots__ = (
        "additional",
        "default",
        "fields",
        "has_defaults",
        "has_unique_lists",
        "is_integer",
        "is_object",
        "items",
        "may_be_left_out",
        "nullable",
        "preserves",
        "unique_by",
        "with_default",
    )

    def __init__(self, schema: Mapping[str, Any], *, is_object: bool = False) -> None:
        self.is_object = is_object or schema.get("x-kubernetes-embedded-resource") is True
        self.is_integer = (
            schema.get("type") == "integer" or schema.get("x-kubernetes-int-or-string") is True
        )
        self.nullable = schema.get("nullable") is True
        self.default = schema.get("default", _MISSING)
        self.fields = {
            name: _Node(child) for name, child in (schema.get("properties") or {}).items()
        }
        additional = schema.get("additionalProperties")
        self.additional = _Node(additional) if isinstance(additional, Mapping) else None
        items = schema.get("items")
        self.items = _Node(items) if isinstance(items, Mapping) else None
        self.preserves = (
            schema.get("x-kubernetes-preserve-unknown-fields") is True or additional is True
        )
        self.with_default = [
            (name, child.default)
            for name, child in self.fields.items()
            if child.default is not _MISSING
        ]
        required = schema.get("required") or ()
        self.may_be_left_out = frozenset(
            name
            for name, child in (schema.get("properties") or {}).items()
            if name not in required and ("items" in child or "additionalProperties" in child)
        )
        children = [*self.fields.values(), *filter(None, (self.additional, self.items))]
        self.has_defaults: bool = bool(self.with_default) or any(
            child.has_defaults for child in children
        )
        self.unique_by = _unique_by(schema)
        self.has_unique_lists: bool = self.unique_by is not None or any(
            child.has_unique_lists for child in children
        )

    def child(self, name: str) -> _Node | None:
        return self.fields.get(name, self.additional)

    def keeps(self, name: str) -> bool:
        return self.preserves or (self.is_object and name in _EVERY_OBJECT)


def _prune(value: Any, node: _Node, at: FieldPath, unknown: list[str]) -> Any:
    if isinstance(value, list):
        return _prune_list(value, node, at, unknown)
    if not isinstance(value, dict):
        return value
    kept = value
    gone = _unknown_keys(value, node)
    if gone:
        unknown += [str(at / name) for name in gone]
        kept = {k: v for k, v in value.items() if k not in gone}
    changed: Object | None = None
    for name, item in kept.items():
        child = node.child(name)
        if child is None or not isinstance(item, dict | list):
            continue
        pruned = _prune(item, child, at / name, unknown)
        if pruned is not item:
            changed = dict(kept) if changed is None else changed
            changed[name] = pruned
    return kept if changed is None else changed


def _unknown_keys(value: dict[str, Any], node: _Node) -> list[str]:
    if node.preserves or node.additional is not None or value.keys() <= node.fields.keys():
        return []
    return [name for name in value if name not in node.fields and not node.keeps(name)]


def _prune_list(value: list[Any], node: _Node, at: FieldPath, unknown: list[str]) -> list[Any]:
    if node.items is None:
        return value
    items = [_prune(item, node.items, at / i, unknown) for i, item in enumerate(value)]
    return value if all(new is old for new, old in zip(items, value, strict=True)) else items


def _default(value: Any, node: _Node) -> Any:
    if isinstance(value, dict):
        return _default_object(value, node)
    if isinstance(value, list):
        return _default_list(value, node)
    if isinstance(value, float) and node.is_integer:
        return _integer(value)
    return value


def _default_object(value: Object, node: _Node) -> Object:
    result: Object | None = None
    for name, item in value.items():
        child = node.child(name)
        if child is None:
            continue
        if item is None and not child.nullable:
            result = dict(value) if result is None else result
            del result[name]
        elif isinstance(item, dict | list | float):
            filled = _default(item, child)
            if filled is not item:
                result = dict(value) if result is None else result
                result[name] = filled
    for name, default in node.with_default:
        if name not in (value if result is None else result):
            result = dict(value) if result is None else result
            result[name] = _default(copy.deepcopy(default), node.fields[name])
    return value if result is None else result


def _default_list(value: list[Any], node: _Node) -> list[Any]:
    if node.items is None:
        return value
    items = [_default(item, node.items) for item in value]
    return value if all(new is old for new, old in zip(items, value, strict=True)) else items


def _integer(value: float) -> int | float:
    return int(value) if value.is_integer() and -_TWO_63 <= value < _TWO_63 else value


def _drop_empty(value: Any, node: _Node) -> Any:
    if isinstance(value, list):
        items = value if node.items is None else [_drop_empty(item, node.items) for item in value]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    if not isinstance(value, dict):
        return value
    result: Object | None = None
    for name, item in value.items():
        child = node.child(name)
        if child is None or not isinstance(item, dict | list):
            continue
        gone = not item and name in node.may_be_left_out
        kept = item if gone else _drop_empty(item, child)
        if gone or kept is not item:
            result = dict(value) if result is None else result
            result[name] = kept
            if gone:
                del result[name]
    return value if result is None else result


def _unique_by(schema: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the keys that tell items of a list apart; none for a set; None: items may repeat."""
    if schema.get("x-apirule-duplicates") == "allowed":
        return None
    match schema.get("x-kubernetes-list-type"):
        case "map":
            return tuple(schema.get("x-kubernetes-list-map-keys") or ())
        case "set":
            return ()
        case _:
            return None


def _duplicates(value: Any, node: _Node, at: FieldPath) -> Iterator[Problem]:
    if isinstance(value, dict):
        for name, item in value.items():
            child = node.child(name)
            if child is not None and child.has_unique_lists:
                yield from _duplicates(item, child, at / name)
    elif isinstance(value, list) and node.items is not None:
        if node.unique_by is not None:
            yield from _repeated(value, node.unique_by, at)
        if node.items.has_unique_lists:
            for index, item in enumerate(value):
                yield from _duplicates(item, node.items, at / index)


def _repeated(items: list[Any], keys: tuple[str, ...], at: FieldPath) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, item in enumerate(items):
        is_entry = keys and isinstance(item, dict)
        identity = {key: item[key] for key in keys if key in item} if is_entry else item
        text = json.dumps(identity, sort_keys=True)
        if text in seen:
            message = f"Duplicate value: {messages.show(identity)}"
            fix = "Remove it, or merge it with the entry above."
            yield Problem(at / index, Reason.DUPLICATE, message, fix)
        seen.add(text)


def _json_validator(openapi: Mapping[str, Any]) -> jsonschema_rs.Validator:
    """Compile the checks of a schema. ValueError: a pattern is no regular expression."""
    return jsonschema_rs.Draft202012Validator(
        _to_json_schema(openapi),
        validate_formats=True,
        formats=dict(formats.CHECKS),
        # The linear engine: it reads patterns as RE2 does, and no pattern can stall it.
        pattern_options=jsonschema_rs.RegexOptions(),
    )


def _to_json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Translate an OpenAPI v3 schema, as Kubernetes understands it, to JSON Schema 2020-12."""
    out = {name: schema[name] for name in _COPIED_KEYWORDS if name in schema}
    if schema.get("format") in formats.CHECKS:
        out["format"] = schema["format"]
    if "enum" in schema:
        out["enum"] = list(schema["enum"])
    for name in ("allOf", "anyOf", "oneOf"):
        if name in schema:
            out[name] = [_to_json_schema(child) for child in schema[name]]
    for name in ("not", "items"):
        if name in schema:
            out[name] = _to_json_schema(schema[name])
    if schema.get("properties"):
        properties = schema["properties"]
        out["properties"] = {name: _to_json_schema(child) for name, child in properties.items()}
    if isinstance(schema.get("additionalProperties"), Mapping):
        out["additionalProperties"] = _to_json_schema(schema["additionalProperties"])
    _add_types(schema, out)
    _add_range(schema, out)
    return out


def _add_types(schema: Mapping[str, Any], out: dict[str, Any]) -> None:
    if schema.get("x-kubernetes-int-or-string") is True:
        out["type"] = ["integer", "string"]
        # The two alternatives a CRD may spell out besides; they say the same.
        out.pop("anyOf", None)
    if schema.get("nullable") is True and "type" in out:
        types = out["type"]
        out["type"] = [*([types] if isinstance(types, str) else types), "null"]
        if "enum" in out:
            out["enum"].append(None)


def _add_range(schema: Mapping[str, Any], out: dict[str, Any]) -> None:
    if schema.get("exclusiveMinimum") is True and "minimum" in out:
        out["exclusiveMinimum"] = out.pop("minimum")
    if schema.get("exclusiveMaximum") is True and "maximum" in out:
        out["exclusiveMaximum"] = out.pop("maximum")
    low, high = formats.NUMBER_RANGES.get(str(schema.get("format")), (None, None))
    if low is not None and high is not None:
        if "exclusiveMinimum" not in out:
            out["minimum"] = max(low, out.get("minimum", low))
        if "exclusiveMaximum" not in out:
            out["maximum"] = min(high, out.get("maximum", high))
