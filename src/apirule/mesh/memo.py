"""What was built before, by everything it was built from.

Building is a function, so remembering changes only how long it takes: a key holds every value the
result depends on. What is handed out is shared and must not be changed. ``going_on`` is the
exception, for choices that should not change only because something else did.
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
        self._of: OrderedDict[int, tuple[Resource, dict[Hashable, object]]] = OrderedDict()
        self._latest: OrderedDict[Hashable, tuple[object, object]] = OrderedDict()
        self._choices: OrderedDict[Hashable, object] = OrderedDict()

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
        """Remember what depends on this very value, and on ``key``.

        Resources are told apart by identity, which is quick and never wrong: they do not change,
        and an equal one costs building once more.
        """
        place = id(resource)
        entry = self._of.get(place)
        if entry is None or entry[0] is not resource:
            entry = self._of[place] = (resource, {})
        self._of.move_to_end(place)
        known = entry[1]
        if key in known:
            return cast("T", known[key])
        value = known[key] = make()
        if len(self._of) > self._entries:
            self._of.popitem(last=False)
        return value

    def going_on(self, key: Hashable, choose: Callable[[T | None], T]) -> T:
        """Choose with a view to what was chosen last; None the first time."""
        before = cast("T | None", self._choices.pop(key, None))
        chosen = self._choices[key] = choose(before)
        if len(self._choices) > self._entries:
            self._choices.popitem(last=False)
        return chosen

    def latest(self, slot: Hashable, key: object, make: Callable[[], T]) -> T:
        """Remember only what was last made for a slot: for what is large and made of much.

        ``key`` is compared, not hashed.
        """
        entry = self._latest.get(slot)
        if entry is not None and entry[0] == key:
            self._latest.move_to_end(slot)
            return cast("T", entry[1])
        value = make()
        self._latest[slot] = (key, value)
        if len(self._latest) > self._entries:
            self._latest.popitem(last=False)
        return value
