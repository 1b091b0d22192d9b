"""What a structural error is called: the words of a Kubernetes API server, and a fix of our own.

``problems`` turns the errors of jsonschema-rs into Problems in schema order. The texts are those of
field.Error and go-openapi, down to how Go prints a number, so that tools which read them keep on
working.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from jsonschema_rs import ValidationError

from apirule.problem import FieldPath, Problem, Reason

_TYPE_NAMES: tuple[tuple[type, str], ...] = (
    (bool, "boolean"),  # before int: a bool is one in Python
    (int, "integer"),
    (float, "number"),
    (Decimal, "number"),
    (str, "string"),
    (list, "array"),
    (tuple, "array"),
    (dict, "object"),
)
_EXPONENT_FORM_BELOW = 4
_EXPONENT_FORM_FROM = 6
_LAST = 1 << 30


def problems(
    errors: Iterable[ValidationError], schema: Mapping[str, Any], obj: Mapping[str, Any]
) -> list[Problem]:
    """Return the problems in the order in which the schema lists its fields."""
    found = [(_place(error), error) for error in errors]
    mistyped = {place for place, error in found if error.kind.name in ("type", "format")}
    kept = [
        (place, error)
        for place, error in found
        # A value of another type is no member of an enum either; one message says it.
        if not (error.kind.name == "enum" and place in mistyped)
    ]
    kept.sort(key=lambda pair: _order(schema, pair[0]))
    return [_problem(error, FieldPath(*place), _subschema(schema, place)) for place, error in kept]


def type_name(value: object) -> str:
    for kind, name in _TYPE_NAMES:
        if isinstance(value, kind):
            return name
    return "null"


def show(value: object) -> str:
    """Print a value as an API server does: strings in quotes, numbers as Go prints them."""
    if isinstance(value, float):
        return go_number(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def go_number(value: float | Decimal) -> str:
    """Print a limit as Go's ``%v`` does a float64: ``65535``, but ``2.147483647e+09``."""
    number = Decimal(repr(float(value))).normalize()
    exponent = number.adjusted()
    if -_EXPONENT_FORM_BELOW <= exponent < _EXPONENT_FORM_FROM or not number:
        return f"{number:f}"
    sign, digits, _ = number.as_tuple()
    mantissa = "".join(map(str, digits))
    point = "." if len(mantissa) > 1 else ""
    return f"{'-' if sign else ''}{mantissa[0]}{point}{mantissa[1:]}e{exponent:+03d}"


def invalid(value: object, detail: str) -> str:
    return f"Invalid value: {show(value)}: {detail}"


def unsupported(value: object, options: Iterable[object]) -> str:
    listed = ", ".join(json.dumps(str(option), ensure_ascii=False) for option in options)
    return f"Unsupported value: {show(value)}: supported values: {listed}"


def too_many(count: int, limit: int) -> str:
    return f"Too many: {count}: must have at most {limit} {'item' if limit == 1 else 'items'}"


def too_long(limit: int) -> str:
    return f"Too long: may not be more than {limit} {'byte' if limit == 1 else 'bytes'}"


def _place(error: ValidationError) -> tuple[str | int, ...]:
    place = tuple(error.instance_path)
    return (*place, error.kind.value) if error.kind.name == "required" else place


def _order(schema: Mapping[str, Any], place: tuple[str | int, ...]) -> list[tuple[int, str]]:
    order: list[tuple[int, str]] = []
    node: Mapping[str, Any] = schema
    for part in place:
        if isinstance(part, int):
            order.append((part, ""))
        else:
            names = list(node.get("properties", ()))
            order.append((names.index(part) if part in names else _LAST, part))
        node = _child(node, part)
    return order


def _subschema(schema: Mapping[str, Any], place: tuple[str | int, ...]) -> Mapping[str, Any]:
    for part in place:
        schema = _child(schema, part)
    return schema


def _child(schema: Mapping[str, Any], part: str | int) -> Mapping[str, Any]:
    if isinstance(part, int):
        child = schema.get("items")
    else:
        child = schema.get("properties", {}).get(part, schema.get("additionalProperties"))
    return child if isinstance(child, Mapping) else {}


def _problem(error: ValidationError, field: FieldPath, schema: Mapping[str, Any]) -> Problem:
    reason, message, fix = _WORDS.get(error.kind.name, _unforeseen)(error, field, schema)
    return Problem(field=field, reason=reason, message=message, fix=fix)


_Words = tuple[Reason, str, str]
_Wording = Callable[[ValidationError, FieldPath, Mapping[str, Any]], _Words]


def _required(error: ValidationError, field: FieldPath, schema: Mapping[str, Any]) -> _Words:
    name = field.parts[-1]
    about = first_sentence(str(schema.get("description", "")))
    return Reason.REQUIRED, "Required value", f"Add {name}. {about}".rstrip()


