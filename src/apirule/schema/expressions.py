"""The CEL rules of a schema (``x-kubernetes-validations``), compiled once and evaluated per object.

A rule that does not compile, or fails while it is evaluated, refuses the object: a rule nobody can
check must not pass. ``compile_problems`` tells the author of a CRD beforehand.

Types follow the schema as far as they decide what an expression may do; objects are maps, so a
misspelled field is an error when the rule runs, not when it is compiled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cel_expr_python import cel
from cel_expr_python.ext import (
    ext_bindings,
    ext_encoders,
    ext_math,
    ext_optional,
    ext_strings,
)

from apirule.problem import ROOT, FieldPath, Problem, Reason
from apirule.schema import formats, messages
from apirule.schema.matching import simple_match
from apirule.schema.ratcheting import counterpart, list_keys, same

# What the bindings raise for an expression or a value they cannot take.
_CEL_ERRORS = (RuntimeError, TypeError, ValueError, OverflowError)
_OLD_UNDECLARED = "undeclared reference to 'oldSelf"
_STEP = re.compile(r"\.([^.\[]+)|\[(?:'((?:[^'\\]|\\.)*)'|(\d+))\]")
_RESERVED = re.compile(
    r"true|false|null|in|as|break|const|continue|else|for|function|if|import|let|loop|package"
    r"|namespace|return|var|void|while"
)
_REASONS = {
    "FieldValueInvalid": Reason.INVALID,
    "FieldValueForbidden": Reason.FORBIDDEN,
    "FieldValueRequired": Reason.REQUIRED,
    "FieldValueDuplicate": Reason.DUPLICATE,
}

_Convert = Callable[[Any], Any]


class Rules:
    """All rules of one schema."""

    def __init__(self, openapi: Mapping[str, Any]) -> None:
        self._root = _compile(openapi, ROOT)

    def __bool__(self) -> bool:
        return self._root is not None

    def evaluate(self, obj: Mapping[str, Any], old: Mapping[str, Any] | None) -> list[Problem]:
        """Return what the rules say, in schema order. ``old`` is what an update replaces."""
        if self._root is None:
            return []
        return list(_evaluate(obj, old, self._root, ROOT))

    def compile_problems(self) -> list[Problem]:
        """Return a problem for each rule that is no CEL; ``field`` is its place in the schema."""
        return [] if self._root is None else list(_uncompiled(self._root))


class _Place:
    """One place of a schema that has rules, or has places with rules below it."""

    __slots__ = ("additional", "items", "keys", "properties", "rules")

    def __init__(self, schema: Mapping[str, Any], at: FieldPath) -> None:
        self.rules = [
            _Rule(rule, schema, at / "x-kubernetes-validations" / index)
            for index, rule in enumerate(schema.get("x-kubernetes-validations") or ())
        ]
        self.properties = {
            name: place
            for name, child in (schema.get("properties") or {}).items()
            if (place := _compile(child, at / "properties" / name))
        }
        self.additional = _compile(schema.get("additionalProperties"), at / "additionalProperties")
        self.items = _compile(schema.get("items"), at / "items")
        self.keys = list_keys(schema)

    @property
    def is_needed(self) -> bool:
        return bool(self.rules or self.properties or self.additional or self.items)


def _compile(schema: object, at: FieldPath) -> _Place | None:
    if not isinstance(schema, Mapping):
        return None
    place = _Place(schema, at)
    return place if place.is_needed else None


class _Rule:
    """One compiled rule. ``broken`` says why it cannot be evaluated."""

    def __init__(self, rule: Mapping[str, Any], schema: Mapping[str, Any], at: FieldPath) -> None:
        self.text = str(rule.get("rule", ""))
        self.at = at
        self.message = rule.get("message") or f"failed rule: {' '.join(self.text.split())}"
        self.reason = _REASONS.get(rule.get("reason", ""), Reason.INVALID)
        self.path = _steps(rule.get("fieldPath", ""))
        self.fix = messages.first_sentence(str(schema.get("description", "")))
        self.old_is_optional = rule.get("optionalOldSelf") is True
        self.looks_back = self.old_is_optional
        self.broken = ""
        self._convert = _converter(schema, escape="__" in self.text)
        self._type = _cel_type(schema)
        self._program = self._translate(self.text)
        self._matches = simple_match(self.text)
        text = rule.get("messageExpression")
        self._message_program = self._translate(text) if text and not self.broken else None

    def _translate(self, text: str) -> cel.Expression | None:
        try:
            return self._build(text)
        except _CEL_ERRORS as error:
            if self.looks_back or _OLD_UNDECLARED not in str(error):
                self.broken = str(error).strip()
                return None
        self.looks_back = True
        return self._translate(text)

    def _build(self, text: str) -> cel.Expression:
        variables = {"self": self._type}
        if self.old_is_optional:
            # The bindings take no optional values, so one is made inside the expression.
            variables["previous__"] = cel.Type.List(self._type)
            old = "size(previous__) == 0 ? optional.none() : optional.of(previous__[0])"
            text = f"cel.bind(oldSelf, {old}, ({text}\n))"
        elif self.looks_back:
            variables["oldSelf"] = self._type
        return _environment(variables).compile(text)

    def check(self, value: Any, old: Any, at: FieldPath) -> Iterator[Problem]:
        """``old`` is ``_ABSENT`` when there is nothing to compare with."""
        if self.looks_back and old is _ABSENT and not self.old_is_optional:
            return
        if self.broken or self._program is None:
            yield self._problem(value, at, f"the rule cannot be compiled: {self.broken}")
            return
        if self._matches is not None and isinstance(value, str) and self._matches(value):
            return
        try:
            data = self._data(value, old)
        except ValueError as error:
            yield self._problem(value, at, f"{error} evaluating rule: {self.message}")
            return
        outcome = _run(self._program, data)
        if outcome is True:
            return
        if outcome is not False:
            yield self._problem(value, at, f"{outcome} evaluating rule: {self.message}")
            return
        yield self._problem(value, at, self._told(data) or self.message)

    def _told(self, data: dict[str, Any]) -> str:
        """Return what the rule's messageExpression says; empty if it has none or it fails."""
        told = _run(self._message_program, data) if self._message_program is not None else None
        is_line = isinstance(told, str) and not isinstance(told, _Failed) and "\n" not in told
        return str(told).strip() if is_line else ""

    def _data(self, value: Any, old: Any) -> dict[str, Any]:
        data = {"self": self._convert(value)}
        if self.old_is_optional:
            data["previous__"] = [] if old is _ABSENT else [self._convert(old)]
        elif self.looks_back:
            data["oldSelf"] = self._convert(old)
        return data

    def _problem(self, value: Any, at: FieldPath, detail: str) -> Problem:
        field = FieldPath(*at.parts, *self.path)
        shown = "" if isinstance(value, dict | list) else f" {messages.show(value)}:"
        text = {
            Reason.REQUIRED: f"Required value: {detail}",
            Reason.FORBIDDEN: f"Forbidden: {detail}",
            Reason.DUPLICATE: f"Duplicate value:{shown} {detail}",
        }.get(self.reason, f"Invalid value:{shown} {detail}")
        return Problem(field, self.reason, text, self.fix)


