"""Sets of fields: which places of an object somebody owns.

A path is a tuple of the elements that Kubernetes writes in FieldsV1: ``f:spec``,
``k:{"name":"a"}`` (an item of a list that is a map), ``v:"x"`` (an item of a set). A set of
fields is a frozenset of paths; a container that is owned itself stands in it beside its members.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from apirule.local.apiserver.nodes import (
    Node,
    atomic_map,
    child_of,
    declares,
    default_key,
    items_of,
    list_keys,
    list_kind,
)

Path = tuple[str, ...]
Fields = frozenset[Path]

NOTHING: Fields = frozenset()

_encode = msgspec.json.Encoder(order="sorted").encode


class UnkeyedItemError(Exception):
    """An item of a list that is a map lacks one of the list's keys."""

    def __init__(self, path: Path, index: int, key: str) -> None:
        super().__init__(
            f"{path_text(path)}: element {index}: associative list with keys has an element that"
            f' omits key field "{key}" (and doesn\'t have default value)'
        )


class Difference(msgspec.Struct, frozen=True):
    """How one object differs from another, in fields."""

    added: Fields
    modified: Fields
    removed: Fields


def owned_by_applying(obj: Mapping[str, Any], node: Node) -> Fields:
    """Return the fields that somebody owns who applies ``obj``."""
    return frozenset(_applied(obj, node, ()))


def compare(old: Any, new: Any, node: Node) -> Difference:
    added: set[Path] = set()
    modified: set[Path] = set()
    removed: set[Path] = set()
    _compare(old, new, node, (), (added, modified, removed))
    return Difference(frozenset(added), frozenset(modified), frozenset(removed))


def from_v1(fields: Any) -> Fields:
    """Read FieldsV1. ValueError: it is none."""
    return frozenset(_read(fields, ()))


def to_v1(fields: Fields) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path in sorted(fields):
        node = tree
        for element in path:
            node = node.setdefault(element, {})
        # Marked for now; the mark stays only where the place has members of its own.
        node["."] = {}
    return _trimmed(tree)


def path_text(path: Path) -> str:
    """Return a path as messages show it: ``.spec.ports[port=80,protocol="TCP"].name``."""
    text = ""
    for element in path:
        kind, _, rest = element.partition(":")
        if kind == "f":
            text += f".{rest}"
        elif kind == "k":
            keys = msgspec.json.decode(rest)
            text += "[" + ",".join(f"{k}={_encode(v).decode()}" for k, v in keys.items()) + "]"
        elif kind == "v":
            text += f"[={rest}]"
        else:
            text += f"[{rest}]"
    return text


def beneath(fields: Fields) -> Fields:
    """Return all places that are in the set or have a member in it."""
    return frozenset(path[:end] for path in fields for end in range(1, len(path) + 1))


def remove(value: Any, paths: Fields, node: Node) -> Any:
    """Return the value without what is at the paths; maps that become empty by it go too."""
    tree: dict[str, Any] = {}
    for path in paths:
        branch = tree
        for element in path:
            branch = branch.setdefault(element, {})
        branch["."] = {}
    return _without(value, tree, node)


def item_path(item: Any, node: Node, index: int) -> str:
    """Return the element that names an item of a granular list; by its index if it has no key."""
    if list_kind(node) == "set":
        return f"v:{_encode(item).decode()}"
    keys = {}
    for key in list_keys(node) if isinstance(item, dict) else ():
        value = item.get(key, default_key(node, key))
        if value is not None:
            keys[key] = value
    return f"k:{_encode(keys).decode()}" if keys else f"i:{index}"


def granular(value: Any, node: Node) -> bool:
    """Tell whether the members of a value are owned one by one."""
    if isinstance(value, dict):
        return not atomic_map(node)
    return isinstance(value, list) and list_kind(node) in ("map", "set") and _keyed(node)


def members(value: Any, node: Node) -> Iterator[tuple[str, Any, Node]]:
    """Yield path element, value and node of each member of a granular value."""
    if isinstance(value, dict):
        for key, member in value.items():
            yield f"f:{key}", member, child_of(node, key)
    else:
        for index, item in enumerate(value):
            yield item_path(item, node, index), item, items_of(node)


def _keyed(node: Node) -> bool:
    return list_kind(node) == "set" or bool(list_keys(node))