def first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s", text.strip(), maxsplit=1)[0]


def _type(error: ValidationError, field: FieldPath, schema: Mapping[str, Any]) -> _Words:
    wanted = ",".join(name for name in error.kind.as_dict()["types"] if name != "null")
    got = json.dumps(type_name(error.instance))
    message = f"Invalid value: {got}: {field} in body must be of type {wanted}: {got}"
    return Reason.TYPE_INVALID, message, f"Write {_with_article(wanted)}."


def _with_article(type_names: str) -> str:
    words = type_names.replace(",", " or ").replace("object", "mapping").replace("array", "list")
    hint = " (in quotes, if it looks like a number)" if words == "string" else ""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}{hint}"


def _format(error: ValidationError, field: FieldPath, schema: Mapping[str, Any]) -> _Words:
    wanted = error.kind.value
    detail = f"{field} in body must be of type {wanted}: {show(error.instance)}"
    fix = _FORMAT_FIXES.get(wanted, f"Write a valid {wanted}.")
    return Reason.TYPE_INVALID, invalid(error.instance, detail), fix


_FORMAT_FIXES = {
    "byte": "Write it in Base64.",
    "date-time": "Write a time such as 2026-01-31T12:00:00Z.",
    "duration": "Write a duration such as 1h30m.",
}


def _enum(error: ValidationError, field: FieldPath, schema: Mapping[str, Any]) -> _Words:
    options = [option for option in error.kind.value if option is not None]
    close = [o for o in options if str(o).lower() == str(error.instance).lower()]
    fix = f"Write {close[0]}." if close else f"Write one of {', '.join(map(str, options))}."
    return Reason.NOT_SUPPORTED, unsupported(error.instance, options), fix


def _too_many(error: ValidationError, field: FieldPath, schema: Mapping[str, Any]) -> _Words:
    limit = error.kind.value
    return Reason.TOO_MANY, too_many(_size_of(error.instance), limit), f"Keep at most {limit}."


def _size_of(value: object) -> int:
    return len(value) if isinstance(value, list | dict) else 0


def _too_long(error: ValidationError, field: FieldPath, schema: Mapping[str, Any]) -> _Words:
    limit = error.kind.value
    return Reason.TOO_LONG, too_long(limit), f"Shorten it to {limit} characters."


def _limit(words: str, fix: str) -> _Wording:
    def wording(error: ValidationError, field: FieldPath, schema: Mapping[str, Any]) -> _Words:
        limit = go_number(error.kind.value)
        detail = f"{field} in body should be {words} {limit}"
        return Reason.INVALID, invalid(error.instance, detail), f"{fix} {limit}."

    return wording


def _size(words: str, unit: str) -> _Wording:
    def wording(error: ValidationError, field: FieldPath, schema: Mapping[str, Any]) -> _Words:
        limit = error.kind.value
        detail = f"{field} in body should {words} {limit} {unit}"
        value = error.instance if isinstance(error.instance, str) else _size_of(error.instance)
        return Reason.INVALID, invalid(value, detail), f"Give at least {limit}."

    return wording


def _pattern(error: ValidationError, field: FieldPath, schema: Mapping[str, Any]) -> _Words:
    pattern = schema.get("pattern", error.kind.value)
    detail = f"{field} in body should match '{pattern}'"
    fix = first_sentence(str(schema.get("description", "")))
    return Reason.INVALID, invalid(error.instance, detail), fix


def _alternatives(words: str) -> _Wording:
    def wording(error: ValidationError, field: FieldPath, schema: Mapping[str, Any]) -> _Words:
        detail = f"{field} in body must {words}"
        return Reason.INVALID, invalid(error.instance, detail), ""

    return wording


def _unforeseen(error: ValidationError, field: FieldPath, schema: Mapping[str, Any]) -> _Words:
    return Reason.INVALID, invalid(error.instance, error.message), ""


_WORDS: Mapping[str, _Wording] = {
    "required": _required,
    "type": _type,
    "format": _format,
    "enum": _enum,
    "pattern": _pattern,
    "maximum": _limit("less than or equal to", "Write at most"),
    "exclusiveMaximum": _limit("less than", "Write less than"),
    "minimum": _limit("greater than or equal to", "Write at least"),
    "exclusiveMinimum": _limit("greater than", "Write more than"),
    "multipleOf": _limit("a multiple of", "Write a multiple of"),
    "maxItems": _too_many,
    "maxProperties": _too_many,
    "maxLength": _too_long,
    "minItems": _size("have at least", "items"),
    "minProperties": _size("have at least", "properties"),
    "minLength": _size("be at least", "chars long"),
    "anyOf": _alternatives("validate at least one schema (anyOf)"),
    "oneOf": _alternatives("validate one and only one schema (oneOf)"),
    "allOf": _alternatives("validate all the schemas (allOf)"),
    "not": _alternatives("not validate the schema (not)"),
}
