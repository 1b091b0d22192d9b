"""Status of an APIRule: its state in the words of the Kyma operator, and conditions.

``state`` and ``description`` are what people and scripts know. The conditions add what those
cannot say: every problem (``Accepted``), whether the proxies have the configuration
(``Enforced``), both at once (``Ready``), and which generation answers requests (``Serving``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec

from apirule.apis.gateway import v2
from apirule.apis.meta import Condition, Object, ObjectRef
from apirule.problem import SPEC, Problem, Reason, Severity
from apirule.translate import Outcome

SHOWN = 3
"""How many validation errors a description has."""

_FROM_GATEWAY_LOOKUP = (SPEC, SPEC / "gateway", SPEC / "externalGateway")
"""Without a Gateway the Kyma operator looks no further, and writes the place without a dot."""
_CONFLICTS = SPEC / "rules"
ADVICE = "Advice"
"""A condition of an Istio object: what is not right with it although it is served."""
_UNSERVED = "NoProxy"
"""The reason of a route that no gateway has."""
_MAX_MESSAGE = 32768


class State(StrEnum):
    READY = "Ready"
    PROCESSING = "Processing"
    WARNING = "Warning"
    ERROR = "Error"


class Verdict(StrEnum):
    """The status of a condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Failure(msgspec.Struct, frozen=True):
    """A write that the API server refused. ``kind`` is ``ApiRule`` where none is known."""

    kind: str
    message: str


class Enforcement(msgspec.Struct, frozen=True):
    """Whether the engine serves what was asked of it."""

    verdict: Verdict
    reason: str
    message: str
    refusals: tuple[Failure, ...] = ()
    """Objects that a proxy or the engine refused; waiting does not help."""


NOT_REPORTED = Enforcement(
    Verdict.UNKNOWN, "NotReported", "The engine does not say what its proxies have."
)
"""Istio in a cluster: an APIRule is Ready once its objects are written."""


def enforcement(objects: Sequence[Object]) -> Enforcement:
    """Read what the engine says of the objects of one APIRule, as they are after the changes."""
    reports = [(ObjectRef.of(obj), _report(obj)) for obj in objects]
    refusals = tuple(
        Failure(ref.kind, f"{ref.object_name}: {report.message}")
        for ref, report in reports
        if _is_refusal(report)
    )
    if refusals:
        text = "\n".join(f"{f.kind} {f.message}" for f in refusals)
        return Enforcement(Verdict.FALSE, "Rejected", text, refusals)
    waiting = [(ref, report) for ref, report in reports if report.status != Verdict.TRUE]
    if waiting or not reports:
        text = "\n".join(f"{ref}: {report.message}" for ref, report in waiting)
        return Enforcement(Verdict.FALSE, "Waiting", text or "No objects have been written yet.")
    text = "All proxies have the configuration."
    notes = dict.fromkeys(note for obj in objects if (note := _condition_of(obj, ADVICE).message))
    return Enforcement(Verdict.TRUE, ADVICE if notes else "UpToDate", " ".join((text, *notes)))


def is_in_force(obj: Object) -> bool:
    """Whether the engine says that every proxy concerned has the object as it is now."""
    return _report(obj).status == Verdict.TRUE


def is_served(objects: Sequence[Object]) -> bool:
    """Whether requests can meet the rule at all: a gateway has routes of it, of whatever form."""
    routes = [obj for obj in objects if ObjectRef.of(obj).kind == "VirtualService"]
    said = [_condition_of(obj, "Reconciled") for obj in routes]
    return any(not _is_refusal(one) and one.reason != _UNSERVED for one in said)


def status_of(
    rule: v2.APIRule,
    outcome: Outcome,
    enforced: Enforcement,
    *,
    now: datetime,
    failures: Sequence[Failure] = (),
    served: bool = True,
) -> v2.APIRuleStatus:
    """Return the new status. ``enforced`` is about the objects that exist, valid rule or not."""
    errors = [p for p in outcome.problems if p.severity is Severity.ERROR]
    if errors:
        state, description = State.ERROR, describe(errors)
    elif failures or enforced.refusals:
        state, description = State.ERROR, _describe_failures([*failures, *enforced.refusals])
    elif enforced.verdict is Verdict.FALSE:
        state, description = State.PROCESSING, f"Waiting for the proxies: {enforced.message}"
    else:
        state, description = State.READY, "Reconciled successfully"
    if errors:
        # What the engine says is about the objects of an earlier generation.
        enforced = Enforcement(Verdict.FALSE, "NotAccepted", "See the condition Accepted.")
    elif failures:
        enforced = Enforcement(Verdict.FALSE, "WriteFailed", description)
    accepted = _accepted(errors, outcome.problems)
    return _status(rule, state, description, accepted, enforced, now=now, served=served)


def failed_lookup(rule: v2.APIRule, error: str, *, now: datetime) -> v2.APIRuleStatus:
    """Return the status while the server does not let us see what we need to see."""
    description = "Error happened during discovering dependencies"
    waiting = Enforcement(Verdict.FALSE, "DependencyUnreadable", error)
    accepted = _Said("Accepted", Verdict.UNKNOWN, "DependencyUnreadable", error)
    return _status(rule, State.ERROR, description, accepted, waiting, now=now)


def missing_dependency(rule: v2.APIRule, crd: str, *, now: datetime) -> v2.APIRuleStatus:
    """Return the status while a CRD that we write objects of is not installed."""
    description = (
        f"CRD {crd} is not present. Make sure to install required dependencies for the component"
    )
    waiting = Enforcement(Verdict.FALSE, "DependencyMissing", description)
    accepted = _Said("Accepted", Verdict.UNKNOWN, "DependencyMissing", description)
    return _status(rule, State.WARNING, description, accepted, waiting, now=now)


