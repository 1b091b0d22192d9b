"""Tables: what ``kubectl get`` prints, made by the server.

Custom resources have the columns of their CRD; the built-in kinds have theirs in ``columns``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from apirule.apis.meta import Object
from apirule.local.apiserver import columns
from apirule.local.apiserver.ages import age
from apirule.local.apiserver.jsonpath import JsonPath, PathError, parse
from apirule.local.apiserver.kinds import Kind


class Column(msgspec.Struct, frozen=True):
    name: str
    type: str
    cell: Callable[[Object, datetime], Any]
    format: str = ""
    description: str = ""
    priority: int = 0

    def definition(self) -> Object:
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        }


Columns = tuple[Column, ...]


def columns_of(kind: Kind) -> Columns:
    """Return the columns of a kind, the name first."""
    if not kind.custom and kind.resource in columns.BUILTIN:
        return _written(columns.BUILTIN[kind.resource])
    name = Column("Name", "string", columns.name, "name", "The name of the object.")
    printed = kind.info.printer_columns
    if not printed:
        return (name, Column("Age", "date", columns.created, "", "Time since its creation."))
    return (name, *(_column(spec) for spec in printed))


def _written(rows: Iterable[columns.Row]) -> Columns:
    return tuple(
        Column(name, "string", cell, "name" if name == "Name" else "", "", priority)
        for name, cell, priority in rows
    )


SCALE = _written(columns.SCALE)


def table(
    printed: Columns,
    objects: Iterable[Object],
    now: datetime,
    *,
    metadata: Mapping[str, Any],
    include: str,
    version: str,
    with_definitions: bool = True,
) -> Object:
    """Return a Table. ``include``: ``Metadata``, ``Object`` or ``None`` for the objects in it."""
    result: Object = {
        "kind": "Table",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": dict(metadata),
        "columnDefinitions": [c.definition() for c in printed] if with_definitions else None,
        "rows": [_row(obj, printed, now, include, version) for obj in objects],
    }
    return result


def partial(obj: Object, version: str = "v1") -> Object:
    """Return only the metadata of an object."""
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": obj["metadata"],
    }


def _row(obj: Object, printed: Columns, now: datetime, include: str, version: str) -> Object:
    row: Object = {"cells": [column.cell(obj, now) for column in printed]}
    if include == "Object":
        row["object"] = obj
    elif include != "None":
        row["object"] = partial(obj, version)
    return row


def _column(spec: Mapping[str, Any]) -> Column:
    try:
        path = parse(spec["jsonPath"])
    except PathError:
        path = None
    kind = spec["type"]
    return Column(
        name=spec["name"],
        type=kind,
        cell=lambda obj, now: _cell(path, kind, obj, now),
        format=spec.get("format", ""),
        description=spec.get("description", ""),
        priority=spec.get("priority", 0),
    )


def _cell(path: JsonPath | None, kind: str, obj: Object, now: datetime) -> Any:
    found = path.find(obj) if path else []
    if not found or found[0] is None:
        return None
    if kind == "date":
        return age(found[0], now)
    if kind == "string":
        return columns.text(found[0]) if len(found) == 1 else columns.text(found)
    return found[0]
