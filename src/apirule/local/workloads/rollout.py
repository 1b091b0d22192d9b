"""How a Deployment moves from one template to the next: pure, a step at a time.

Numbers in, numbers out. The rules are Kubernetes': never more Pods than ``replicas + maxSurge``,
never fewer available ones than ``replicas - maxUnavailable``; unhealthy old Pods go first, as
nobody misses them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from apirule import names
from apirule.apis.meta import Object

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"


class Size(msgspec.Struct, frozen=True):
    """One ReplicaSet: how many Pods it is to have, has, and has available."""

    name: str
    wanted: int
    present: int
    available: int


class Limits(msgspec.Struct, frozen=True):
    """What a Deployment allows on the way."""

    replicas: int
    surge: int
    unavailable: int
    recreate: bool = False


def limits_of(spec: Mapping[str, Any]) -> Limits:
    replicas = int(spec.get("replicas", 1))
    strategy = spec.get("strategy") or {}
    if strategy.get("type") == "Recreate":
        return Limits(replicas, 0, replicas, recreate=True)
    rolling = strategy.get("rollingUpdate") or {}
    surge = _share(rolling.get("maxSurge", "25%"), replicas, up=True)
    unavailable = _share(rolling.get("maxUnavailable", "25%"), replicas, up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1  # else nothing could ever move
    return Limits(replicas, surge, min(unavailable, replicas))


def template_hash(template: Object) -> str:
    return names.digest(json.dumps(template, sort_keys=True))


def next_sizes(limits: Limits, new: Size, old: Sequence[Size]) -> dict[str, int]:
    """Return the ReplicaSets to be scaled now, and to what. Empty: wait, or all is done.

    ``old`` is in order of age, the oldest first.
    """
    if limits.recreate:
        return _recreate(limits, new, old)
    sizes: dict[str, int] = {}
    wanted_now = new.wanted
    if new.wanted > limits.replicas:
        wanted_now = limits.replicas
    elif new.wanted < limits.replicas:
        room = limits.replicas + limits.surge - sum(s.wanted for s in (*old, new))
        wanted_now = min(limits.replicas, new.wanted + max(0, room))
    if wanted_now != new.wanted:
        sizes[new.name] = wanted_now
    return sizes | _shrink(limits, new, old)


def _recreate(limits: Limits, new: Size, old: Sequence[Size]) -> dict[str, int]:
    sizes = {size.name: 0 for size in old if size.wanted}
    if sizes or any(size.present for size in old):
        return sizes
    return {} if new.wanted == limits.replicas else {new.name: limits.replicas}


def _shrink(limits: Limits, new: Size, old: Sequence[Size]) -> dict[str, int]:
    """Take from the old ones what the limits allow, unavailable Pods first."""
    least = limits.replicas - limits.unavailable
    total = sum(size.wanted for size in (*old, new))
    spare = total - least - max(0, new.wanted - new.available)
    left = {size.name: size.wanted for size in old}
    for size in old:
        idle = min(spare, max(0, size.wanted - size.available))
        if idle > 0:
            left[size.name] -= idle
            spare -= idle
    spare = min(spare, sum(size.available for size in (*old, new)) - least)
    for size in old:
        take = min(spare, left[size.name])
        if take > 0:
            left[size.name] -= take
            spare -= take
    return {size.name: left[size.name] for size in old if left[size.name] != size.wanted}


def _share(value: int | str, replicas: int, *, up: bool) -> int:
    if isinstance(value, int):
        return value
    portion = int(value.removesuffix("%")) * replicas / 100
    return math.ceil(portion) if up else math.floor(portion)
