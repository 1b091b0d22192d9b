"""Strategic merge patch: a merge patch that knows which lists are maps or sets.

The schema says so with ``x-kubernetes-list-type`` (or ``x-kubernetes-patch-merge-key`` where the
two differ); all other lists are replaced. Directives: ``$patch``, ``$retainKeys``,
``$setElementOrder/LIST``, ``$deleteFromPrimitiveList/LIST``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apirule.local.apiserver import errors
from apirule.local.apiserver.nodes import Node, child_of, items_of, list_kind, merge_key

_PATCH = "$patch"
_RETAIN = "$retainKeys"
_ORDER = "$setElementOrder/"
_DROP = "$deleteFromPrimitiveList/"


def strategic_merge(target: Mapping[str, Any], patch: Any, node: Node) -> dict[str, Any]:
    """Return ``target`` with the patch applied. StatusError 400: the patch makes no sense."""
    if not isinstance(patch, dict):
        raise errors.bad_request("a strategic merge patch is an object")
    return _merge_map(target, patch, node)


def _merge_map(target: Mapping[str, Any], patch: dict[str, Any], node: Node) -> dict[str, Any]:
    for key, value in patch.items():
        if key.startswith((_RETAIN, _ORDER, _DROP)) and not isinstance(value, list):
            raise errors.bad_request(f"{key} of a strategic merge patch must be a list")
    directive = patch.get(_PATCH)
    if directive == "replace":
        return _plain(patch)
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise errors.bad_request(f"Wrong patch directive: {directive}. Use replace, delete, merge.")
    result = dict(target)
    if _RETAIN in patch:
        result = {key: value for key, value in result.items() if key in patch[_RETAIN]}
    for key, value in patch.items():
        if not _directive(key):
            _set(result, key, value, child_of(node, key))
    _carry_out(patch, result, node)
    return result


def _carry_out(patch: Mapping[str, Any], result: dict[str, Any], node: Node) -> None:
    """Do what the directives say of lists, after their items have been merged."""
    for key, value in patch.items():
        if key.startswith(_DROP):
            field = key.removeprefix(_DROP)
            result[field] = [item for item in result.get(field) or [] if item not in value]
        elif key.startswith(_ORDER):
            field = key.removeprefix(_ORDER)
            if isinstance(result.get(field), list):
                result[field] = _reordered(result[field], value, child_of(node, field))


def _set(result: dict[str, Any], key: str, value: Any, node: Node) -> None:
    if value is None:
        result.pop(key, None)
    elif isinstance(value, dict):
        if value.get(_PATCH) == "delete":
            result.pop(key, None)
        else:
            present = result.get(key)
            result[key] = _merge_map(present if isinstance(present, dict) else {}, value, node)
    elif isinstance(value, list):
        present = result.get(key)
        result[key] = _merge_list(present if isinstance(present, list) else [], value, node)
    else:
        result[key] = value


def _merge_list(target: list[Any], patch: list[Any], node: Node) -> list[Any]:
    kind = list_kind(node)
    if kind == "set":
        return [*target, *(item for item in patch if item not in target)]
    if kind != "map":
        return [_without_directives(item) for item in patch]
    key = merge_key(node)
    if any(isinstance(item, dict) and item.get(_PATCH) == "replace" for item in patch):
        return [
            _without_directives(item)
            for item in patch
            if not (isinstance(item, dict) and item.keys() == {_PATCH})
        ]
    result = list(target)
    for item in patch:
        if not isinstance(item, dict) or key not in item:
            raise errors.bad_request(
                f"map: {item!r} does not contain declared merge key: {key}. Add it to the item."
            )
        at = [i for i, old in enumerate(result) if isinstance(old, dict) and _at(old, key, item)]
        if item.get(_PATCH) == "delete":
            result = [old for i, old in enumerate(result) if i not in at]
        elif at:
            result[at[0]] = _merge_map(result[at[0]], item, items_of(node))
        else:
            result.append(_without_directives(item))
    return result


def _at(old: Mapping[str, Any], key: str, item: Mapping[str, Any]) -> bool:
    return key in old and bool(old[key] == item[key])


def _reordered(items: list[Any], order: list[Any], node: Node) -> list[Any]:
    """Put the items named in ``order`` into that order; the others stay behind their neighbour."""
    if list_kind(node) == "map":
        key = merge_key(node)
        named = [o.get(key) for o in order if isinstance(o, dict)]
        keys = [item.get(key) if isinstance(item, dict) else None for item in items]
    else:
        named, keys = list(order), list(items)
    rank = {repr(value): index for index, value in enumerate(named)}
    behind = -1
    ranks = []
    for key_value in keys:
        # A stable sort keeps those of one rank in the order they had.
        behind = rank.get(repr(key_value), behind)
        ranks.append(behind)
    return [item for _, item in sorted(zip(ranks, items, strict=True), key=lambda pair: pair[0])]


def _without_directives(value: Any) -> Any:
    if isinstance(value, dict):
        return _plain(value)
    if isinstance(value, list):
        return [_without_directives(item) for item in value]
    return value


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _without_directives(v) for k, v in value.items() if not _directive(k)}


def _directive(key: str) -> bool:
    return key in (_PATCH, _RETAIN) or key.startswith((_ORDER, _DROP))
