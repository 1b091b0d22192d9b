"""Label and field selectors: parse them once, then ask whether a record matches.

A malformed selector is a 400 with Kubernetes' wording. Labels are read without decoding the whole
object, names without decoding anything: most watches select one of the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from apirule.apis.meta import Object
from apirule.local.apiserver import errors
from apirule.local.store import Record
from apirule.schema import KindInfo

_TOKEN = re.compile(r"\s*(==|!=|[=!(),<>]|[^\s=!(),<>]+)")
_SPECIAL = frozenset("=!(),<>")
# What fits into 64 bits.
_WHOLE = re.compile(r"[-+]?[0-9]{1,18}")

COMMON_FIELDS = frozenset(("metadata.name", "metadata.namespace"))

KIND_FIELDS: Mapping[str, frozenset[str]] = {
    "Pod": frozenset(
        (
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        )
    ),
    "Event": frozenset(
        (
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        )
    ),
    "Secret": frozenset(("type",)),
    "Namespace": frozenset(("status.phase",)),
    "Service": frozenset(("spec.clusterIP", "spec.type")),
    "ReplicaSet": frozenset(("status.replicas",)),
}
"""What a field selector may name, besides name and namespace. For custom resources see the CRD."""


class _Metadata(msgspec.Struct):
    labels: dict[str, str] | None = None


class _Labelled(msgspec.Struct):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)


_labels = msgspec.json.Decoder(_Labelled)


class Requirement(msgspec.Struct, frozen=True):
    """One condition. No ``values``: the key is (or, negated, is not) there at all."""

    key: str
    values: frozenset[str] | None
    negated: bool = False

    def met_by(self, labels: Mapping[str, str]) -> bool:
        present = self.key in labels
        if self.values is not None:
            present = present and labels[self.key] in self.values
        return present is not self.negated


class Bound(msgspec.Struct, frozen=True):
    """A condition on a label that is a whole number: more, or less, than a limit."""

    key: str
    limit: int
    above: bool

    def met_by(self, labels: Mapping[str, str]) -> bool:
        text = labels.get(self.key, "")
        if not _WHOLE.fullmatch(text):
            return False
        return int(text) > self.limit if self.above else int(text) < self.limit


class Selection(msgspec.Struct, frozen=True):
    """What of a collection a request is about."""

    labels: tuple[Requirement | Bound, ...] = ()
    fields: tuple[Requirement, ...] = ()

    @property
    def everything(self) -> bool:
        return not self.labels and not self.fields

    def matches(self, record: Record) -> bool:
        if self.everything:
            return True
        names = {"metadata.name": record.name.name, "metadata.namespace": record.name.namespace}
        others = []
        for requirement in self.fields:
            if requirement.key not in names:
                others.append(requirement)
            elif not requirement.met_by(names):
                return False
        if self.labels:
            labels = _labels.decode(record.data).metadata.labels or {}
            if not all(requirement.met_by(labels) for requirement in self.labels):
                return False
        if not others:
            return True
        obj = record.decode()
        return all(r.met_by({r.key: _field(obj, r.key)}) for r in others)


def parse_labels(text: str) -> tuple[Requirement | Bound, ...]:
    """Parse ``a=b,c in (d,e),!f,g>1``. StatusError 400: it is not a selector."""
    tokens = _Tokens(text)
    return tuple(_requirements(tokens))


def parse_fields(text: str, kind: KindInfo) -> tuple[Requirement, ...]:
    """Parse ``metadata.name=a,status.phase!=b``. StatusError 400: no such field to select by."""
    of_kind = KIND_FIELDS.get(kind.kind, ()) if kind.builtin else kind.selectable_fields
    requirements = []
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"([^=!]+)(==|!=|=)(.*)", part, re.DOTALL)
        if match is None:
            raise errors.bad_request(
                f"invalid selector: '{text}'; can't understand '{part}': use FIELD=VALUE"
            )
        key, operator, value = match.groups()
        if key not in COMMON_FIELDS and key not in of_kind:
            message = f"field label not supported: {key}"
            if kind.builtin:
                message = f'field label "{key}" not supported for {kind.kind}'
            raise errors.bad_request(message)
        requirements.append(Requirement(key, frozenset((value,)), operator == "!="))
    return tuple(requirements)


class _Tokens:
    def __init__(self, text: str) -> None:
        self._tokens = _TOKEN.findall(text)
        self._at = 0

    def peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self._at += 1
        return token


def _requirements(tokens: _Tokens) -> Iterator[Requirement | Bound]:
    if not tokens.peek():
        return
    while True:
        yield _requirement(tokens)
        separator = tokens.take()
        if not separator:
            return
        if separator != ",":
            raise _malformed(f"found '{separator}', expected: ',' or 'end of string'")


def _requirement(tokens: _Tokens) -> Requirement | Bound:
    absent = tokens.peek() == "!"
    if absent:
        tokens.take()
    key = tokens.take()
    if not key or key in _SPECIAL:
        raise _malformed(f"found '{key}', expected: identifier")
    if absent or tokens.peek() in ("", ","):
        return Requirement(key, None, absent)
    operator = tokens.take()
    if operator in ("=", "==", "!="):
        value = "" if tokens.peek() in ("", ",") else tokens.take()
        return Requirement(key, frozenset((value,)), operator == "!=")
    if operator in ("in", "notin"):
        return Requirement(key, frozenset(_values(tokens)), operator == "notin")
    if operator in (">", "<"):
        limit = tokens.take()
        if not _WHOLE.fullmatch(limit):
            raise _malformed("for 'Gt', 'Lt' operators, the value must be an integer")
        return Bound(key, int(limit), above=operator == ">")
    raise _malformed(f"found '{operator}', expected: in, notin, =, ==, !=, gt, lt")


def _values(tokens: _Tokens) -> Iterator[str]:
    opening = tokens.take()
    if opening != "(":
        raise _malformed(f"found '{opening}' expected: '('")
    while True:
        word = tokens.take()
        if word == ")":
            return
        if word == ",":
            continue
        if not word or word in _SPECIAL:
            raise _malformed(f"found '{word}', expected: ',', ')' or identifier")
        yield word


def _malformed(what: str) -> errors.StatusError:
    return errors.bad_request(f"unable to parse requirement: {what}")


def _field(obj: Object, path: str) -> str:
    value: Any = obj
    if path == "source":
        path = "source.component"
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
