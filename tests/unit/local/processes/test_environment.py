import base64
from typing import Any

import pytest

from apirule.local.processes.environment import (
    Surroundings,
    environment,
    expand,
    no_proxy,
)
from apirule.local.processes.mounts import ConfigError
from apirule.local.processes.ports import Place, Placement

POD: dict[str, Any] = {
    "metadata": {
        "name": "web-1",
        "namespace": "shop",
        "uid": "u1",
        "labels": {"app": "web"},
        "annotations": {"team/owner": "us"},
    },
    "spec": {"serviceAccountName": "web"},
    "status": {"podIP": "127.0.0.1"},
}
OBJECTS: dict[tuple[str, str], dict[str, Any]] = {
    ("ConfigMap", "settings"): {"data": {"LEVEL": "debug", "not a name": "x"}},
    ("Secret", "keys"): {"data": {"token": base64.b64encode(b"hush").decode()}},
    ("Secret", "binary"): {"data": {"token": base64.b64encode(b"\xff").decode()}},
}
NOWHERE = Placement(())


def lookup(kind: str, name: str) -> dict[str, Any] | None:
    return OBJECTS.get((kind, name))


AROUND = Surroundings(lookup, "kyma.localhost", {"cpu": 4, "memory": 8 << 30})


def variables(*entries: dict[str, Any], **container: Any) -> dict[str, str]:
    placement = container.pop("placement", NOWHERE)
    app = {"name": "app", "env": list(entries), **container}
    pod = POD | {"spec": {**POD["spec"], "containers": [app]}}
    return environment(pod, app, placement, AROUND)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--port=$(PORT)", "--port=80"),
        ("$(PORT)$(PORT)", "8080"),
        ("$$(PORT)", "$(PORT)"),
        ("$(UNKNOWN)", "$(UNKNOWN)"),
        ("$PORT costs $5", "$PORT costs $5"),
        ("$(PORT", "$(PORT"),
    ],
)
def test_references_expand_as_in_kubernetes(text: str, expected: str) -> None:
    assert expand(text, {"PORT": "80"}) == expected


def test_a_variable_sees_those_before_it() -> None:
    made = variables(
        {"name": "EARLY", "value": "$(LATE)"},
        {"name": "LATE", "value": "1"},
        {"name": "BOTH", "value": "$(EARLY) $(LATE)"},
    )

    assert (made["EARLY"], made["BOTH"]) == ("$(LATE)", "$(LATE) 1")


def test_values_come_from_configmaps_secrets_and_the_pod() -> None:
    made = variables(
        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "LEVEL"}}},
        {"name": "B", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}},
        {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {
            "name": "D",
            "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['team/owner']"}},
        },
        {"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "spec.serviceAccountName"}}},
    )

    assert [made[name] for name in "ABCDEF"] == ["debug", "hush", "web", "us", "127.0.0.1", "web"]


def test_what_a_container_may_use_is_told() -> None:
    reference = {"resource": "limits.memory", "divisor": "1Mi"}
    entry = {"name": "A", "valueFrom": {"resourceFieldRef": reference}}

    assert variables(entry, resources={"limits": {"memory": "64Mi"}})["A"] == "64"
    assert variables(entry)["A"] == "8192"


def test_a_whole_configmap_becomes_variables() -> None:
    made = variables(envFrom=[{"prefix": "APP_", "configMapRef": {"name": "settings"}}])

    assert made["APP_LEVEL"] == "debug"
    assert "APP_not a name" not in made


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"configMapKeyRef": {"name": "none", "key": "k"}}, 'configmap "none" not found'),
        ({"secretKeyRef": {"name": "none", "key": "k"}}, 'secret "none" not found'),
        ({"secretKeyRef": {"name": "keys", "key": "k"}}, "couldn't find key k in Secret keys"),
        ({"secretKeyRef": {"name": "binary", "key": "token"}}, "not text"),
        ({"fieldRef": {"fieldPath": "spec.everything"}}, "cannot be given"),
        ({"resourceFieldRef": {"resource": "limits.gpu"}}, "cannot be given"),
        ({"resourceFieldRef": {"containerName": "no", "resource": "limits.cpu"}}, "no container"),
        ({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "x"}}, "is no quantity"),
        ({"fileKeyRef": {"path": "x"}}, "from fileKeyRef do not exist here"),
    ],
)
def test_what_cannot_be_had_is_an_error(source: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        variables({"name": "A", "valueFrom": source})


def test_what_is_optional_may_be_missing() -> None:
    reference = {"name": "none", "key": "k", "optional": True}

    assert "A" not in variables({"name": "A", "valueFrom": {"secretKeyRef": reference}})


def test_a_program_is_told_where_to_listen() -> None:
    places = (Place(80, "127.0.0.1:20001"), Place(9090, "127.0.0.1:20002"))
    ports = [{"containerPort": 80, "name": "http-web"}, {"containerPort": 9090}]

    made = variables({"name": "PORT", "value": "80"}, ports=ports, placement=Placement(places))

    assert made["PORT"] == made["PORT_HTTP_WEB"] == "20001"
    assert made["PORT_9090"] == "20002"


def test_a_program_on_a_socket_has_no_port() -> None:
    placement = Placement((Place(80, "unix:/run/a.sock"),))

    made = variables(ports=[{"containerPort": 80}], placement=placement)

    assert made["APIRULE_ADDRESS"] == "unix:/run/a.sock"
    assert "PORT" not in made


def test_a_sidecar_is_the_http_proxy_for_all_but_this_machine() -> None:
    made = variables(placement=Placement((), outbound=20003))

    assert made["http_proxy"] == made["HTTP_PROXY"] == "http://127.0.0.1:20003"
    assert "127.0.0.1" in made["no_proxy"].split(",")
    assert "http_proxy" not in variables()


def test_a_proxy_of_the_users_choice_stays() -> None:
    made = variables({"name": "http_proxy", "value": "x"}, placement=Placement((), outbound=20003))

    assert made["http_proxy"] == "x"


def test_what_the_gateway_serves_is_not_asked_of_the_sidecar() -> None:
    assert no_proxy("kyma.localhost") == "localhost,127.0.0.1,::1,.localhost"
    assert no_proxy("localhost") == "localhost,127.0.0.1,::1,.localhost"
    assert no_proxy("example.test").endswith(",.localhost,example.test,.example.test")
