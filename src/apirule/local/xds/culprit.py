"""Which object is to blame when a proxy refuses a resource made of many, or none can be made.

Envoy names the resource, rarely the entry; a failure of ours names nothing. So the suspects are
tried: first all of them are held back (each as it last went well, or else rejected), then they are
let in, half of them at a time, the older ones first. What goes wrong on its own is a culprit.
Nothing in force is taken away by that: the proxy keeps its old configuration through every
refusal, and every object that is held back has the form it had.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

from apirule.apis.meta import ObjectRef, Resource
from apirule.local.xds import words
from apirule.local.xds.ads import Refusal
from apirule.local.xds.world import ISTIO, Moment
from apirule.mesh.config import MeshSettings, ProxyConfig
from apirule.mesh.proxy import Proxy
from apirule.mesh.relevance import matters

_ISTIO = frozenset(kind.gvk.kind for kind in ISTIO)
_SUSPECTS = _ISTIO | {"Secret", "ConfigMap", "Service", "EndpointSlice"}

Attempt = Callable[[frozenset[ObjectRef]], Awaitable[str | None]]
"""Hold these objects back and return what goes wrong then, in words; None: nobody answers."""


def suspects_of(
    refusals: Collection[Refusal],
    config: ProxyConfig,
    moment: Moment,
    accepted: Mapping[ObjectRef, Resource],
    rejected: Collection[ObjectRef],
) -> tuple[list[ObjectRef], Mapping[ObjectRef, Resource]]:
    """Return the suspects, those changed last at the end, and what the proxy accepted of them.

    These are the objects behind the refused resources that have changed since the proxy last held
    everything; if none has, all of Istio's objects behind them, and nothing counts as accepted.
    """
    sources = {
        ref
        for refusal in blamed(refusals)
        for ref in config.sources.get((refusal.type, refusal.name), ())
        if ref.kind in _SUSPECTS and ref in moment.resources and ref not in rejected
    }
    changed = {ref for ref in sources if accepted.get(ref) != moment.resources[ref]}
    suspects = changed or {ref for ref in sources if ref.kind in _ISTIO}
    return _in_order(suspects, moment), accepted if changed else {}


def suspects_of_failure(
    proxy: Proxy,
    moment: Moment,
    before: Mapping[ObjectRef, Resource],
    rejected: Collection[ObjectRef],
    settings: MeshSettings,
) -> list[ObjectRef]:
    """Return the suspects where a proxy cannot be built at all, those changed last at the end.

    ``before`` is the world it was last built of; empty if it never was.
    """
    suspects = {
        ref
        for ref, resource in moment.resources.items()
        if ref.kind in _SUSPECTS
        and ref not in rejected
        and before.get(ref) != resource
        and matters(resource, proxy, settings)
    }
    return _in_order(suspects, moment)


def _in_order(suspects: Collection[ObjectRef], moment: Moment) -> list[ObjectRef]:
    return sorted(suspects, key=lambda ref: (moment.changed_at.get(ref, 0), ref))


async def find_culprits(suspects: Sequence[ObjectRef], attempt: Attempt) -> dict[ObjectRef, str]:
    """Return the culprits with what goes wrong; empty if it is none of them, or nobody answers."""
    everybody = frozenset(suspects)
    wrong = await attempt(everybody)
    if wrong is None or wrong:
        return {}
    innocent: frozenset[ObjectRef] = frozenset()
    culprits: dict[ObjectRef, str] = {}
    # All of them together have just been refused, so that need not be tried again.
    groups = _halves(suspects) if len(suspects) > 1 else [suspects]
    while groups:
        group = groups.pop()
        wrong = await attempt(everybody - innocent - frozenset(group))
        if wrong is None:
            return {}
        if not wrong:
            innocent |= frozenset(group)
        elif len(group) == 1:
            culprits[group[0]] = wrong
        else:
            groups += _halves(group)
    return culprits


def _halves(group: Sequence[ObjectRef]) -> list[Sequence[ObjectRef]]:
    """Return two halves, the older at the end, where it is taken first.

    So of two objects that only clash with each other the newer one goes.
    """
    middle = len(group) // 2
    return [group[middle:], group[:middle]]


def blamed(refusals: Iterable[Refusal]) -> tuple[Refusal, ...]:
    """Return the refusals that an object can be to blame for: not that of a port in use."""
    return tuple(refusal for refusal in refusals if not words.of_machine(refusal.message))
