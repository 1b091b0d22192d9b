from datetime import UTC, datetime
from typing import Any

import pytest

from apirule.cli.hindrances import Hindrance, of_pod
from apirule.local.processes.pod_status import WHICH_ENDS

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def pod(*statuses: dict[str, Any], **status: Any) -> dict[str, Any]:
    return {"status": {"containerStatuses": list(statuses), **status}}


def loops(code: int, at: str = "2026-01-02T03:04:05Z", **ended: Any) -> dict[str, Any]:
    return {
        "name": "app",
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 1s"}},
        "lastState": {"terminated": {"exitCode": code, "finishedAt": at, **ended}},
        "restartCount": 4,
    }


ITS_TURN = f"Port 80 belongs to Pod shop/old, {WHICH_ENDS}"
START = {"reason": "StartError", "message": 'cannot execute "x"'}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, []),
        (pod({"name": "app", "state": {"running": {}}}), []),
        (
            pod(conditions=[{"type": "PodScheduled", "status": "False", "message": "port taken"}]),
            [Hindrance("port taken", lasting=True)],
        ),
        (
            pod(conditions=[{"type": "PodScheduled", "status": "False", "message": ITS_TURN}]),
            [Hindrance(ITS_TURN, lasting=False)],
        ),
        (
            pod(
                {"name": "app", "state": {"waiting": {"reason": "ImageNotMapped", "message": "x"}}}
            ),
            [Hindrance("ImageNotMapped: x", lasting=True)],
        ),
        (
            pod(loops(128, **START)),
            [Hindrance('it does not start: cannot execute "x"', lasting=True)],
        ),
        (
            pod(loops(128, "2026-01-02T03:04:04Z", **START)),
            [Hindrance('it does not start: cannot execute "x"', lasting=False)],
        ),
        (
            pod(loops(1)),
            [Hindrance("app ends with exit code 1, restarted 4 times", lasting=False)],
        ),
        (
            pod(initContainerStatuses=[loops(2)]),
            [Hindrance("app ends with exit code 2, restarted 4 times", lasting=False)],
        ),
    ],
    ids=[
        "nothing is known yet",
        "it runs",
        "it has no place",
        "it gets its place in a moment",
        "its image stands for nothing",
        "its program cannot be executed",
        "it could not be executed before, and may by now",
        "it crashes",
        "its init container crashes",
    ],
)
def test_what_keeps_a_pod_from_being_ready(
    given: dict[str, Any], expected: list[Hindrance]
) -> None:
    assert list(of_pod(given, NOW)) == expected
