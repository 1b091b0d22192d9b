"""APIRule v2 and v2alpha1, both ways: one shape, two names."""

from __future__ import annotations

from apirule.apis.meta import Object


def to_hub(obj: Object) -> Object:
    return obj


def from_hub(obj: Object) -> Object:
    return obj
