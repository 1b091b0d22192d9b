"""A copy of one kind of objects that follows the API server: list once, then watch.

After a gap (410, a lost connection) the informer lists again and compares, so an object that was
deleted meanwhile is reported as deleted. What it hands out is shared: never change it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import anyio
import structlog
from anyio.abc import TaskGroup, TaskStatus

from apirule.apis.meta import GroupVersionKind, Object
from apirule.kube.client import Client
from apirule.kube.errors import ApiError, Gone, NoKindMatch
from apirule.names import ObjectName

log = structlog.get_logger(__name__)

FIRST_DELAY_S = 0.2
MAX_DELAY_S = 30.0
STEADY_S = 5.0
"""A watch that lasted this long was fine: the next one may start at once."""
_NO_RIGHTS = (401, 403)


class Delta(NamedTuple):
    """One change. ``old`` is None for a new object, ``new`` is None for a deleted one."""

    old: Object | None
    new: Object | None

    @property
    def current(self) -> Object:
        """The newest form there is; of a deleted object its last one."""
        obj = self.new if self.new is not None else self.old
        if obj is None:
            raise ValueError("a change needs an old or a new object")
        return obj


Handler = Callable[[Delta], None]
Index = Callable[[Object], Iterable[str]]


def name_of(obj: Mapping[str, object]) -> ObjectName:
    meta = obj.get("metadata")
    if not isinstance(meta, dict):
        return ObjectName("", "")
    return ObjectName(meta.get("namespace") or "", meta.get("name") or "")


def label_index(label: str) -> Index:
    """Index objects by the value of one label."""

    def values(obj: Object) -> Iterable[str]:
        value = (obj["metadata"].get("labels") or {}).get(label)
        return () if value is None else (value,)

    return values


def owner_index(obj: Object) -> Iterable[str]:
    """Index objects by the uid of each owner."""
    return [owner["uid"] for owner in obj["metadata"].get("ownerReferences") or []]


def controller_of(obj: Object, kind: GroupVersionKind) -> ObjectName | None:
    """Return the owner of ``kind`` that controls the object; owners live in its namespace."""
    for owner in obj["metadata"].get("ownerReferences") or []:
        group = str(owner.get("apiVersion", "")).rpartition("/")[0]
        if owner.get("controller") and owner.get("kind") == kind.kind and group == kind.group:
            return ObjectName(obj["metadata"].get("namespace", ""), owner["name"])
    return None


class Informer:
    """Cache, indexes and handlers for one kind. ``run`` it, or let ``Informers`` do so."""

    def __init__(
        self,
        client: Client,
        gvk: GroupVersionKind,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        indexes: Mapping[str, Index] | None = None,
    ) -> None:
        self.gvk = gvk
        self.synced = anyio.Event()
        """Set once the first list is in the cache."""
        self.settled = anyio.Event()
        """Set once it is known how things stand: synced, or found missing, or not to be read."""
        self.error: ApiError | None = None
        """Why the cache does not follow at the moment; None when it does."""
        self.lists = 0
        """How many lists have been taken in; between two of them every change is told."""
        self._client = client
        self._namespace = namespace
        self._label_selector = label_selector
        self._field_selector = field_selector
        self._indexes: dict[str, Index] = dict(indexes or {})
        self._objects: dict[ObjectName, Object] = {}
        self._indexed: dict[str, dict[str, set[ObjectName]]] = {name: {} for name in self._indexes}
        self._handlers: list[Handler] = []
        self._state_handlers: list[Callable[[], None]] = []

    # ── the cache ────────────────────────────────────────────────────────────────────────────

    @property
    def unreadable(self) -> ApiError | None:
        """Why the server has never let us read the kind; None if it has, or does not serve it."""
        return None if self.synced.is_set() or self.missing else self.error

    @property
    def missing(self) -> bool:
        """Whether the server does not serve the kind at all."""
        return isinstance(self.error, NoKindMatch)

    def get(self, name: ObjectName) -> Object | None:
        return self._objects.get(name)

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[Object]:
        return iter(self._objects.values())

    def by_index(self, index: str, value: str) -> list[Object]:
        """Return the objects under ``value``, ordered by name."""
        names = self._indexed[index].get(value, ())
        return [self._objects[name] for name in sorted(names)]

    def any_by_index(self, index: str, value: str) -> Object | None:
        """Return one of the objects under ``value``, for what all of them agree on."""
        names = self._indexed[index].get(value, ())
        return next((self._objects[name] for name in names), None)

    def add_index(self, name: str, index: Index) -> None:
        """Index what is there and what comes. Adding the same index again does nothing."""
        if name in self._indexes:
            return
        self._indexes[name] = index
        self._indexed[name] = {}
        for key, obj in self._objects.items():
            for value in index(obj):
                self._indexed[name].setdefault(value, set()).add(key)

    def add_handler(self, handler: Handler) -> None:
        """Call ``handler`` for every object there is, now, and for every change from then on."""
        self._handlers.append(handler)
        for obj in list(self._objects.values()):
            self._tell(handler, Delta(None, obj))

    def on_state_change(self, handler: Callable[[], None]) -> None:
        """Call ``handler`` when the kind can be followed, or cannot any more."""
        self._state_handlers.append(handler)

    # ── following the server ─────────────────────────────────────────────────────────────────

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Follow the server for ever. Started means running; wait for ``synced`` to use it."""
        task_status.started()
        failures = 0
        while True:
            try:
                version = await self._relist()
                failures = 0
                await self._follow(version)
            except Gone:
                log.debug("watch expired", kind=self.gvk.kind)
            except ApiError as error:
                self._fail(error, failures)
            # A stream that ends at once, or a list that fails, must not become a busy loop.
            await anyio.sleep(_delay(failures))
            failures += 1

    async def _relist(self) -> str:
        """Bring the cache to the state of a fresh list; return its revision."""
        listing = await self._client.list(
            self.gvk,
            self._namespace,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
        )
        seen = set()
        for obj in listing.items:
            seen.add(name_of(obj))
            self._put(obj)
        for name in [name for name in self._objects if name not in seen]:
            self._remove(self._objects[name])
        self.lists += 1
        self._recover()
        return listing.resource_version

    async def _follow(self, version: str) -> None:
        """Watch from ``version`` on, over as many streams as it takes. Ends by an ApiError."""
        failures = 0
        while True:
            opened = anyio.current_time()
            try:
                async with self._client.watch(
                    self.gvk,
                    self._namespace,
                    resource_version=version,
                    label_selector=self._label_selector,
                    field_selector=self._field_selector,
                ) as events:
                    self._recover()
                    async for event in events:
                        failures = 0
                        if event.type == "DELETED":
                            self._remove(event.object)
                        elif event.type != "BOOKMARK":
                            self._put(event.object)
                        version = event.object["metadata"]["resourceVersion"]
            except (Gone, NoKindMatch):
                raise
            except ApiError as error:
                self._fail(error, failures)
            else:
                if anyio.current_time() - opened > STEADY_S:
                    continue
            await anyio.sleep(_delay(failures))
            failures += 1

    def _recover(self) -> None:
        was_missing = self.missing
        self.error = None
        first = not self.synced.is_set()
        self.synced.set()
        self.settled.set()
        if first or was_missing:
            self._tell_state()

    def _fail(self, error: ApiError, failures: int) -> None:
        was_missing = self.missing
        self.error = error
        if self.missing:
            for obj in list(self._objects.values()):
                self._remove(obj)
            self.settled.set()
            if not was_missing:
                log.warning("kind not served", kind=self.gvk.kind, error=str(error))
                self._tell_state()
        elif error.status in _NO_RIGHTS and not self.settled.is_set():
            # Nobody can say when that changes; meanwhile others must not wait for it.
            log.warning("kind not readable", kind=self.gvk.kind, error=str(error))
            self.settled.set()
            self._tell_state()
        elif failures == 0:
            log.warning("watch failed", kind=self.gvk.kind, error=str(error))
        else:
            log.debug("watch failed again", kind=self.gvk.kind, error=str(error))

    # ── changes ──────────────────────────────────────────────────────────────────────────────

    def _put(self, obj: Object) -> None:
        meta = obj["metadata"]
        # Nobody reads it from the cache, and it is often half of the object.
        meta.pop("managedFields", None)
        name = name_of(obj)
        old = self._objects.get(name)
        if old is not None:
            if old["metadata"].get("resourceVersion") == meta.get("resourceVersion"):
                return
            if old["metadata"].get("uid") != meta.get("uid"):
                # Deleted and created anew while nobody looked: that is two changes.
                self._remove(old)
                old = None
            else:
                self._unindex(name, old)
        self._objects[name] = obj
        for index, values in self._indexes.items():
            for value in values(obj):
                self._indexed[index].setdefault(value, set()).add(name)
        self._emit(Delta(old, obj))

    def _remove(self, obj: Object) -> None:
        name = name_of(obj)
        old = self._objects.pop(name, None)
        if old is None:
            return
        self._unindex(name, old)
        self._emit(Delta(old, None))

    def _unindex(self, name: ObjectName, obj: Object) -> None:
        for index, values in self._indexes.items():
            for value in values(obj):
                names = self._indexed[index].get(value, set())
                names.discard(name)
                if not names:
                    self._indexed[index].pop(value, None)

    def _emit(self, delta: Delta) -> None:
        for handler in self._handlers:
            self._tell(handler, delta)

    def _tell(self, handler: Handler, delta: Delta) -> None:
        # One object that one handler cannot digest must not stop everybody's cache.
        try:
            handler(delta)
        except Exception:
            log.exception("handler failed", kind=self.gvk.kind, name=str(name_of(delta.current)))

    def _tell_state(self) -> None:
        for handler in self._state_handlers:
            handler()


