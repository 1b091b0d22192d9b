from datetime import UTC, datetime
from typing import Any

import pytest

from apirule.local.apiserver import pod_columns

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
THEN = "2026-01-02T03:03:05Z"

RUNS = {"state": {"running": {"startedAt": THEN}}, "ready": True, "started": True}
UNREADY = {"state": {"running": {}}, "started": True}
DONE = {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
FAILED = {"state": {"terminated": {"exitCode": 1, "reason": "Error"}}}
KILLED = {"state": {"terminated": {"exitCode": 137, "signal": 9}}}
LOOPS = {
    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    "restartCount": 3,
    "lastState": {"terminated": {"finishedAt": THEN}},
}
WAITS = {"state": {"waiting": {"reason": "PodInitializing"}}}


def pod(
    *containers: dict[str, Any],
    inits: tuple[dict[str, Any], ...] = (),
    sidecars: int = 0,
    deleted: bool = False,
    **status: Any,
) -> dict[str, Any]:
    """A Pod whose first init containers are sidecars."""
    metadata = {"name": "web"} | ({"deletionTimestamp": THEN} if deleted else {})
    always = [{"restartPolicy": "Always"}] * sidecars + [{}] * (len(inits) - sidecars)
    return {
        "metadata": metadata,
        "spec": {
            "containers": [{"name": f"c{n}"} for n, _ in enumerate(containers)],
            "initContainers": [{"name": f"i{n}", **one} for n, one in enumerate(always)],
        },
        "status": {
            "phase": "Pending",
            "containerStatuses": [{"name": f"c{n}", **one} for n, one in enumerate(containers)],
            "initContainerStatuses": [{"name": f"i{n}", **one} for n, one in enumerate(inits)],
            **status,
        },
    }


@pytest.mark.parametrize(
    ("given", "row"),
    [
        (pod(RUNS, RUNS, phase="Running"), ("2/2", "Running", "0")),
        (pod(RUNS, LOOPS, phase="Running"), ("1/2", "CrashLoopBackOff", "3 (60s ago)")),
        (pod(WAITS, inits=(UNREADY, WAITS)), ("0/1", "Init:0/2", "0")),
        (pod(WAITS, inits=(DONE, UNREADY)), ("0/1", "Init:1/2", "0")),
        (pod(WAITS, inits=(LOOPS,)), ("0/1", "Init:CrashLoopBackOff", "3 (60s ago)")),
        (pod(WAITS, inits=(FAILED,)), ("0/1", "Init:Error", "0")),
        (pod(WAITS, inits=(KILLED,)), ("0/1", "Init:Signal:9", "0")),
        (pod(WAITS, inits=(RUNS, UNREADY), sidecars=1), ("1/2", "Init:1/2", "0")),
        (pod(RUNS, inits=(RUNS, DONE), sidecars=1, phase="Running"), ("2/2", "Running", "0")),
        (pod(RUNS, inits=(UNREADY,), sidecars=1, phase="Running"), ("1/2", "Running", "0")),
        (pod(DONE, phase="Succeeded"), ("0/1", "Completed", "0")),
        (pod(DONE, RUNS, phase="Running"), ("1/2", "NotReady", "0")),
        (pod(RUNS, deleted=True, phase="Running"), ("1/1", "Terminating", "0")),
        (pod(DONE, deleted=True, phase="Succeeded"), ("0/1", "Completed", "0")),
        (pod(phase="Failed", reason="Evicted"), ("0/0", "Evicted", "0")),
        ({"metadata": {"name": "bare"}}, ("0/0", "Unknown", "0")),
    ],
    ids=[
        "all run",
        "one crash-loops",
        "the first init container runs",
        "the second init container runs",
        "an init container crash-loops",
        "an init container failed",
        "an init container was killed",
        "a sidecar runs and the next init container too",
        "a sidecar counts like a container",
        "a sidecar that is not ready",
        "done",
        "one is done, and the Pod not ready",
        "deleted",
        "deleted when it was done",
        "a reason of the whole Pod",
        "a Pod without anything",
    ],
)
def test_how_far_a_pod_is(given: dict[str, Any], row: tuple[str, str, str]) -> None:
    columns = (pod_columns.ready, pod_columns.status, pod_columns.restarts)

    assert tuple(column(given, NOW) for column in columns) == row
