"""The status of a Pod, as a kubelet writes it, from what its processes do.

Pure: what the supervisor says and what the probes found come in as values. Words (reasons,
messages) are Kubernetes' own, so that kubectl prints what its users know.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from apirule.apis import core
from apirule.apis.meta import Object
from apirule.local.processes.ports import LOOPBACK
from apirule.local.processes.start_order import is_sidecar
from apirule.mesh.proxy import PROXY_CONTAINER

WHICH_ENDS = "which is about to end."
"""Ends the sentence of a Pod whose place is still another one's: it only has to wait."""

_SIGNALS = 128


class Waiting(msgspec.Struct, frozen=True):
    """Why a container does not run; ``reason`` is what kubectl shows as its status."""

    reason: str
    message: str = ""


class Observed(msgspec.Struct, frozen=True):
    """What is known of the containers of a Pod, by container name."""

    processes: Mapping[str, Mapping[str, Any]] = msgspec.field(default_factory=dict)
    """As the supervisor describes them."""
    waiting: Mapping[str, Waiting] = msgspec.field(default_factory=dict)
    started: frozenset[str] = frozenset()
    ready: frozenset[str] = frozenset()
    unscheduled: str = ""
    """Why the Pod has no place on this machine."""


def status_of(pod: Object, seen: Observed, now: datetime) -> Object:
    """Return the whole status. What did not change keeps its times."""
    old = pod.get("status") or {}
    spec = pod.get("spec") or {}
    if seen.unscheduled:
        return _unscheduled(seen.unscheduled, old, now)
    given = spec.get("initContainers") or []
    inits = [_container(c, seen, old, init=not is_sidecar(c)) for c in given]
    sidecars = {container["name"] for container in given if is_sidecar(container)}
    pending = [status["name"] for status in inits if not _has_initialized(status, sidecars)]
    everyone = (*given, *(spec.get("containers") or []))
    late = any(c["name"] == PROXY_CONTAINER and c["name"] not in seen.ready for c in everyone)
    containers = [
        _container(c, seen, old, initializing=bool(pending) or late)
        for c in spec.get("containers") or []
    ]
    steps = [status for status in inits if status["name"] not in sidecars]
    phase = _phase(spec, containers, steps, initialized=not pending, old=old)
    if phase in core.ENDED_PHASES:
        containers = [_without_readiness(status) for status in containers]
        inits = [_without_readiness(s) if s["name"] in sidecars else s for s in inits]
    ready = _unready(phase, [*containers, *(s for s in inits if s["name"] in sidecars)])
    status: Object = {
        "phase": phase,
        "conditions": [
            _condition(kind, why_not, old, _time(now)) for kind, why_not in _checks(pending, ready)
        ],
        "qosClass": old.get("qosClass") or "BestEffort",
        "hostIP": LOOPBACK,
        "hostIPs": [{"ip": LOOPBACK}],
        "podIP": LOOPBACK,
        "podIPs": [{"ip": LOOPBACK}],
        "startTime": old.get("startTime") or _time(now),
        "containerStatuses": sorted(containers, key=lambda status: str(status["name"])),
    }
    if inits:
        status["initContainerStatuses"] = inits
    return status


def _unscheduled(why: str, old: Object, now: datetime) -> Object:
    return {
        "phase": "Pending",
        "conditions": [_condition("PodScheduled", ("Unschedulable", why), old, _time(now))],
        "qosClass": old.get("qosClass") or "BestEffort",
    }