class Informers:
    """The informers of one process: each kind is watched once, whoever reads it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._informers: dict[tuple[GroupVersionKind, str, str, str], Informer] = {}
        self._tasks: TaskGroup | None = None

    def of(
        self,
        gvk: GroupVersionKind,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
    ) -> Informer:
        """Return the informer for a kind; it runs as soon as ``run`` does."""
        key = (gvk, namespace, label_selector, field_selector)
        if key not in self._informers:
            informer = Informer(
                self.client,
                gvk,
                namespace=namespace,
                label_selector=label_selector,
                field_selector=field_selector,
            )
            self._informers[key] = informer
            if self._tasks is not None:
                self._tasks.start_soon(informer.run)
        return self._informers[key]

    @property
    def all(self) -> list[Informer]:
        return list(self._informers.values())

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run them all, also those asked for later. Started: each is synced or found missing."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            for informer in self.all:
                tasks.start_soon(informer.run)
            for informer in self.all:
                await informer.settled.wait()
            task_status.started()
            await anyio.sleep_forever()


def _delay(failures: int) -> float:
    """Half fixed, half random, so that many clients do not come back at the same moment."""
    limit = min(FIRST_DELAY_S * 2.0 ** min(failures, 16), MAX_DELAY_S)
    return limit / 2 + random.random() * limit / 2  # noqa: S311  # spreads load, no secret
