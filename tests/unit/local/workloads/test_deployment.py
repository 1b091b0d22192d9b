from datetime import UTC, datetime, timedelta
from typing import Any

from apirule.local.workloads.deployment import made_from, replica_set, status_of
from apirule.local.workloads.rollout import template_hash

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def deployment(status: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "web",
            "namespace": "shop",
            "uid": "u1",
            "generation": 7,
            "annotations": {
                "team": "us",
                "deployment.kubernetes.io/revision": "4",
                "kubectl.kubernetes.io/last-applied-configuration": "{}",
            },
        },
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}},
        },
        "status": status or {},
    }


def sized(count: int, available: int) -> dict[str, Any]:
    counts = {"replicas": count, "readyReplicas": available, "availableReplicas": available}
    return {"metadata": {"name": "web-1"}, "spec": {"replicas": count}, "status": counts}


def condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(c for c in status["conditions"] if c["type"] == kind)


def test_a_replica_set_belongs_to_its_deployment_and_selects_its_own_pods() -> None:
    made = replica_set(deployment(), "abc", revision=5)

    assert made["metadata"]["name"] == "web-abc"
    assert made["metadata"]["ownerReferences"][0]["uid"] == "u1"
    assert made["metadata"]["annotations"] == {
        "team": "us",
        "deployment.kubernetes.io/revision": "5",
    }
    labels = {"app": "web", "pod-template-hash": "abc"}
    assert made["spec"]["selector"]["matchLabels"] == labels
    assert made["spec"]["template"]["metadata"]["labels"] == labels
    assert made["spec"]["replicas"] == 0


def test_a_default_that_both_templates_learn_makes_no_new_replica_set() -> None:
    before = deployment()
    made = replica_set(before, template_hash(before["spec"]["template"]), revision=1)
    learnt, changed = deployment(), deployment()
    for obj in (learnt, made):
        obj["spec"]["template"]["spec"] = {"containers": [], "dnsPolicy": "ClusterFirst"}
    changed["spec"]["template"]["spec"] = {"containers": [], "dnsPolicy": "None"}

    assert made_from(made, template_hash(learnt["spec"]["template"]))
    assert not made_from(made, template_hash(changed["spec"]["template"]))


def test_a_finished_rollout_says_so() -> None:
    status = status_of(deployment(), sized(2, 2), [sized(0, 0)], NOW)

    assert status["observedGeneration"] == 7
    assert status["updatedReplicas"] == status["availableReplicas"] == 2
    assert status["unavailableReplicas"] == 0
    assert condition(status, "Available")["reason"] == "MinimumReplicasAvailable"
    assert condition(status, "Progressing")["reason"] == "NewReplicaSetAvailable"


def test_pods_that_are_not_there_yet_are_unavailable() -> None:
    status = status_of(deployment(), sized(1, 0), [], NOW)

    assert status["unavailableReplicas"] == 1
    assert condition(status, "Available")["status"] == "False"
    assert condition(status, "Progressing")["reason"] == "ReplicaSetUpdated"


def test_a_rollout_that_stands_still_runs_out_of_time() -> None:
    first = status_of(deployment(), sized(1, 0), [], NOW)
    soon, late = NOW + timedelta(seconds=599), NOW + timedelta(seconds=601)

    still = status_of(deployment(first), sized(1, 0), [], soon)
    failed = status_of(deployment(first), sized(1, 0), [], late)

    assert condition(still, "Progressing")["status"] == "True"
    assert condition(failed, "Progressing")["reason"] == "ProgressDeadlineExceeded"


def test_progress_gives_more_time() -> None:
    first = status_of(deployment(), sized(1, 0), [], NOW)

    later = status_of(deployment(first), sized(2, 1), [], NOW + timedelta(seconds=601))

    assert condition(later, "Progressing")["status"] == "True"


def test_times_change_only_with_what_they_belong_to() -> None:
    first = status_of(deployment(), sized(1, 0), [], NOW)

    second = status_of(deployment(first), sized(1, 0), [], NOW + timedelta(seconds=5))

    assert second == first
