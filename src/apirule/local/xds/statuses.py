"""What stands in the status of Istio's objects: whether every proxy concerned has them in force.

``verdict`` decides, from values. ``StatusWriter`` writes: only what changed, several at once, and
through the Kubernetes API like everybody else. What it writes comes back by the store's feed,
where it changes nothing, because the world keeps no status.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import anyio
import structlog

from apirule.apis.meta import GroupVersionKind, ObjectRef
from apirule.kube.errors import ApiError, NotFound
from apirule.names import ObjectName
from apirule.problem import Problem, Reason, Severity

log = structlog.get_logger()

CONDITION = "Reconciled"
CONCURRENT_WRITES = 8
RETRY_S = 1.0
_NAMED = 3
"""How many proxies a message names that lag behind."""


class StatusClient(Protocol):
    """The part of ``kube.Client`` that is needed."""

    async def patch_status(
        self, gvk: GroupVersionKind, name: ObjectName, status: Mapping[str, Any]
    ) -> object: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """The condition of one object. ``status`` is ``True``, ``False`` or ``Unknown``."""

    status: str
    reason: str
    message: str
    generation: int


@dataclass(frozen=True, slots=True)
class Concerned:
    """A proxy that an object concerns. ``lag`` says why it has not got it yet; empty if it has."""

    proxy: ObjectName
    lag: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """A verdict to write, and the status the object has."""

    gvk: GroupVersionKind
    uid: str
    verdict: Verdict
    actual: Mapping[str, Any]

    @property
    def identity(self) -> tuple[str, Verdict]:
        """What has been said of which object: one of the same name may have been made anew."""
        return (self.uid, self.verdict)


def verdict(
    generation: int,
    *,
    obstacle: tuple[str, str] | None,
    concerned: Sequence[Concerned],
    needs_proxy: bool,
) -> Verdict:
    """Decide the condition. ``obstacle`` is reason and text of what keeps the object out.

    ``needs_proxy``: without any proxy nothing is served (a route); a policy without any proxy has
    nothing to guard, and so nothing is missing.
    """
    if obstacle is not None:
        return Verdict("False", *obstacle, generation)
    late = [c for c in concerned if c.lag]
    message = f"{len(concerned) - len(late)}/{len(concerned)} proxies up to date"
    if late:
        named = ", ".join(f"{c.proxy} {c.lag}" for c in late[:_NAMED])
        more = f" and {len(late) - _NAMED} more" if len(late) > _NAMED else ""
        return Verdict("Unknown", "Pending", f"{message}: {named}{more}", generation)
    if not concerned and needs_proxy:
        return Verdict("Unknown", "NoProxy", f"{message}: no running gateway serves it", generation)
    return Verdict("True", "Reconciled", message, generation)


def obstacle_of(problems: Iterable[Problem]) -> tuple[str, str] | None:
    """Return reason and text for problems that keep an object out; None if there are none."""
    errors = list(dict.fromkeys(p for p in problems if p.severity is Severity.ERROR))
    if not errors:
        return None
    kept = {Reason.NOT_IMPLEMENTED, Reason.REJECTED}
    reason = errors[0].reason if errors[0].reason in kept else "Invalid"
    return str(reason), " ".join(str(problem) for problem in errors)


def is_written(actual: Mapping[str, Any], wanted: Verdict) -> bool:
    """Whether a status already says this."""
    found = _condition(actual)
    return actual.get("observedGeneration") == wanted.generation and all(
        found.get(key) == value for key, value in _fields(wanted).items()
    )


def status_body(actual: Mapping[str, Any], wanted: Verdict, now: datetime) -> dict[str, Any]:
    """Return the status to write; conditions of others stay, the time moves with the status."""
    found = _condition(actual)
    since = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    if found.get("status") == wanted.status:
        since = found.get("lastTransitionTime") or since
    others = [c for c in actual.get("conditions") or [] if c.get("type") != CONDITION]
    mine = {"type": CONDITION, **_fields(wanted), "lastTransitionTime": since}
    return {"observedGeneration": wanted.generation, "conditions": [*others, mine]}


class StatusWriter:
    """``want`` says what shall stand there; ``run`` writes it and tries again where it fails."""

    def __init__(self, client: StatusClient, clock: Callable[[], datetime]) -> None:
        self._client = client
        self._clock = clock
        self._wanted: dict[ObjectRef, Wanted] = {}
        self._written: dict[ObjectRef, tuple[str, Verdict]] = {}
        self._work = anyio.Event()

    def want(self, wanted: Mapping[ObjectRef, Wanted]) -> None:
        """Replace what is wanted. An object that is not among it any more is forgotten."""
        self._wanted = {
            ref: want
            for ref, want in wanted.items()
            if self._written.get(ref) != want.identity and not is_written(want.actual, want.verdict)
        }
        self._written = {
            ref: want.identity for ref, want in wanted.items() if ref not in self._wanted
        }
        if self._wanted:
            self._work.set()

    @property
    def idle(self) -> bool:
        """Whether everything that is wanted has been written."""
        return not self._wanted

    async def run(self) -> None:
        while True:
            await self._work.wait()
            self._work = anyio.Event()
            await self._write_all()
            if self._wanted:
                with anyio.move_on_after(RETRY_S):
                    await self._work.wait()
                self._work.set()

    async def _write_all(self) -> None:
        limit = anyio.CapacityLimiter(CONCURRENT_WRITES)
        async with anyio.create_task_group() as tasks:
            for ref, want in list(self._wanted.items()):
                tasks.start_soon(self._write, ref, want, limit)

    async def _write(self, ref: ObjectRef, want: Wanted, limit: anyio.CapacityLimiter) -> None:
        async with limit:
            if self._wanted.get(ref) is not want:
                return  # overtaken while it waited
            body = status_body(want.actual, want.verdict, self._clock())
            try:
                await self._client.patch_status(want.gvk, ref.object_name, body)
            except NotFound:
                pass  # deleted meanwhile; the feed will say so
            except ApiError as error:
                log.warning("status not written", name=str(ref), error=str(error))
                return
            self._written[ref] = want.identity
            if self._wanted.get(ref) is want:
                del self._wanted[ref]


def _condition(status: Mapping[str, Any]) -> Mapping[str, Any]:
    for condition in status.get("conditions") or []:
        if condition.get("type") == CONDITION:
            return dict(condition)
    return {}


def _fields(wanted: Verdict) -> dict[str, Any]:
    return {
        "status": wanted.status,
        "reason": wanted.reason,
        "message": wanted.message,
        "observedGeneration": wanted.generation,
    }
