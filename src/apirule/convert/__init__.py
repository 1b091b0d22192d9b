"""One API version of an APIRule to another, by way of the one that is stored.

Every version has one way to the hub and one way back, so a new version is one line in a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from apirule.apis.meta import GroupVersionKind, Object
from apirule.convert import v2alpha1_v2
from apirule.convert.original import original_version, stamp

__all__ = ["HUB", "VERSIONS", "ConversionError", "convert", "original_version", "stamp"]

HUB = "v2"
"""The version that is stored, and that the controllers read."""

_Step = Callable[[Object], Object]


def _same(obj: Object) -> Object:
    return obj


_TO_HUB: Mapping[str, _Step] = {HUB: _same, "v2alpha1": v2alpha1_v2.to_hub}
_FROM_HUB: Mapping[str, _Step] = {HUB: _same, "v2alpha1": v2alpha1_v2.from_hub}
VERSIONS = tuple(_TO_HUB)


class ConversionError(ValueError):
    """An object or a wanted version that is not one of an APIRule's."""


def convert(obj: Object, version: str) -> Object:
    """Return an APIRule in another version; a bare ``v2``, not ``group/v2``."""
    gvk = GroupVersionKind.of(obj)
    for wanted in (gvk.version, version):
        if wanted not in VERSIONS:
            raise ConversionError(f"APIRule has no version {wanted!r} ({', '.join(VERSIONS)})")
    if gvk.version == version:
        return obj
    converted = _FROM_HUB[version](_TO_HUB[gvk.version](obj))
    return {**converted, "apiVersion": gvk._replace(version=version).api_version}