def describe(errors: Sequence[Problem]) -> str:
    """Return the description of validation errors: the first three, and how many more."""
    gateway = [p for p in errors if p.field in _FROM_GATEWAY_LOOKUP][:1]
    if gateway:
        return f"Validation errors: Attribute '{gateway[0].field}': {gateway[0].message}"
    conflicts = [p for p in errors if p.reason is Reason.CONFLICT and p.field == _CONFLICTS]
    # The Kyma operator stops at the first conflict of paths.
    errors = [p for p in errors if p not in conflicts[1:]]
    lines = [f"Attribute '.{p.field}': {p.message}" for p in errors[:SHOWN]]
    if len(errors) > SHOWN:
        lines.append(f"{len(errors) - SHOWN} more error(s)...")
    return "Validation errors: " + "\n".join(lines)


class _Said(msgspec.Struct, frozen=True):
    type: str
    verdict: Verdict
    reason: str
    message: str


def _describe_failures(failures: Sequence[Failure]) -> str:
    by_kind: dict[str, list[str]] = {}
    for failure in failures:
        by_kind.setdefault(failure.kind, []).append(failure.message)
    return "\n".join(f"{kind}Errors: {', '.join(texts)}" for kind, texts in by_kind.items())


def _accepted(errors: Sequence[Problem], problems: Sequence[Problem]) -> _Said:
    text = "\n".join(_line(problem) for problem in (errors or problems))
    if errors:
        return _Said("Accepted", Verdict.FALSE, errors[0].reason, text)
    if text:
        return _Said("Accepted", Verdict.TRUE, "Advice", text)
    return _Said("Accepted", Verdict.TRUE, "Valid", "No mistakes found.")


def _line(problem: Problem) -> str:
    prefix = "" if problem.severity is Severity.ERROR else f"{problem.severity}: "
    message = problem.message.rstrip(".")
    return f"{prefix}{problem.field}: {message}. {problem.fix}".rstrip()


def _status(
    rule: v2.APIRule,
    state: State,
    description: str,
    accepted: _Said,
    enforced: Enforcement,
    *,
    now: datetime,
    served: bool = True,
) -> v2.APIRuleStatus:
    ready = Verdict.TRUE if state is State.READY else Verdict.FALSE
    time = _timestamp(now)
    said = (
        accepted,
        _Said("Enforced", enforced.verdict, enforced.reason, enforced.message),
        _Said("Ready", ready, "Reconciled" if state is State.READY else state, description),
    )
    before = {condition.type: condition for condition in rule.status.conditions}
    generation = rule.metadata.generation
    return v2.APIRuleStatus(
        state=state,
        description=description,
        last_processed_time=time,
        observed_generation=generation,
        conditions=(
            *(_condition(one, before, generation, time) for one in said),
            _serving(state, before, generation, time, served=served),
        ),
    )


def _serving(
    state: State, before: Mapping[str, Condition], generation: int, time: str, *, served: bool
) -> Condition:
    """Say which generation answers requests: this one if Ready, else the last one that was."""
    if state is State.READY:
        said = _Said("Serving", Verdict.TRUE, "CurrentGeneration", f"generation {generation}")
        return _condition(said, before, generation, time)
    last = before.get("Serving")
    if last is None or last.reason == "NeverReady":
        said = _Said("Serving", Verdict.FALSE, "NeverReady", "No generation has been ready yet.")
        return _condition(said, before, generation, time)
    since = last.observed_generation
    if not served:
        text = f"No gateway has routes of it; generation {since} was served last."
        said = _Said("Serving", Verdict.FALSE, "NotServed", text)
        return _condition(said, before, since, time)
    reason = "CurrentGeneration" if since == generation else "EarlierGeneration"
    said = _Said("Serving", Verdict.TRUE, reason, f"generation {since}")
    return _condition(said, before, since, time)


def _condition(
    said: _Said, before: Mapping[str, Condition], generation: int, time: str
) -> Condition:
    last = before.get(said.type)
    unchanged = last is not None and last.status == said.verdict
    since = last.last_transition_time if last is not None and unchanged else None
    return Condition(
        type=said.type,
        status=said.verdict,
        reason=said.reason,
        message=said.message[:_MAX_MESSAGE],
        observed_generation=generation,
        last_transition_time=since or time,
    )


def _report(obj: Object) -> Condition:
    """Return what is said of the current generation of an object; Unknown if nothing is."""
    said = _condition_of(obj, "Reconciled")
    generation = _mapping(obj.get("metadata")).get("generation", 0)
    if said.status and said.observed_generation >= generation:
        return said
    return Condition(type="Reconciled", status=Verdict.UNKNOWN, message="not reported yet")


def _is_refusal(report: Condition) -> bool:
    """Whether no proxy will ever take the object as it is.

    Istio's own reports are False as well while proxies are late, but give no reason.
    """
    return report.status == Verdict.FALSE and bool(report.reason)


def _condition_of(obj: Object, kind: str) -> Condition:
    """Return a condition of whatever generation; an empty one if there is none."""
    status = _mapping(obj.get("status"))
    for one in status.get("conditions") or ():
        if one.get("type") == kind:
            return Condition(
                type=kind,
                status=str(one.get("status", "")),
                reason=str(one.get("reason", "")),
                message=str(one.get("message", "")),
                observed_generation=one.get(
                    "observedGeneration", status.get("observedGeneration", 0)
                ),
            )
    return Condition(type=kind, status="")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
