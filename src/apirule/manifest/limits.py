"""How much a text may hold, so that none can exhaust the process: nesting, and what it unfolds to.

What is composed or decoded recursively is looked at beforehand: libyaml overflows the stack, which
no ``except`` catches, and a value that is nested deeply breaks whoever walks through it later.
"""

from __future__ import annotations

from typing import Any

import yaml

MAX_NESTING = 150
"""Deeper than any manifest; a CRD comes to about 60."""
MAX_VALUES = 300_000
"""In one document, with aliases unfolded; a list of 5 MB."""

# What may stand before the first value of a line; each of the signs can open a block.
_LEAD = " \t?:-\ufeff"

_TOO_DEEP = f"nested deeper than {MAX_NESTING} levels"


class TooMuchError(ValueError):
    """The text holds, or unfolds to, more than a manifest can."""


def check_yaml(text: str) -> None:
    """Raise TooMuchError for what a recursive reader must not see, yaml.YAMLError for no YAML."""
    lines = text.splitlines()
    lead = max((len(line) - len(line.lstrip(_LEAD)) for line in lines), default=0)
    # Cheap upper bounds; nearly all text ends here. A block needs a column more than the one around
    # it, but for a list, which may stand right below its key.
    if text.count("[") + text.count("{") + 2 * lead <= MAX_NESTING and len(text) <= MAX_VALUES:
        return
    depth = values = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.NodeEvent):
            values += 1
            depth += isinstance(event, yaml.CollectionStartEvent)
        if depth > MAX_NESTING:
            raise TooMuchError(_TOO_DEEP)
        if values > MAX_VALUES:
            raise TooMuchError(f"more than {MAX_VALUES} values")


def check_depth(value: Any) -> None:
    """Raise TooMuchError for a value that is nested too deeply."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_NESTING):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise TooMuchError(_TOO_DEEP)
