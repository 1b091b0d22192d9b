"""The engine: the store's feed in, configuration of every proxy out, and how far each one is.

One round takes the world as it is and brings it to the proxies in an order that never leaves a
route without its guard:

1. Sidecars get the new guards, and keep those that were removed (they linger). They answer.
2. Gateways get the routes. They answer.
3. Once no gateway can hold an old route any more, the removed guards leave the sidecars.

A proxy that is silent is waited for one second in each step. What a proxy refuses, and what no
configuration can be made of, is traced to the object behind it (``inquiry``), which then counts as
rejected until it changes. A sidecar that cannot be brought to hold its guards at all gets no
traffic (its endpoints are withheld), and lingering guards stay for as long as a connected gateway
does not hold its new routes.

Changes that arrive during a round, or close together (``gathering``), are taken by one round.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

import anyio
import anyio.lowlevel
import msgspec
import structlog
from anyio.abc import TaskStatus

from apirule.apis import security
from apirule.apis.meta import ObjectRef
from apirule.local.ca import CertificateAuthority
from apirule.local.xds.ads import Refusal
from apirule.local.xds.builder import Build, Builder, NotBuilt
from apirule.local.xds.fleet import Fleet
from apirule.local.xds.gathering import Gathering
from apirule.local.xds.inquiry import Inquiry
from apirule.local.xds.lingering import LingeringGuards
from apirule.local.xds.reconciled import Statuses, Told
from apirule.local.xds.statuses import StatusClient, StatusWriter
from apirule.local.xds.view import View
from apirule.local.xds.world import FOLLOWED, Change, Moment, World
from apirule.mesh import build as mesh
from apirule.mesh.config import MeshSettings, ProxyConfig
from apirule.mesh.proxy import Proxy, Role
from apirule.mesh.relevance import same_for
from apirule.mesh.snapshot import Snapshot
from apirule.mesh.soundness import Soundness
from apirule.names import ObjectName

log = structlog.get_logger()

STEP_S = 1.0
"""How long a step waits for silent proxies."""
AT_ONCE = 16
"""So many proxies that have nothing to hear are passed over in one go."""
RETRY_S = 5.0
"""After which a refusal that no object is to blame for (a port in use) is put to the test again."""
_LONGEST_SLEEP_S = 3600.0


class Feed(Protocol):
    """The store: first everything there is in one list, then what changes, in revision order."""

    def follow(self, resources: frozenset[str], /) -> AsyncIterator[Sequence[Change]]: ...


class ProxyReport(msgspec.Struct, frozen=True):
    """How far one proxy is, for people. ``revision`` is the last one it is known to hold."""

    proxy: ObjectName
    role: Role
    connected: bool
    synced: bool
    revision: int
    refusals: tuple[Refusal, ...]


class Engine:
    """``run`` does the work; the other methods tell how things stand, at any time."""

    def __init__(
        self,
        feed: Feed,
        authority: CertificateAuthority,
        statuses: StatusClient,
        *,
        clock: Callable[[], datetime],
        settings: MeshSettings | None = None,
        build: Build = mesh.build,
    ) -> None:
        self.fleet = Fleet(self._proxy_moved)
        self._feed = feed
        self._authority = authority
        self._writer = StatusWriter(statuses, clock)
        self._clock = clock
        self._settings = settings or MeshSettings()
        self._builder = Builder(authority, build)
        self._inquiry = Inquiry(self._builder, self.fleet, self._settings)
        self._world = World()
        self._wake = anyio.Event()
        self._stale = False
        """Something changed that the proxies have not been told."""
        self._told: dict[str, Told] = {}
        self._soundness = Soundness()
        self._statuses = Statuses()
        self._snapshot: Snapshot | None = None
        """The last one: the next one has most of it in common."""
        self._published: object = None
        """What the statuses were last worked out from."""
        self._views: dict[str, View] = {}
        """What the configuration of each proxy was last made of."""
        self._accepted: dict[str, Moment] = {}
        """The world each proxy last held completely."""
        self._news = anyio.Event()
        """Set when that may be another, or the proxies are."""
        self._lingering = LingeringGuards()
        self._gathering = Gathering()
        self._shunned: frozenset[ObjectName] = frozenset()
        self._tried: dict[str, frozenset[Refusal]] = {}
        """The refusals of each proxy that no object was found to be to blame for."""

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Follow the feed. Started when the store has been read; ``report`` tells the rest."""
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._follow)
            tasks.start_soon(self._writer.run)
            tasks.start_soon(self._renew)
            tasks.start_soon(self._retry)
            # Proxies of an earlier life of this process are about to come back, with guards and
            # routes of then: they take part in the first round as if they were here.
            task_status.started()
            await self._converge(returning=True)
            while True:
                await self._wake.wait()
                self._wake = anyio.Event()
                await self._converge()

    # How things stand

    def report(self) -> tuple[ProxyReport, ...]:
        return tuple(
            ProxyReport(
                proxy=told.proxy.name,
                role=told.proxy.role,
                connected=standing.connected,
                synced=standing.synced and told.config is not None,
                revision=self._accepted[node].revision if node in self._accepted else 0,
                refusals=standing.refusals,
            )
            for node, told in sorted(self._told.items())
            for standing in (self.fleet.standing(node),)
        )

    async def until_gateways_hold(self, revision: int) -> None:
        """Return when every connected gateway holds the world as it was at a revision, or later."""
        while any(
            one.revision < revision
            for one in self.report()
            if one.role is Role.GATEWAY and one.connected
        ):
            await self._news.wait()

    def configs(self) -> Mapping[ObjectName, ProxyConfig]:
        """Return what each proxy was last told, without the secrets of its own identity."""
        return {told.proxy.name: told.config for told in self._told.values() if told.config}

    def rejected(self) -> dict[ObjectRef, str]:
        """Return the objects that were found out, each with a sentence about what is wrong."""
        return self._inquiry.rejected()

    def request_authentications(
        self, proxy: ObjectName
    ) -> tuple[security.RequestAuthentication, ...]:
        """Return the policies that say whose tokens a proxy believes: the key sets it uses."""
        told = self._told.get(str(proxy))
        if told is None or told.config is None:
            return ()
        refs = {ref for refs in told.config.sources.values() for ref in refs}
        found = (told.moment.resources.get(ref) for ref in sorted(refs))
        return tuple(r for r in found if isinstance(r, security.RequestAuthentication))

    # What wakes the engine

    async def _follow(self, *, task_status: TaskStatus[None]) -> None:
        first = True
        async for changes in self._feed.follow(FOLLOWED):
            if self._world.apply(changes):
                self._stale = True
                self._gathering.note_change()
            self._wake.set()
            if first:
                first = False
                task_status.started()

    def _proxy_moved(self, _: str) -> None:
        self._wake.set()

    async def _renew(self) -> None:
        """Replace workload certificates in time."""
        while True:
            due = self._authority.renews_at()
            wait_s = (due - self._clock()).total_seconds() if due else _LONGEST_SLEEP_S
            await anyio.sleep(min(max(wait_s, 1.0), _LONGEST_SLEEP_S))
            due = self._authority.renews_at()
            if due and self._clock() >= due:
                self._stale = True
                self._wake.set()

    async def _retry(self) -> None:
        while True:
            await anyio.sleep(RETRY_S)
            for node in self._told:
                if self.fleet.standing(node).refusals:
                    self.fleet.retry(node)

    # Rounds

    async def _converge(self, *, returning: bool = False) -> None:
        """Do rounds until there is nothing more to tell, then say how things stand."""
        while self._stale or self._has_news():
            if self._stale:
                await self._gathering.until_quiet()
            self._stale = False
            started = time.monotonic()
            moment = self._world.moment()
            if await self._round(moment, returning=returning):
                log.debug(
                    "proxies told",
                    version=moment.revision,
                    duration_s=round(time.monotonic() - started, 4),
                )
            else:
                self._stale = True  # an object was found out: tell everybody without it
            returning = False
        self._note_accepted(self._told)
        self._publish()

    def _has_news(self) -> bool:
        """Whether a proxy did something that another round can make good use of."""
        if any(self._untried(node) for node in self._told):
            return True
        if self._lingering and self._gateways_hold_their_routes():
            return True
        return self._shunned != self._unguarded(self._told)

    async def _round(self, moment: Moment, *, returning: bool) -> bool:
        """Bring the world to the proxies; False if an object was rejected on the way."""
        self._lingering.note(moment, self.rejected())
        self._inquiry.forgive_changed(moment)
        rejected = self.rejected()
        lingering, closed = self._lingering.resources(), self._lingering.closed()
        guarded = View(moment, rejected | closed, lingering, self._shunned)
        snapshot = self._indexed(guarded)
        proxies = [p for p in snapshot.proxies() if p.name not in moment.finished]
        self._forget_all_but({p.node_id for p in proxies})
        expected = {p.node_id for p in proxies if p.name in moment.serving} if returning else set()
        sidecars = [p for p in proxies if p.role is Role.SIDECAR]
        gateways = [p for p in proxies if p.role is Role.GATEWAY]

        if not await self._tell(sidecars, guarded, snapshot, expected):
            return False
        shunned = self._unguarded({p.node_id for p in sidecars})
        if shunned:
            log.error("workloads withheld", nodes=sorted(map(str, shunned)))
        lasting = View(moment, rejected, shunned=shunned)
        if lasting != guarded:
            snapshot = self._indexed(lasting)
        self._shunned = shunned
        if not await self._tell(gateways, lasting, snapshot, ()):
            return False
        if lasting == guarded or not self._gateways_hold_their_routes():
            return True
        self._lingering.clear()
        return await self._tell(sidecars, lasting, snapshot, ())

    def _indexed(self, view: View) -> Snapshot:
        with self._gathering.working():
            self._snapshot = view.snapshot(self._settings, self._snapshot)
        return self._snapshot

    def _gateways_hold_their_routes(self) -> bool:
        """Whether no gateway can still serve a route that is gone. One that is away serves none."""
        return all(
            told.config is not None and self.fleet.standing(node).synced
            for node, told in self._told.items()
            if told.proxy.role is Role.GATEWAY and self.fleet.standing(node).connected
        )

    def _unguarded(self, nodes: Collection[str]) -> frozenset[ObjectName]:
        """Return the sidecars that cannot be brought to hold what they should."""
        return frozenset(
            told.proxy.name
            for told in (self._told[node] for node in nodes)
            if told.proxy.role is Role.SIDECAR and self._is_unguarded(told)
        )

    def _is_unguarded(self, told: Told) -> bool:
        standing = self.fleet.standing(told.proxy.node_id)
        if not standing.connected:
            return False  # it serves nothing, and will be told everything before it does
        # Once it is withheld only a full consent brings it back, not a refusal that is being
        # put to the test again.
        withheld = told.proxy.name in self._shunned and not standing.synced
        return told.config is None or bool(standing.refusals) or withheld

    def _forget_all_but(self, nodes: Collection[str]) -> None:
        for node in self._told.keys() - nodes:
            self.fleet.drop(node)
            self._builder.forget(self._told.pop(node).proxy)
            self._accepted.pop(node, None)
            self._tried.pop(node, None)
            self._views.pop(node, None)
        identities = {told.proxy.spiffe_id for told in self._told.values()}
        self._authority.keep_only(identities)

    # One step

    async def _tell(
        self, proxies: Sequence[Proxy], view: View, snapshot: Snapshot, expected: Collection[str]
    ) -> bool:
        """Tell these proxies and hear them; False if an object turned out to be rejected."""
        for number, proxy in enumerate(proxies, 1):
            node, before = proxy.node_id, self._told.get(proxy.node_id)
            try:
                with self._gathering.working():
                    config = self._unchanged(view, proxy, before) or self._builder.config(
                        snapshot, proxy
                    )
            except NotBuilt as error:
                # It keeps what it has, and others are not held up.
                self._told[node] = Told.of(proxy, None, view.moment, before)
                seen = self._views.get(node)
                known = seen.moment.resources if seen is not None else {}
                if await self._inquiry.into_failure(proxy, view, known, str(error)):
                    return False
                continue
            self._views[node] = view
            self._told[node] = Told.of(proxy, config, view.moment, before)
            with self._gathering.working():
                self.fleet.assign(node, self._builder.bundle(proxy, config))
            if before is None or before.config is not config or number % AT_ONCE == 0:
                # The store, the API and other proxies' answers are on this event loop as well.
                await anyio.lowlevel.checkpoint()
        nodes = [proxy.node_id for proxy in proxies]
        await self.fleet.settle(nodes, within_s=STEP_S, expected=expected)
        self._note_accepted(nodes)
        found = [await self._find_out(p, view) for p in proxies if self._untried(p.node_id)]
        return not any(found)

    def _unchanged(self, view: View, proxy: Proxy, told: Told | None) -> ProxyConfig | None:
        """Return the configuration a proxy has been told, if nothing that matters to it changed."""
        seen = self._views.get(proxy.node_id)
        if (
            told is None
            or seen is None
            or told.proxy != proxy
            or not view.differs_only_by_objects(seen)
        ):
            return None
        changed = view.differences(seen)
        return told.config if same_for(proxy, changed, self._settings) else None

    def _note_accepted(self, nodes: Collection[str]) -> None:
        for node in nodes:
            told = self._told[node]
            if told.config is not None and self.fleet.standing(node).synced:
                self._accepted[node] = told.moment
                self._tried.pop(node, None)
        self._news.set()
        self._news = anyio.Event()

    # Refusals

    def _untried(self, node: str) -> bool:
        refusals = frozenset(self.fleet.standing(node).refusals)
        return bool(refusals) and self._tried.get(node) != refusals

    async def _find_out(self, proxy: Proxy, view: View) -> bool:
        """Look into what a proxy refuses; True if an object was found out."""
        node, told = proxy.node_id, self._told[proxy.node_id]
        if told.config is not None:
            before = self._accepted[node].resources if node in self._accepted else {}
            if await self._inquiry.into_refusal(proxy, told.config, view, before):
                return True
        self._tried[node] = frozenset(self.fleet.standing(node).refusals)
        return False

    # Status

    def _publish(self) -> None:
        if self._stale:
            return
        moment = self._world.moment()
        standings = {node: self.fleet.standing(node) for node in self._told}
        rejected = self.rejected()
        # A status is worked out from these and nothing else. Most of what wakes the engine, first
        # of all the statuses it has written itself, changes none of them.
        basis = (moment.resources, moment.faults, moment.serving, self._told.copy(), standings)
        if (basis, rejected) == self._published:
            return
        self._published = (basis, rejected)
        self._writer.want(
            self._statuses.wanted(
                moment,
                told=self._told,
                standings=standings,
                rejected=rejected,
                settings=self._settings,
                own_problems=self._soundness.problems(
                    self._snapshot or View(moment, rejected).snapshot(self._settings)
                ),
                touched=self._world.touched(),
                actual=self._world.status,
            )
        )
