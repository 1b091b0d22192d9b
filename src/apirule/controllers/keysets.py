"""The key set controller: one ConfigMap for each key set that a RequestAuthentication names.

A name in the queue is the name of such a ConfigMap. A pass fetches when it is time to, and writes
what is known: the newest keys, or the last good ones beside the error. Each issuer has its own
place in the queue, so one that is slow or down keeps nobody else waiting, and is asked by one
worker at a time however often it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

import anyio
import msgspec
import structlog
from anyio.abc import TaskStatus

from apirule import jwks, keysets
from apirule.apis import scheme
from apirule.apis.core import ConfigMap
from apirule.apis.meta import Object
from apirule.apis.security import RequestAuthentication
from apirule.jwks import Fetched, FetchError
from apirule.keysets import KeySet
from apirule.kube.client import Client
from apirule.kube.controller import DONE, Controller, ControllerMetrics, Result, Source
from apirule.kube.errors import NotFound
from apirule.kube.informer import Delta, Informers
from apirule.names import ObjectName

log = structlog.get_logger(__name__)

KEEP_LAST_GOOD = timedelta(days=7)
"""How long keys are believed that the issuer no longer confirms; istiod does the same."""

KICK_INTERVAL_S = 10.0
"""How often an issuer is asked again because a token named a key we do not know."""

WORKERS = 16
"""Passes mostly wait for issuers."""

_BY_NAME, _BY_ISSUER = "key set", "issuer"


class Fetcher(Protocol):
    async def fetch(self, issuer: str, jwks_uri: str) -> Fetched: ...


class Wanted(NamedTuple):
    issuer: str
    jwks_uri: str

    @property
    def name(self) -> str:
        return keysets.name_of(self.issuer, self.jwks_uri)


class _State(msgspec.Struct, frozen=True):
    """``due``: when to fetch next, on the clock of the event loop."""

    key_set: KeySet
    due: float
    failures: int = 0


class KeySetController:
    """Hand ``informers`` the same set that other controllers use; run it beside them."""

    def __init__(
        self,
        client: Client,
        informers: Informers,
        fetcher: Fetcher,
        *,
        now: Callable[[], datetime],
        metrics: ControllerMetrics | None = None,
    ) -> None:
        self._client = client
        self._fetcher = fetcher
        self._now = now
        self._states: dict[str, _State] = {}
        self._kicked: dict[str, float] = {}
        self._urgent: set[str] = set()
        self._policies = informers.of(RequestAuthentication.gvk)
        self._policies.add_index(_BY_NAME, lambda obj: [wanted.name for wanted in named_in(obj)])
        self._policies.add_index(_BY_ISSUER, lambda obj: [w.issuer for w in named_in(obj)])
        self._config_maps = informers.of(
            ConfigMap.gvk, namespace=keysets.NAMESPACE, label_selector=f"{keysets.LABEL}=true"
        )
        self._controller = Controller(
            "keysets",
            self.reconcile,
            [Source(self._policies, _concerned), Source(self._config_maps)],
            workers=WORKERS,
            metrics=metrics,
        )

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Reconcile for ever. The informers must be run by somebody else."""
        await self._controller.run(task_status=task_status)

    def kick(self, issuer: str) -> bool:
        """Fetch the keys of an issuer now, as a token names one we do not know.

        False: nobody uses the issuer, or it was kicked a moment ago. Anyone can send such tokens.
        """
        moment = anyio.current_time()
        if moment - self._kicked.get(issuer, -KICK_INTERVAL_S) < KICK_INTERVAL_S:
            return False
        if not self.refresh(issuer):
            return False
        self._kicked[issuer] = moment
        log.debug("key set kicked", issuer=issuer)
        return True

    def refresh(self, issuer: str) -> bool:
        """Fetch the keys of an issuer now. False: nobody uses it."""
        names = {wanted.name for wanted in self._of_issuer(issuer)}
        # A fetch under way may have been answered before what this call is about.
        self._urgent |= names
        for name in names:
            self._controller.queue.add(ObjectName(keysets.NAMESPACE, name))
        return bool(names)

    async def reconcile(self, name: ObjectName) -> Result:
        """Bring one ConfigMap up to date. Raises ApiError; the work queue comes back."""
        wanted = self._wanted(name.name)
        if wanted is None:
            self._urgent.discard(name.name)
            await self._remove(name)
            return DONE
        state = self._states.get(name.name) or _State(self._restored(name, wanted), due=0.0)
        if state.due <= anyio.current_time() or name.name in self._urgent:
            self._urgent.discard(name.name)
            state = await self._refresh(state)
        self._states[name.name] = state
        await self._write(name, state.key_set)
        return Result(requeue_after_s=max(state.due - anyio.current_time(), 0.0))

    async def _refresh(self, state: _State) -> _State:
        """Fetch, and say what is known afterwards and when to fetch again."""
        known = state.key_set
        try:
            fetched = await self._fetcher.fetch(known.issuer, known.jwks_uri)
        except FetchError as error:
            failures = state.failures + 1
            if failures == 1:
                log.warning("key set not fetched", issuer=known.issuer, error=str(error))
            kept = msgspec.structs.replace(
                known, error=str(error), document=self._still_good(known)
            )
            return _State(kept, anyio.current_time() + jwks.next_fetch_s(failures), failures)
        if fetched.document != known.document:
            log.info("key set changed", issuer=known.issuer, uri=known.jwks_uri)
        fresh = msgspec.structs.replace(
            known, document=fetched.document, error="", fetched_at=_rfc3339(self._now())
        )
        return _State(fresh, anyio.current_time() + jwks.next_fetch_s(0, fetched.max_age_s))

    def _still_good(self, known: KeySet) -> str:
        try:
            age = self._now() - datetime.fromisoformat(known.fetched_at)
        except (ValueError, TypeError):  # never fetched, or without a zone
            return ""
        return known.document if age < KEEP_LAST_GOOD else ""

    def _restored(self, name: ObjectName, wanted: Wanted) -> KeySet:
        """Go on with the keys of an earlier run until the issuer has answered."""
        obj = self._config_maps.get(name)
        kept = keysets.from_config_map(scheme.decode(obj, ConfigMap)) if obj else None
        return kept or KeySet(wanted.issuer, wanted.jwks_uri)

    async def _write(self, name: ObjectName, key_set: KeySet) -> None:
        wanted = scheme.encode(keysets.to_config_map(key_set))
        existing = self._config_maps.get(name)
        if existing is None:
            await self._client.create(wanted)
        elif existing.get("data") != wanted["data"]:
            await self._client.update({**existing, "data": wanted["data"]})

    async def _remove(self, name: ObjectName) -> None:
        state = self._states.pop(name.name, None)
        if state is not None and not self._of_issuer(state.key_set.issuer):
            self._kicked.pop(state.key_set.issuer, None)
        existing = self._config_maps.get(name)
        if existing is None:
            return
        try:
            await self._client.delete(ConfigMap.gvk, name, uid=existing["metadata"].get("uid", ""))
        except NotFound:
            return
        log.info("key set removed", name=str(name))

    def _wanted(self, name: str) -> Wanted | None:
        # The name is made of what is wanted: whoever wants that name wants the same.
        policy = self._policies.any_by_index(_BY_NAME, name)
        found = named_in(policy) if policy else ()
        return next((wanted for wanted in found if wanted.name == name), None)

    def _of_issuer(self, issuer: str) -> list[Wanted]:
        policies = self._policies.by_index(_BY_ISSUER, issuer)
        return [w for policy in policies for w in named_in(policy) if w.issuer == issuer]


def named_in(obj: Mapping[str, object]) -> Iterator[Wanted]:
    """Yield the key sets a RequestAuthentication needs fetched; none when it is malformed."""
    try:
        policy = scheme.decode(obj, RequestAuthentication)
    except msgspec.ValidationError:
        return
    for rule in policy.spec.jwt_rules:
        if rule.issuer and not rule.jwks:
            yield Wanted(rule.issuer, rule.jwks_uri)


def _concerned(delta: Delta) -> Iterable[ObjectName]:
    """Name the key sets that a changed policy needs, and those it needed before."""
    both: tuple[Object | None, Object | None] = delta
    return {
        ObjectName(keysets.NAMESPACE, wanted.name)
        for obj in both
        if obj is not None
        for wanted in named_in(obj)
    }


def _rfc3339(moment: datetime) -> str:
    return moment.replace(microsecond=0).isoformat().replace("+00:00", "Z")
