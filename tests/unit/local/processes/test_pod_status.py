from datetime import UTC, datetime, timedelta
from typing import Any

from apirule.local.processes.pod_status import (
    Observed,
    Waiting,
    is_ready,
    restart_count,
    status_of,
    without_readiness,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
THEN = NOW - timedelta(hours=1)


def pod(
    *containers: str,
    inits: tuple[str, ...] = (),
    policy: str = "Always",
    status: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1"},
        "spec": {
            "containers": [{"name": name, "image": "i"} for name in containers],
            "initContainers": [{"name": name, "image": "i"} for name in inits],
            "restartPolicy": policy,
        },
        "status": status or {},
    }


def running(restarts: int = 0, last: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "state": "running",
        "pid": 42,
        "restarts": restarts,
        "started_at": THEN.timestamp(),
        "last": last,
        "retry_at": 0.0,
    }


def ended(code: int = 0, **more: Any) -> dict[str, Any]:
    times = {"started_at": THEN.timestamp(), "finished_at": NOW.timestamp()}
    return {"code": code, "signal": 0, **times, **more}


def exited(code: int) -> dict[str, Any]:
    return running(last=ended(code)) | {"state": "exited", "pid": 0}


def condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(c for c in status["conditions"] if c["type"] == kind)


def test_a_ready_pod_reads_as_a_kubelet_writes_it() -> None:
    both = frozenset({"app"})

    status = status_of(pod("app"), Observed({"app": running()}, started=both, ready=both), NOW)

    assert status["phase"] == "Running"
    assert status["podIP"] == "127.0.0.1"
    assert {c["type"]: c["status"] for c in status["conditions"]} == {
        "Initialized": "True",
        "Ready": "True",
        "ContainersReady": "True",
        "PodScheduled": "True",
    }
    assert status["containerStatuses"] == [
        {
            "name": "app",
            "image": "i",
            "imageID": "",
            "containerID": "process://42",
            "ready": True,
            "started": True,
            "restartCount": 0,
            "state": {"running": {"startedAt": "2026-01-02T02:04:05Z"}},
            "lastState": {},
        }
    ]


def test_a_container_that_is_not_ready_is_named() -> None:
    status = status_of(
        pod("app", "web"),
        Observed({"app": running(), "web": running()}, ready=frozenset({"web"})),
        NOW,
    )

    ready = condition(status, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "ContainersNotReady")
    assert ready["message"] == "containers with unready status: [app]"


def test_a_crash_loop_waits_and_remembers_the_crash() -> None:
    process = running(3, ended(1)) | {
        "state": "backing-off",
        "pid": 0,
        "retry_at": NOW.timestamp() + 2,
    }

    status = status_of(pod("app"), Observed({"app": process}), NOW)

    (container,) = status["containerStatuses"]
    assert container["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert container["state"]["waiting"]["message"].startswith("back-off 2s restarting failed")
    assert container["lastState"]["terminated"]["exitCode"] == 1
    assert container["restartCount"] == 3
    assert status["phase"] == "Running"


def test_a_program_that_cannot_be_executed_is_a_start_error() -> None:
    process = running(1, ended(128, error='cannot execute "x"')) | {
        "state": "backing-off",
        "pid": 0,
    }

    status = status_of(pod("app"), Observed({"app": process}), NOW)

    last = status["containerStatuses"][0]["lastState"]["terminated"]
    assert (last["reason"], last["message"]) == ("StartError", 'cannot execute "x"')


def test_an_image_that_stands_for_nothing_keeps_the_pod_pending() -> None:
    waiting = {"app": Waiting("ImageNotMapped", "give it a command")}

    status = status_of(pod("app"), Observed(waiting=waiting), NOW)

    assert status["phase"] == "Pending"
    assert status["containerStatuses"][0]["state"]["waiting"] == {
        "reason": "ImageNotMapped",
        "message": "give it a command",
    }


def test_a_pod_without_a_place_says_why_and_has_no_address() -> None:
    status = status_of(pod("app"), Observed(unscheduled="port 9000 is taken"), NOW)

    assert status["phase"] == "Pending"
    assert condition(status, "PodScheduled")["message"] == "port 9000 is taken"
    assert "podIP" not in status


def test_containers_wait_for_the_init_containers() -> None:
    status = status_of(pod("app", inits=("first",)), Observed({"first": running()}), NOW)

    assert status["phase"] == "Pending"
    assert condition(status, "Initialized")["status"] == "False"
    assert status["containerStatuses"][0]["state"]["waiting"]["reason"] == "PodInitializing"


def test_done_init_containers_are_ready() -> None:
    seen = Observed({"first": exited(0), "app": running()})

    status = status_of(pod("app", inits=("first",)), seen, NOW)

    assert condition(status, "Initialized")["status"] == "True"
    assert status["initContainerStatuses"][0]["ready"] is True
    assert status["phase"] == "Running"


def test_a_job_ends_as_its_programs_did() -> None:
    for policy, code, phase in (
        ("Never", 0, "Succeeded"),
        ("OnFailure", 0, "Succeeded"),
        ("Never", 3, "Failed"),
        ("OnFailure", 3, "Running"),
        ("Always", 0, "Running"),
    ):
        status = status_of(pod("app", policy=policy), Observed({"app": exited(code)}), NOW)

        assert status["phase"] == phase, policy


def test_a_job_does_not_wait_for_its_proxy() -> None:
    seen = Observed({"app": exited(0), "istio-proxy": running()})

    status = status_of(pod("app", "istio-proxy", policy="Never"), seen, NOW)

    assert status["phase"] == "Succeeded"
    assert condition(status, "Ready")["reason"] == "PodCompleted"


def test_a_failed_init_container_fails_a_pod_that_is_never_restarted() -> None:
    seen = Observed({"first": exited(1)})

    assert status_of(pod("app", inits=("first",), policy="Never"), seen, NOW)["phase"] == "Failed"


def test_the_end_of_a_pod_is_the_end() -> None:
    given = pod("app", policy="Never", status={"phase": "Failed"})

    assert status_of(given, Observed({"app": running()}), NOW)["phase"] == "Failed"


def test_times_of_what_did_not_change_are_kept() -> None:
    first = status_of(pod("app"), Observed({"app": running()}), THEN)

    second = status_of(
        pod("app", status=first), Observed({"app": running()}, ready=frozenset({"app"})), NOW
    )

    assert second["startTime"] == first["startTime"] == "2026-01-02T02:04:05Z"
    assert condition(second, "PodScheduled")["lastTransitionTime"] == "2026-01-02T02:04:05Z"
    assert condition(second, "Ready")["lastTransitionTime"] == "2026-01-02T03:04:05Z"


def test_a_pod_that_ran_before_the_machine_stopped_was_restarted() -> None:
    seen = Observed({"app": running(2)})
    before = status_of(pod("app"), seen, NOW)

    assert restart_count(pod("app", status=before), "app") == 3
    assert restart_count(pod("app"), "app") == 0


def test_readiness_can_be_taken_away_from_what_has_ended_unseen() -> None:
    both = frozenset({"app"})
    before = status_of(pod("app"), Observed({"app": running()}, started=both, ready=both), THEN)

    after = before | without_readiness(pod("app", status=before), NOW)

    assert not is_ready(pod("app", status=after))
    ready = condition(after, "Ready")
    assert (ready["reason"], ready["lastTransitionTime"]) == (
        "ContainersNotReady",
        "2026-01-02T03:04:05Z",
    )
    assert condition(after, "PodScheduled") == condition(before, "PodScheduled")
    assert after["containerStatuses"][0]["ready"] is False
    # It was running, which is what makes the next start a restart.
    assert restart_count(pod("app", status=after), "app") == 1
