"""Finding out which objects do harm, by trying what goes well without them; and their names.

An object that was found out is rejected for as long as it stays as it is: routes are served
without it, guards close their workload.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anyio.lowlevel
import msgspec
import structlog

from apirule.apis.meta import ObjectRef, Resource
from apirule.local.xds import words
from apirule.local.xds.builder import Builder, NotBuilt
from apirule.local.xds.culprit import (
    Attempt,
    blamed,
    find_culprits,
    suspects_of,
    suspects_of_failure,
)
from apirule.local.xds.fleet import Fleet
from apirule.local.xds.view import View
from apirule.local.xds.world import Moment
from apirule.mesh.config import MeshSettings, ProxyConfig
from apirule.mesh.proxy import Proxy

log = structlog.get_logger()

ANSWER_S = 5.0
"""How long a proxy has to say whether it takes what is tried: it answers as a rule in 0.1 s."""

World = Mapping[ObjectRef, Resource]


class _Rejected(msgspec.Struct, frozen=True):
    """An object as it was when it was found out: any other form of it gets another chance."""

    resource: Resource
    text: str


class Inquiry:
    def __init__(self, builder: Builder, fleet: Fleet, settings: MeshSettings) -> None:
        self._builder = builder
        self._fleet = fleet
        self._settings = settings
        self._rejected: dict[ObjectRef, _Rejected] = {}

    def rejected(self) -> dict[ObjectRef, str]:
        """Return the objects that were found out, each with a sentence about what is wrong."""
        return {ref: entry.text for ref, entry in self._rejected.items()}

    def forgive_changed(self, moment: Moment) -> None:
        self._rejected = {
            ref: entry
            for ref, entry in self._rejected.items()
            if moment.resources.get(ref) == entry.resource
        }

    async def into_refusal(
        self, proxy: Proxy, config: ProxyConfig, view: View, before: World
    ) -> bool:
        """Reject the objects behind a refusal; False if none is to blame.

        ``config`` is what the proxy was told, ``before`` the world it last held completely.
        """
        node = proxy.node_id
        refusals = self._fleet.standing(node).refusals
        suspects, accepted = suspects_of(refusals, config, view.moment, before, self._rejected)

        async def attempt(held: frozenset[ObjectRef]) -> str | None:
            trial = view.on_trial(held, accepted).snapshot(self._settings)
            try:
                tried = self._builder.config(trial, proxy)
            except NotBuilt:
                return None
            self._fleet.assign(node, self._builder.bundle(proxy, tried))
            await self._fleet.settle([node], within_s=ANSWER_S)
            standing = self._fleet.standing(node)
            if not standing.settled:
                return None
            return words.joined(refusal.message for refusal in blamed(standing.refusals))

        if await self._reject(suspects, attempt, view, "A proxy refuses it"):
            return True
        log.error(
            "refusal not explained",
            node=node,
            error=words.joined(refusal.message for refusal in refusals),
        )
        if suspects:
            # Back to what it should hold. What it refuses of that is sent again from time to time.
            self._fleet.assign(node, self._builder.bundle(proxy, config))
            await self._fleet.settle([node], within_s=ANSWER_S)
        return False

    async def into_failure(self, proxy: Proxy, view: View, before: World, error: str) -> bool:
        """Reject the objects that no configuration can be made of; False if none is to blame.

        ``before`` is the world of which the proxy was last built, ``error`` what failed now.
        """
        suspects = suspects_of_failure(proxy, view.moment, before, self._rejected, self._settings)

        async def attempt(held: frozenset[ObjectRef]) -> str:
            await anyio.lowlevel.checkpoint()
            try:
                self._builder.config(view.on_trial(held, before).snapshot(self._settings), proxy)
            except NotBuilt as failure:
                return str(failure)
            return ""

        if await self._reject(suspects, attempt, view, "The engine cannot work with it"):
            return True
        log.error("configuration not built", node=proxy.node_id, error=error)
        return False

    async def _reject(
        self, suspects: Sequence[ObjectRef], attempt: Attempt, view: View, verdict: str
    ) -> bool:
        culprits = await find_culprits(suspects, attempt) if suspects else {}
        for ref, text in culprits.items():
            log.error("object rejected", name=str(ref), verdict=verdict, error=text)
            self._rejected[ref] = _Rejected(view.moment.resources[ref], f"{verdict}: {text}")
        return bool(culprits)