class _Failed(str):
    """Why a program gave no value."""

    __slots__ = ()


_ABSENT = object()


def _run(program: cel.Expression, data: dict[str, Any]) -> Any:
    try:
        result = program.eval(data=data)
        failed = result.type() == cel.Type.ERROR
        return _Failed(result.value()) if failed else result.plain_value()
    except _CEL_ERRORS as error:
        return _Failed(error)


def _evaluate(
    value: Any, old: Any, place: _Place, at: FieldPath, *, unchanged: bool = False
) -> Iterator[Problem]:
    if value is None:
        return
    unchanged = unchanged or (old is not None and same(value, old))
    for rule in place.rules:
        # What stays as it was may stay so, but for a rule that looks at both.
        if not unchanged or rule.looks_back:
            yield from rule.check(value, _ABSENT if old is None else old, at)
    for part, item, before, child in _children(value, old, place):
        yield from _evaluate(item, before, child, at / part, unchanged=unchanged)


def _children(value: Any, old: Any, place: _Place) -> Iterator[tuple[str | int, Any, Any, _Place]]:
    """Yield what of a value has rules: its part, the item, what it was before, and its place."""
    if isinstance(value, dict):
        before = old if isinstance(old, dict) else {}
        for name, child in place.properties.items():
            if name in value:
                yield name, value[name], before.get(name), child
        if place.additional is not None:
            for name in value:
                if name not in place.properties:
                    yield name, value[name], before.get(name), place.additional
    elif isinstance(value, list) and place.items is not None:
        for index, item in enumerate(value):
            yield index, item, counterpart(item, old, place.keys), place.items