def is_ready(pod: Object) -> bool:
    """Say whether the status of a Pod says that it is ready."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def without_readiness(pod: Object, now: datetime) -> Object:
    """Return what to change in the status of a Pod whose programs have ended unseen."""
    old = pod.get("status") or {}
    statuses = [_without_readiness(one) for one in old.get("containerStatuses") or []]
    why_not = _unready("", statuses)
    withdrawn = {
        kind: _condition(kind, why_not, old, _time(now)) for kind in ("Ready", "ContainersReady")
    }
    conditions = [withdrawn.get(c["type"], c) for c in old.get("conditions") or []]
    return {"conditions": conditions, "containerStatuses": statuses}


def restart_count(pod: Object, container: str) -> int:
    """Return where a counter goes on for a container that nobody runs any more.

    A Pod that ran before the whole machine stopped was, for it, restarted.
    """
    old = _status_named(pod.get("status") or {}, container)
    ran = "running" in (old.get("state") or {}) or "terminated" in (old.get("lastState") or {})
    return int(old.get("restartCount") or 0) + (1 if ran else 0)


def _container(
    container: Object,
    seen: Observed,
    old: Object,
    *,
    init: bool = False,
    initializing: bool = False,
) -> Object:
    name = container["name"]
    process = seen.processes.get(name)
    before = _status_named(old, name)
    status: Object = {
        "name": name,
        "image": container.get("image", ""),
        "imageID": "",
        "restartCount": int(before.get("restartCount") or 0),
        "started": name in seen.started,
        "ready": name in seen.ready,
        "lastState": before.get("lastState") or {},
    }
    if name in seen.waiting or process is None:
        waiting = seen.waiting.get(name)
        if waiting is None:
            waiting = Waiting("PodInitializing" if initializing else "ContainerCreating")
        return status | {"started": False, "ready": False, "state": {"waiting": _words(waiting)}}
    status["restartCount"] = int(process["restarts"])
    if process["pid"]:
        status["containerID"] = _identity(process["pid"])
    elif before.get("containerID"):
        status["containerID"] = before["containerID"]
    if process["last"]:
        status["lastState"] = {"terminated": _terminated(process["last"])}
    match process["state"]:
        case "running" | "stopping":
            status["state"] = {"running": {"startedAt": _time_of(process["started_at"])}}
        case "backing-off":
            status |= {"started": False, "ready": False, "state": {"waiting": _loop(process, name)}}
        case _:
            status |= {
                "started": False,
                "state": {"terminated": _terminated(process["last"] or {})},
                "lastState": before.get("lastState") or {},
            }
            status["ready"] = init and _succeeded(status)
    return status


def _loop(process: Mapping[str, Any], name: str) -> Object:
    pause_s = max(0.0, process["retry_at"] - (process["last"] or {}).get("finished_at", 0.0))
    pod = process.get("meta", {}).get("pod", "").replace("/", "_")
    message = f"back-off {pause_s:g}s restarting failed container={name} pod={pod}"
    return _words(Waiting("CrashLoopBackOff", message))


def _terminated(last: Mapping[str, Any]) -> Object:
    code = int(last.get("code", 0))
    error = last.get("error") or ""
    terminated: Object = {
        "exitCode": code,
        "reason": "StartError" if error else "Error" if code else "Completed",
        "startedAt": _time_of(last.get("started_at", 0.0)),
        "finishedAt": _time_of(last.get("finished_at", 0.0)),
    }
    if error:
        terminated["message"] = error
    if last.get("signal"):
        terminated["signal"] = last["signal"]
    return terminated


def _has_initialized(status: Object, sidecars: Collection[str]) -> bool:
    return bool(status["started"]) if status["name"] in sidecars else _succeeded(status)


def _phase(
    spec: Mapping[str, Any],
    containers: list[Object],
    steps: list[Object],
    *,
    initialized: bool,
    old: Object,
) -> str:
    if old.get("phase") in core.ENDED_PHASES:
        return str(old["phase"])
    # A Job is done when its programs are: nobody tells its proxy.
    programs = [status for status in containers if status["name"] != PROXY_CONTAINER] or containers
    if any(_failed(status) for status in steps) and spec.get("restartPolicy") == "Never":
        return "Failed"
    policy = spec.get("restartPolicy") or "Always"
    if policy != "Always" and all("terminated" in status["state"] for status in programs):
        if all(_succeeded(status) for status in programs):
            return "Succeeded"
        if policy == "Never":
            return "Failed"
    if initialized and all(map(_has_run, containers)):
        return "Running"
    return "Pending"


def _has_run(status: Object) -> bool:
    return "waiting" not in status["state"] or "terminated" in status["lastState"]


def _succeeded(status: Object) -> bool:
    terminated = status["state"].get("terminated")
    return terminated is not None and terminated["exitCode"] == 0


def _failed(status: Object) -> bool:
    return "terminated" in status["state"] and not _succeeded(status)


def _without_readiness(status: Object) -> Object:
    return status | {"ready": False, "started": False}


_WhyNot = tuple[str, str] | None


def _checks(pending: list[str], unready: _WhyNot) -> list[tuple[str, _WhyNot]]:
    """Return each condition with reason and message if it does not hold."""
    message = f"containers with incomplete status: {_names(pending)}"
    return [
        ("Initialized", ("ContainersNotInitialized", message) if pending else None),
        ("Ready", unready),
        ("ContainersReady", unready),
        ("PodScheduled", None),
    ]


def _unready(phase: str, containers: list[Object]) -> _WhyNot:
    if phase == "Succeeded":
        return "PodCompleted", ""
    if phase == "Failed":
        return "PodFailed", ""
    unready = [status["name"] for status in containers if not status["ready"]]
    if unready:
        return "ContainersNotReady", f"containers with unready status: {_names(unready)}"
    return None


def _condition(kind: str, why_not: _WhyNot, old: Object, now: str) -> Object:
    status = "True" if why_not is None else "False"
    known = {condition["type"]: condition for condition in old.get("conditions") or []}
    before = known.get(kind) or {}
    unchanged = before.get("status") == status and before.get("lastTransitionTime")
    condition: Object = {
        "type": kind,
        "status": status,
        "lastTransitionTime": before["lastTransitionTime"] if unchanged else now,
    }
    if why_not is not None:
        condition |= {"reason": why_not[0]} | ({"message": why_not[1]} if why_not[1] else {})
    return condition


def _status_named(status: Mapping[str, Any], container: str) -> Mapping[str, Any]:
    both = (*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or []))
    return next((one for one in both if one.get("name") == container), {})


def _identity(pid: int) -> str:
    return f"process://{pid}"


def _names(containers: Iterable[str]) -> str:
    return f"[{' '.join(containers)}]"


def _words(waiting: Waiting) -> Object:
    message = {"message": waiting.message} if waiting.message else {}
    return {"reason": waiting.reason, **message}


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _time_of(seconds: float) -> str:
    return _time(datetime.fromtimestamp(seconds, UTC))
