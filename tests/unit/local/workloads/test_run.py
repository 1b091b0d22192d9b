from typing import Any

import pytest

from apirule.local.workloads.run import objects_for
from apirule.problem import SetupError


def made(**changes: Any) -> list[dict[str, Any]]:
    given: dict[str, Any] = {"port": 9000, "argv": ["python", "app.py"], "cwd": "/srv/app"}
    return objects_for("orders", "shop", **(given | changes))


def test_a_program_is_a_deployment_and_a_service() -> None:
    service, deployment = made(service_port=80)

    (port,) = service["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (80, 9000)
    template = deployment["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert container["command"] == ["python", "app.py"]
    assert container["workingDir"] == "/srv/app"
    assert container["ports"][0]["hostPort"] == 9000
    labels = template["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_the_old_program_ends_before_the_new_one_starts() -> None:
    _, deployment = made()

    assert deployment["spec"]["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize(("sidecar", "word"), [(True, "true"), (False, "false")])
def test_the_sidecar_is_asked_for_by_name(sidecar: bool, word: str) -> None:
    _, deployment = made(sidecar=sidecar)

    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels["sidecar.istio.io/inject"] == word


def test_dollars_reach_the_program_as_they_were_typed() -> None:
    _, deployment = made(argv=["echo", "$(HOME)"], env={"A": "$5"})

    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["echo", "$$(HOME)"]
    assert container["env"] == [{"name": "A", "value": "$$5"}]


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"port": 0}, "not a port"), ({"service_port": 70000}, "not a port"), ({"argv": []}, "--")],
)
def test_wrong_words_are_refused_with_a_way_out(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SetupError) as refusal:
        made(**changes)

    assert words in f"{refusal.value.message} {refusal.value.fix}"


def test_a_name_that_kubernetes_refuses_is_refused_here() -> None:
    with pytest.raises(SetupError, match="cannot be the name"):
        objects_for("Orders", "shop", port=1, argv=["x"], cwd="/")
