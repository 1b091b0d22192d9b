"""What was built before, by everything it was built from.

Building is a function, so remembering changes only how long it takes: a key holds every value the
result depends on. What is handed out is shared and must not be changed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar, cast

from apirule.apis.meta import Resource

T = TypeVar("T")

_ENTRIES = 50_000


class Memo:
    """Keep one per engine and hand it to every build; the least used entries are forgotten."""

    def __init__(self, entries: int = _ENTRIES) -> None:
        self._entries = entries
        self._values: OrderedDict[Hashable, object] = OrderedDict()

    def __call__(self, key: Hashable, make: Callable[[], T]) -> T:
        if key in self._values:
            self._values.move_to_end(key)
            return cast("T", self._values[key])
        value = make()
        self._values[key] = value
        if len(self._values) > self._entries:
            self._values.popitem(last=False)
        return value

    def of(self, resource: Resource, key: Hashable, make: Callable[[], T]) -> T:
        """Remember what depends on one form of an object, and on ``key``.

        An object that does not say which form it is in is built every time.
        """
        version = version_of(resource)
        return make() if version is None else self((version, key), make)


def version_of(resource: Resource) -> Hashable | None:
    """Return what tells one form of an object's content from every other; None: it does not say."""
    meta = resource.metadata
    version = str(meta.generation or meta.resource_version)
    if not meta.uid or version in ("", "0"):
        return None
    return (resource.ref, meta.uid, version)
