"""How far a Pod is, in the words and numbers that ``kubectl get pods`` prints.

``printPod`` of Kubernetes' own printers: an init container that has not done its work decides the
status, ``Init:1/3`` or ``Init:CrashLoopBackOff``; then the first container that has something to
say does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from apirule.apis.meta import Object
from apirule.local.apiserver.ages import age

_Status = Mapping[str, Any]


def status(pod: Object, now: datetime) -> str:
    told = pod.get("status") or {}
    phase = told.get("phase") or "Unknown"
    if pod["metadata"].get("deletionTimestamp") and phase not in ("Succeeded", "Failed"):
        return "Terminating"
    return _initializing(pod) or _of_containers(told) or str(told.get("reason") or phase)


def ready(pod: Object, now: datetime) -> str:
    sidecars = _sidecars(pod)
    counted = [one for one in _lasting(pod) if one.get("ready") and _state(one, "running")]
    wanted = len((pod.get("spec") or {}).get("containers") or ()) + len(sidecars)
    return f"{len(counted)}/{wanted}"


def restarts(pod: Object, now: datetime) -> str:
    shown = _inits(pod) if _initializing(pod) else list(_lasting(pod))
    count = sum(int(one.get("restartCount") or 0) for one in shown)
    ended = ((one.get("lastState") or {}).get("terminated") or {} for one in shown)
    last = max((one["finishedAt"] for one in ended if one.get("finishedAt")), default=None)
    return f"{count} ({age(last, now)} ago)" if count and last else str(count)


def _initializing(pod: Object) -> str:
    """Return how far the init containers are; "" when they have done their work."""
    inits, sidecars = _inits(pod), _sidecars(pod)
    for number, one in enumerate(inits):
        ended, waiting = _state(one, "terminated"), _state(one, "waiting")
        if ended and not ended.get("exitCode"):
            continue
        if one.get("name") in sidecars and one.get("started"):
            continue
        if ended:
            return f"Init:{_end(ended)}"
        if waiting.get("reason") not in (None, "", "PodInitializing"):
            return f"Init:{waiting['reason']}"
        return f"Init:{number}/{len((pod.get('spec') or {}).get('initContainers') or ())}"
    return ""


def _of_containers(told: _Status) -> str:
    found, running = "", False
    for one in reversed(told.get("containerStatuses") or ()):
        waiting, ended = _state(one, "waiting"), _state(one, "terminated")
        if waiting.get("reason"):
            found = str(waiting["reason"])
        elif ended:
            found = _end(ended)
        elif one.get("ready") and _state(one, "running"):
            running = True
    if found == "Completed" and running:
        # Some have done their work, and others go on.
        conditions = told.get("conditions") or ()
        is_ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
        return "Running" if is_ready else "NotReady"
    return found


def _end(terminated: _Status) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode', 0)}"


def _lasting(pod: Object) -> Iterator[_Status]:
    """Yield the statuses of the containers that run as long as the Pod."""
    sidecars = _sidecars(pod)
    yield from (one for one in _inits(pod) if one.get("name") in sidecars)
    yield from (pod.get("status") or {}).get("containerStatuses") or ()


def _inits(pod: Object) -> list[_Status]:
    return list((pod.get("status") or {}).get("initContainerStatuses") or ())


def _sidecars(pod: Object) -> set[str]:
    inits = (pod.get("spec") or {}).get("initContainers") or ()
    return {str(one.get("name")) for one in inits if one.get("restartPolicy") == "Always"}


def _state(one: _Status, which: str) -> _Status:
    # A time may be all there is: also an empty one says that it is so.
    state = one.get("state") or {}
    return {"is": True, **(state.get(which) or {})} if which in state else {}
