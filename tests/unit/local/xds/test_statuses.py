from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import anyio

from apirule.apis.meta import GroupVersionKind, ObjectRef
from apirule.kube.errors import NotFound, Unreachable
from apirule.local.xds.statuses import (
    Concerned,
    StatusWriter,
    Verdict,
    Wanted,
    advice_of,
    is_written,
    obstacle_of,
    status_body,
    verdict,
)
from apirule.names import ObjectName
from apirule.problem import SPEC, Problem, Reason, Severity

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GVK = GroupVersionKind("networking.istio.io", "v1", "VirtualService")
UP_TO_DATE = Concerned(ObjectName("default", "a"), "")
LATE = Concerned(ObjectName("default", "b"), "is not connected")
TRUE = Verdict("True", "Reconciled", "1/1 proxies up to date", 3)


def decide(
    *concerned: Concerned, obstacle: tuple[str, str] | None = None, route: bool = True
) -> Verdict:
    unserved = "no running gateway serves it" if route else ""
    return verdict(3, obstacle=obstacle, concerned=concerned, unserved=unserved)


def test_object_is_reconciled_when_every_proxy_concerned_has_it() -> None:
    assert decide(UP_TO_DATE) == TRUE


def test_one_late_proxy_makes_it_unknown_and_is_named() -> None:
    found = decide(UP_TO_DATE, LATE)

    assert (found.status, found.message) == (
        "Unknown",
        "1/2 proxies up to date: default/b is not connected",
    )


def test_obstacle_outweighs_the_proxies() -> None:
    assert decide(UP_TO_DATE, obstacle=("Rejected", "why")) == Verdict(
        "False", "Rejected", "why", 3
    )


def test_route_without_any_proxy_is_unknown_and_policy_is_fine() -> None:
    assert decide().status == "Unknown"
    assert decide(route=False).status == "True"


def test_only_errors_are_obstacles_and_all_of_them_are_told() -> None:
    problems = [
        Problem(SPEC, Reason.INVALID, "One."),
        Problem(SPEC, Reason.MISLEADING, "Note.", severity=Severity.WARNING),
        Problem(SPEC / "http", Reason.NOT_IMPLEMENTED, "Two."),
        Problem(SPEC, Reason.INVALID, "One."),
    ]

    assert obstacle_of(problems) == ("Invalid", "spec: One. spec.http: Two.")
    assert obstacle_of(problems[1:2]) is None


def test_warnings_are_advice_and_leave_again_with_what_caused_them() -> None:
    warnings = [
        Problem(SPEC / "host", Reason.NOT_FOUND, "Gone.", "Make it.", Severity.WARNING),
        Problem(SPEC, Reason.INVALID, "An error."),
        Problem(SPEC, Reason.MISLEADING, "A note.", severity=Severity.NOTE),
        Problem(SPEC, Reason.INSECURE, "Open.", severity=Severity.WARNING),
    ]

    advice = advice_of(warnings, 3)

    assert advice == Verdict(
        "True", "NotFound", "spec.host: Gone. Make it. spec: Open.", 3, "Advice"
    )
    advised = status_body({}, [TRUE, advice], NOW)
    assert [c["type"] for c in advised["conditions"]] == ["Reconciled", "Advice"]
    assert is_written(advised, [TRUE, advice])
    assert not is_written(advised, [TRUE])
    assert [c["type"] for c in status_body(advised, [TRUE], NOW)["conditions"]] == ["Reconciled"]
    assert advice_of(warnings[1:3], 3) is None


def test_a_message_tells_of_ten_problems_and_counts_the_rest() -> None:
    many = [Problem(SPEC / n, Reason.CONFLICT, f"P{n}.") for n in range(12)]

    assert obstacle_of(many) is not None
    reason, text = obstacle_of(many) or ("", "")

    assert (reason, text.count("spec")) == ("Conflict", 10)
    assert text.endswith("And 2 more.")


def test_time_moves_with_the_status_only_and_conditions_of_others_stay() -> None:
    foreign = {"type": "Other", "status": "True"}
    before = status_body({"conditions": [foreign]}, [TRUE], NOW)
    later = datetime(2026, 2, 2, tzinfo=UTC)

    same = status_body(before, [Verdict("True", "Reconciled", "2/2", 4)], later)
    other = status_body(before, [Verdict("Unknown", "Pending", "0/1", 4)], later)

    assert before["conditions"][0] == foreign
    assert same["conditions"][1]["lastTransitionTime"] == "2026-01-01T00:00:00Z"
    assert other["conditions"][1]["lastTransitionTime"] == "2026-02-02T00:00:00Z"
    assert is_written(before, [TRUE])
    assert not is_written(same, [TRUE])


class Api:
    """Fails as often as it is told, then takes what it gets."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.written: list[tuple[str, str]] = []

    async def patch_status(
        self, gvk: GroupVersionKind, name: ObjectName, status: Mapping[str, Any]
    ) -> object:
        if self.failures:
            raise self.failures.pop(0)
        self.written.append((name.name, status["conditions"][0]["status"]))
        return None


def wanted(verdict: Verdict = TRUE, *, uid: str = "1", **actual: Any) -> dict[ObjectRef, Wanted]:
    ref = ObjectRef(GVK.group, GVK.kind, "default", "a")
    return {ref: Wanted(GVK, uid, verdict, actual)}


async def settled(writer: StatusWriter, api: Api, *wishes: Mapping[ObjectRef, Wanted]) -> Api:
    """Let the writer work on each wish until it has nothing left to do."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(writer.run)
        for wish in wishes:
            writer.want(wish)
            with anyio.fail_after(10):
                while not writer.idle:  # noqa: ASYNC110 - it tells nobody when it is
                    await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()
    return api


async def test_verdict_is_written_once() -> None:
    api = Api()

    await settled(StatusWriter(api, lambda: NOW), api, wanted(), wanted(), wanted())

    assert api.written == [("a", "True")]


async def test_verdict_that_already_stands_there_is_not_written() -> None:
    api = Api()

    await settled(StatusWriter(api, lambda: NOW), api, wanted(**status_body({}, [TRUE], NOW)))

    assert api.written == []


async def test_object_made_anew_gets_its_verdict_too() -> None:
    api = Api()

    await settled(StatusWriter(api, lambda: NOW), api, wanted(uid="1"), wanted(uid="2"))

    assert api.written == [("a", "True")] * 2


async def test_failed_write_is_tried_again_and_a_deleted_object_is_not() -> None:
    api = Api(Unreachable("down"))
    gone = Api(NotFound(404, "gone"))

    await settled(StatusWriter(api, lambda: NOW), api, wanted())
    await settled(StatusWriter(gone, lambda: NOW), gone, wanted())

    assert api.written == [("a", "True")]
    assert gone.written == []