def _applied(value: Any, node: Node, at: Path) -> Iterator[Path]:
    if not granular(value, node):
        yield at
        return
    for element, member, child in members(value, node):
        if element.startswith("i:"):
            raise UnkeyedItemError(at, int(element[2:]), list_keys(node)[0])
        path = (*at, element)
        yield from _applied(member, child, path)
        is_map_key = isinstance(value, dict) and not declares(node, element[2:])
        if isinstance(value, list) or is_map_key or member in ({}, []):
            yield path


def _all(value: Any, node: Node, at: Path) -> Iterator[Path]:
    """Yield a value with everything in it: what is added or removed as a whole."""
    if at:
        yield at
    if granular(value, node):
        for element, member, child in members(value, node):
            yield from _all(member, child, (*at, element))


def _compare(
    old: Any, new: Any, node: Node, at: Path, into: tuple[set[Path], set[Path], set[Path]]
) -> None:
    added, modified, removed = into
    same_shape = type(old) is type(new) and granular(old, node) and granular(new, node)
    if not same_shape:
        if old != new or type(old) is not type(new):
            if granular(new, node) or granular(old, node):
                removed.update(_all(old, node, at))
                added.update(_all(new, node, at))
            else:
                modified.add(at)
        return
    before = {element: (value, child) for element, value, child in members(old, node)}
    after = {element: (value, child) for element, value, child in members(new, node)}
    for element, (value, child) in after.items():
        path = (*at, element)
        if element not in before:
            added.update(_all(value, child, path))
        else:
            _compare(before[element][0], value, child, path, into)
    for element, (value, child) in before.items():
        if element not in after:
            removed.update(_all(value, child, (*at, element)))


def _read(fields: Any, at: Path) -> Iterator[Path]:
    if not isinstance(fields, dict):
        raise ValueError(f"fieldsV1 at {path_text(at) or '.'} is not an object")  # noqa: TRY004 - one error for bad input
    if at and (not fields or "." in fields):
        yield at
    for element, below in fields.items():
        if element == ".":
            continue
        if not _is_element(element):
            raise ValueError(f"fieldsV1 has an element {element!r}")
        yield from _read(below, (*at, element))


def _is_element(text: str) -> bool:
    kind, rest = text[:2], text[2:]
    if kind == "f:":
        return True
    if kind == "i:":
        return rest.isdecimal()
    if kind not in ("k:", "v:"):
        return False
    try:
        value = msgspec.json.decode(rest)
    except msgspec.DecodeError:
        return False
    return kind == "v:" or isinstance(value, dict)


def _trimmed(tree: dict[str, Any]) -> dict[str, Any]:
    if tree.keys() == {"."}:
        return {}
    return {key: _trimmed(below) if key != "." else below for key, below in tree.items()}


def _without(value: Any, tree: Mapping[str, Any], node: Node) -> Any:
    if isinstance(value, dict):
        kept = {}
        for key, member in value.items():
            branch = tree.get(f"f:{key}")
            if branch is None:
                kept[key] = member
                continue
            if "." in branch:
                continue
            left = _without(member, branch, child_of(node, key))
            if left or not isinstance(left, (dict, list)):
                kept[key] = left
        return kept
    if isinstance(value, list) and granular(value, node):
        kept_items = []
        for index, item in enumerate(value):
            branch = tree.get(item_path(item, node, index))
            if branch is None:
                kept_items.append(item)
            elif "." not in branch:
                kept_items.append(_without(item, branch, items_of(node)))
        return kept_items
    return value


def apply_onto(live: Any, applied: Any, node: Node) -> Any:
    """Return ``live`` with everything that ``applied`` says; what it does not mention stays."""
    if isinstance(live, dict) and isinstance(applied, dict) and granular(live, node):
        merged = dict(live)
        for key, value in applied.items():
            present = key in live
            merged[key] = apply_onto(live[key], value, child_of(node, key)) if present else value
        return merged
    if isinstance(live, list) and isinstance(applied, list) and granular(applied, node):
        return _apply_list(live, applied, node)
    return applied


def _apply_list(live: list[Any], applied: list[Any], node: Node) -> list[Any]:
    given = {element: value for element, value, _ in members(applied, node)}
    merged = []
    for element, item, child in members(live, node):
        if element in given:
            merged.append(apply_onto(item, given.pop(element), child))
        else:
            merged.append(item)
    # The applied order wins among the items that were applied, as far as they are new.
    return [*merged, *given.values()]


__all__ = [
    "NOTHING",
    "Difference",
    "Fields",
    "Path",
    "UnkeyedItemError",
    "apply_onto",
    "beneath",
    "compare",
    "from_v1",
    "owned_by_applying",
    "path_text",
    "remove",
    "to_v1",
]
