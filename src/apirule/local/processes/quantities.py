"""Kubernetes' quantities: ``250m`` processors, ``64Mi`` of memory. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

_QUANTITY = re.compile(r"([+-]?\d+\.?\d*|[+-]?\.\d+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


def read(text: str | int) -> Decimal:
    """Return the number a quantity stands for. ValueError: it is none."""
    found = _QUANTITY.fullmatch(str(text))
    if found is None:
        raise ValueError(f'"{text}" is no quantity')
    number, suffix = Decimal(found[1]), found[2] or ""
    if suffix in _BINARY:
        return number * Decimal(1 << _BINARY[suffix])
    exponent = _DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:])
    return number.scaleb(exponent)


def resource(
    reference: Mapping[str, Any], resources: Mapping[str, Any], capacity: Mapping[str, int]
) -> str:
    """Return what a ``resourceFieldRef`` gives of the ``resources`` of a container.

    A limit that is not set is all the machine has. ValueError: it cannot be given.
    """
    which, _, name = str(reference.get("resource", "")).partition(".")
    if which not in ("limits", "requests") or name not in capacity:
        raise ValueError(f"resource {reference.get('resource')} cannot be given to a container")
    limit = (resources.get("limits") or {}).get(name)
    if which == "limits":
        found = limit if limit is not None else capacity[name]
    else:
        # As an API server fills it in: who has only a limit requests that.
        found = (resources.get("requests") or {}).get(name, limit if limit is not None else 0)
    divisor = read(reference.get("divisor") or 1) or Decimal(1)
    return str(math.ceil(read(found) / divisor))
