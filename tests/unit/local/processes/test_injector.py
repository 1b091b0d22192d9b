import copy
from typing import Any

import pytest

from apirule.apis import core
from apirule.apis.scheme import decode
from apirule.local.processes.injector import inject
from apirule.mesh.proxy import has_proxy

ON = {"istio-injection": "enabled"}
OFF = {"istio-injection": "disabled"}
REVISION = {"istio.io/rev": "default"}
YES = {"sidecar.istio.io/inject": "true"}
NO = {"sidecar.istio.io/inject": "false"}
NONE: dict[str, str] = {}


def pod(
    labels: dict[str, str] = NONE, annotations: dict[str, str] = NONE, **spec: Any
) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "labels": labels, "annotations": annotations},
        "spec": {"containers": [{"name": "app"}], **spec},
    }


def namespace(labels: dict[str, str]) -> dict[str, Any]:
    return {"metadata": {"name": "shop", "labels": labels}}


@pytest.mark.parametrize(
    ("of_namespace", "given", "injected"),
    [
        (ON, pod(), True),
        (REVISION, pod(), True),
        (NONE, pod(), False),
        (OFF, pod(labels=YES), False),
        (ON, pod(labels=NO), False),
        (ON, pod(annotations=NO), False),
        (ON, pod(labels=YES, annotations=NO), True),
        (NONE, pod(labels=YES), True),
        (NONE, pod(annotations=YES), True),
        (ON, pod(hostNetwork=True), False),
    ],
    ids=[
        "the namespace says yes",
        "the namespace names a revision",
        "nobody says anything",
        "a namespace that says no wins",
        "the Pod says no by label",
        "the Pod says no by annotation",
        "the label goes before the annotation",
        "the Pod says yes by label",
        "the Pod says yes by annotation",
        "the network of the host has no sidecars",
    ],
)
def test_who_gets_a_sidecar(
    of_namespace: dict[str, str], given: dict[str, Any], injected: bool
) -> None:
    made = inject(given, namespace(of_namespace))

    assert has_proxy(decode(made, core.Pod)) is injected


def test_the_sidecar_is_announced_and_the_pod_given_stays_as_it_was() -> None:
    given = pod(annotations={"mine": "kept"})
    before = copy.deepcopy(given)

    made = inject(given, namespace(ON))

    assert given == before
    assert made["metadata"]["annotations"] == {
        "mine": "kept",
        "kubectl.kubernetes.io/default-container": "app",
        "kubectl.kubernetes.io/default-logs-container": "app",
        "sidecar.istio.io/status": '{"containers": ["istio-proxy"]}',
    }
    assert [c["name"] for c in made["spec"]["containers"]] == ["app", "istio-proxy"]


def test_a_default_container_that_was_chosen_is_kept() -> None:
    key = "kubectl.kubernetes.io/default-container"

    made = inject(pod(annotations={key: "other"}), namespace(ON))

    assert made["metadata"]["annotations"][key] == "other"


def test_a_second_pass_adds_nothing() -> None:
    once = inject(pod(), namespace(ON))

    assert inject(once, namespace(ON)) is once


def test_a_pod_whose_namespace_is_unknown_is_left_alone() -> None:
    given = pod()

    assert inject(given, None) is given
