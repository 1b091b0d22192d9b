"""What stands in the status of Istio's objects: whether every proxy concerned has them in force.

``verdict`` decides, from values. ``StatusWriter`` writes: only what changed, several at once, and
through the Kubernetes API like everybody else. What it writes comes back by the store's feed,
where it changes nothing, because the world keeps no status.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import anyio
import msgspec
import structlog

from apirule.apis.meta import GroupVersionKind, ObjectRef
from apirule.kube.errors import ApiError, NotFound
from apirule.names import ObjectName
from apirule.problem import Problem, Severity

log = structlog.get_logger()

CONDITION = "Reconciled"
ADVICE = "Advice"
"""Present only where there is something to say that does not keep an object out."""
_OURS = (CONDITION, ADVICE)
CONCURRENT_WRITES = 8
RETRY_S = 1.0
_NAMED = 3
"""How many proxies a message names that lag behind."""
_TOLD = 10
"""How many problems a message tells of; each proxy may have its own."""


class StatusClient(Protocol):
    """The part of ``kube.Client`` that is needed."""

    async def patch_status(
        self, gvk: GroupVersionKind, name: ObjectName, status: Mapping[str, Any]
    ) -> object: ...


class Verdict(msgspec.Struct, frozen=True):
    """One condition of an object. ``status`` is ``True``, ``False`` or ``Unknown``."""

    status: str
    reason: str
    message: str
    generation: int
    type: str = CONDITION


class Concerned(NamedTuple):
    """A proxy that an object concerns. ``lag`` says why it has not got it yet; empty if it has."""

    proxy: ObjectName
    lag: str


Identity = tuple[str, tuple[Verdict, ...]]


class Wanted(msgspec.Struct, frozen=True):
    """What to write, and the status the object has."""

    gvk: GroupVersionKind
    uid: str
    verdict: Verdict
    actual: Mapping[str, Any]
    advice: Verdict | None = None

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        return (self.verdict,) if self.advice is None else (self.verdict, self.advice)

    @property
    def identity(self) -> Identity:
        """What has been said of which object: one of the same name may have been made anew."""
        return (self.uid, self.verdicts)


def verdict(
    generation: int,
    *,
    obstacle: tuple[str, str] | None,
    concerned: Sequence[Concerned],
    unserved: str,
) -> Verdict:
    """Decide the condition. ``obstacle`` is reason and text of what keeps the object out.

    ``unserved`` says what a route lacks that concerns no proxy. It is empty for a policy: that has
    nothing to guard then, and so nothing is missing.
    """
    if obstacle is not None:
        return Verdict("False", *obstacle, generation)
    late = [c for c in concerned if c.lag]
    message = f"{len(concerned) - len(late)}/{len(concerned)} proxies up to date"
    if late:
        named = ", ".join(f"{c.proxy} {c.lag}" for c in late[:_NAMED])
        more = f" and {len(late) - _NAMED} more" if len(late) > _NAMED else ""
        return Verdict("Unknown", "Pending", f"{message}: {named}{more}", generation)
    if not concerned and unserved:
        return Verdict("Unknown", "NoProxy", f"{message}: {unserved}", generation)
    return Verdict("True", "Reconciled", message, generation)


def obstacle_of(problems: Iterable[Problem]) -> tuple[str, str] | None:
    """Return reason and text for problems that keep an object out; None if there are none."""
    errors = list(dict.fromkeys(p for p in problems if p.severity is Severity.ERROR))
    if not errors:
        return None
    return _reason(errors[0]), _told([str(problem) for problem in errors])


def advice_of(problems: Iterable[Problem], generation: int) -> Verdict | None:
    """Return what the owner of an object should know; None: nothing."""
    found = list(dict.fromkeys(p for p in problems if p.severity is Severity.WARNING))
    if not found:
        return None
    text = _told([f"{problem} {problem.fix}".rstrip() for problem in found])
    return Verdict("True", _reason(found[0]), text, generation, ADVICE)


def _reason(problem: Problem) -> str:
    """Return the word of a condition; those of admission all say that a value is wrong."""
    return "Invalid" if problem.reason.startswith("Field") else problem.reason.value


def _told(texts: Sequence[str]) -> str:
    more = f" And {len(texts) - _TOLD} more." if len(texts) > _TOLD else ""
    return " ".join(texts[:_TOLD]) + more


def is_written(actual: Mapping[str, Any], wanted: Sequence[Verdict]) -> bool:
    """Whether a status already says this, and nothing else of ours."""
    said = {verdict.type: verdict for verdict in wanted}
    found = {kind: _condition(actual, kind) for kind in _OURS}
    return all(
        _says(found[kind], said[kind]) if kind in said else not found[kind] for kind in _OURS
    ) and all(actual.get("observedGeneration") == verdict.generation for verdict in wanted)


def _says(condition: Mapping[str, Any], verdict: Verdict) -> bool:
    return all(condition.get(key) == value for key, value in _fields(verdict).items())


def status_body(
    actual: Mapping[str, Any], wanted: Sequence[Verdict], now: datetime
) -> dict[str, Any]:
    """Return the status to write; conditions of others stay, the time moves with the status."""
    others = [c for c in actual.get("conditions") or [] if c.get("type") not in _OURS]
    mine = [
        {**_fields(one), "lastTransitionTime": _since(_condition(actual, one.type), one, now)}
        for one in wanted
    ]
    return {"observedGeneration": wanted[0].generation, "conditions": [*others, *mine]}


def _since(before: Mapping[str, Any], wanted: Verdict, now: datetime) -> str:
    same = before.get("status") == wanted.status
    return str((same and before.get("lastTransitionTime")) or now.strftime("%Y-%m-%dT%H:%M:%SZ"))


class StatusWriter:
    """``want`` says what shall stand there; ``run`` writes it and tries again where it fails."""

    def __init__(self, client: StatusClient, clock: Callable[[], datetime]) -> None:
        self._client = client
        self._clock = clock
        self._wanted: dict[ObjectRef, Wanted] = {}
        self._written: dict[ObjectRef, Identity] = {}
        self._present: set[ObjectRef] = set()
        self._work = anyio.Event()

    def want(self, changed: Mapping[ObjectRef, Wanted | None]) -> None:
        """Take in what is wanted by now, of the objects of which that changed; None: it is gone."""
        for ref, want in changed.items():
            self._wanted.pop(ref, None)
            if want is None:
                self._written.pop(ref, None)
                self._present.discard(ref)
                continue
            self._present.add(ref)
            if self._written.get(ref) == want.identity or is_written(want.actual, want.verdicts):
                self._written[ref] = want.identity
            else:
                self._wanted[ref] = want
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
            body = status_body(want.actual, want.verdicts, self._clock())
            try:
                await self._client.patch_status(want.gvk, ref.object_name, body)
            except NotFound:
                pass  # deleted meanwhile; the feed will say so
            except ApiError as error:
                log.warning("status not written", name=str(ref), error=str(error))
                return
            if ref in self._present:
                self._written[ref] = want.identity
            if self._wanted.get(ref) is want:
                del self._wanted[ref]


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    for condition in status.get("conditions") or []:
        if condition.get("type") == kind:
            return dict(condition)
    return {}


def _fields(wanted: Verdict) -> dict[str, Any]:
    return {
        "type": wanted.type,
        "status": wanted.status,
        "reason": wanted.reason,
        "message": wanted.message,
        "observedGeneration": wanted.generation,
    }