def _uncompiled(place: _Place) -> Iterator[Problem]:
    for rule in place.rules:
        if rule.broken:
            detail = f"compilation failed: {rule.broken}"
            message = messages.invalid(rule.text, detail)
            fix = "Correct the expression; it must be CEL and use only self and oldSelf."
            yield Problem(rule.at / "rule", Reason.INVALID, message, fix)
    for child in (*place.properties.values(), place.additional, place.items):
        if child is not None:
            yield from _uncompiled(child)


def _environment(variables: Mapping[str, cel.Type]) -> cel.Env:
    return cel.NewEnv(
        variables=variables,
        extensions=[
            ext_bindings.ExtBindings(),
            ext_encoders.ExtEncoders(),
            ext_math.ExtMath(),
            ext_optional.ExtOptional(),
            ext_strings.ExtStrings(),
        ],
    )


def _cel_type(schema: object) -> cel.Type:
    if not isinstance(schema, Mapping) or schema.get("nullable") is True:
        return cel.Type.DYN
    kind, form = schema.get("type"), str(schema.get("format"))
    if kind == "array":
        return cel.Type.List(_cel_type(schema.get("items")))
    if kind == "object":
        return cel.Type.Map(cel.Type.STRING, _cel_type(schema.get("additionalProperties")))
    if kind == "string":
        return _CEL_FORMATS.get(form, cel.Type.STRING)
    return _CEL_TYPES.get(str(kind), cel.Type.DYN)


_CEL_TYPES = {"boolean": cel.Type.BOOL, "integer": cel.Type.INT, "number": cel.Type.DOUBLE}
_CEL_FORMATS = {
    "date": cel.Type.TIMESTAMP,
    "date-time": cel.Type.TIMESTAMP,
    "duration": cel.Type.DURATION,
}


def _converter(schema: object, *, escape: bool) -> _Convert:
    """Return what turns a JSON value into what CEL expects of its schema."""
    return _conversion(schema, escape=escape) or (lambda value: value)


def _conversion(schema: object, *, escape: bool) -> _Convert | None:
    """As ``_converter``; None where values can be handed over as they are."""
    if not isinstance(schema, Mapping):
        return None
    kind = schema.get("type")
    if kind == "array":
        return _list_conversion(_conversion(schema.get("items"), escape=escape))
    if kind == "object":
        return _object_conversion(schema, escape=escape)
    if kind == "number":
        return _to_double
    return _STRING_CONVERSIONS.get(str(schema.get("format"))) if kind == "string" else None


def _to_double(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _parsed(parse: Callable[[str], Any]) -> _Convert:
    return lambda value: parse(value) if isinstance(value, str) else value


_STRING_CONVERSIONS: Mapping[str, _Convert] = {
    "date": _parsed(lambda text: formats.parse_date_time(f"{text}T00:00:00Z")),
    "date-time": _parsed(formats.parse_date_time),
    "duration": _parsed(formats.parse_duration),
}


def _list_conversion(convert: _Convert | None) -> _Convert | None:
    if convert is None:
        return None
    return lambda value: [convert(i) for i in value] if isinstance(value, list) else value


def _object_conversion(schema: Mapping[str, Any], *, escape: bool) -> _Convert | None:
    properties: Mapping[str, Any] = schema.get("properties") or {}
    converts = {n: c for n, s in properties.items() if (c := _conversion(s, escape=escape))}
    names = {n: _escape(n) for n in properties if _escape(n) != n} if escape else {}
    other = _conversion(schema.get("additionalProperties"), escape=escape)
    if not (converts or names or other):
        return None

    def convert(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            names.get(name, name): change(item)
            if (change := converts.get(name, None if name in properties else other))
            else item
            for name, item in value.items()
        }

    return convert


def _escape(name: str) -> str:
    """Write a property name as Kubernetes lets rules write it: ``namespace`` is a CEL keyword."""
    if _RESERVED.fullmatch(name):
        return f"__{name}__"
    for text, word in (("__", "underscores"), (".", "dot"), ("-", "dash"), ("/", "slash")):
        name = name.replace(text, f"__{word}__")
    return name


def _steps(path: str) -> tuple[str | int, ...]:
    """Read a rule's ``fieldPath``, such as ``.template.metadata['labels']``."""
    return tuple(
        int(index) if index else (name or key.replace("\\'", "'"))
        for name, key, index in _STEP.findall(path)
    )
