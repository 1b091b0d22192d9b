"""The kinds of Kubernetes itself, as the API server completes, refuses and scales them."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.shells.conftest import RunningApiServer
from tests.shells.http_client import Client

PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture
def client(api_server: RunningApiServer) -> Iterator[Client]:
    client = Client(api_server.url, api_server.ssl_context())
    yield client
    client.close()


def pod(metadata: Any = None, **container: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", **(metadata or {})},
        "spec": {"containers": [{"name": "c", "image": "i", **container}]},
    }


def test_a_container_whose_name_leaves_its_folder_is_refused(client: Client) -> None:
    names = ("../../x", "/etc/x", ".", "a/b", "a\0b")

    answers = [client.post(PODS, pod(name=name)) for name in names]

    assert {answer.status for answer in answers} == {422}
    assert client.get(PODS).json["items"] == []


def test_only_the_injector_brings_a_sidecar(client: Client) -> None:
    brought = pod(name="istio-proxy")
    brought["spec"]["containers"].append({"name": "b", "image": "i"})
    template = {"metadata": {"labels": {"a": "b"}}, "spec": brought["spec"]}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template},
    }

    refused = client.post(PODS, brought)
    also = client.post("/apis/apps/v1/namespaces/default/deployments", deployment)
    injected = client.post(PODS, pod({"labels": {"sidecar.istio.io/inject": "true"}}))
    gateway = client.post(PODS, {**pod(name="istio-proxy"), "metadata": {"name": "gateway"}})

    assert (refused.status, also.status) == (422, 422)
    assert "is the name of the sidecar" in refused.json["message"]
    assert "spec.template.spec.containers[0].name" in also.json["message"]
    assert [c["name"] for c in injected.json["spec"]["containers"]] == ["c", "istio-proxy"]
    assert gateway.status == 201
    labelled = client.merge(f"{PODS}/p", {"metadata": {"labels": {"a": "b"}}})
    assert labelled.status == 200


def test_a_zero_in_a_probe_stands_for_its_default(client: Client) -> None:
    probe = {"tcpSocket": {"port": 1}, "periodSeconds": 0, "failureThreshold": 0}

    stored = client.post(PODS, pod(livenessProbe=probe)).json

    assert stored["spec"]["containers"][0]["livenessProbe"] == {
        "tcpSocket": {"port": 1},
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    }


def test_what_an_object_is_for_cannot_be_changed(client: Client) -> None:
    slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    piece = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "s"},
        "addressType": "IPv4",
        "endpoints": [],
    }
    client.post(slices, piece)

    answer = client.merge(f"{slices}/s", {"addressType": "IPv6"})

    assert answer.status == 422
    assert 'addressType: Invalid value: "IPv6": field is immutable' in answer.json["message"]


def test_a_service_looks_as_on_a_cluster_and_keeps_its_address(client: Client) -> None:
    path = "/api/v1/namespaces/default/services"
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s"},
        "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}},
    }

    created = client.post(path, service).json
    changed = {**service, "metadata": {"name": "s"}, "spec": {"ports": [{"port": 81}]}}
    updated = client.put(f"{path}/s", changed).json

    assert created["spec"]["clusterIP"].startswith("10.96.")
    assert created["spec"]["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]
    assert updated["spec"]["clusterIP"] == created["spec"]["clusterIP"]


def test_the_text_of_a_secret_is_stored_in_base64(client: Client) -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s"},
        "stringData": {"password": "pass"},
    }

    stored = client.post("/api/v1/namespaces/default/secrets", secret).json

    assert stored["data"] == {"password": "cGFzcw=="}
    assert "stringData" not in stored
    assert stored["type"] == "Opaque"


def test_scale_reads_and_writes_the_replicas(client: Client) -> None:
    path = "/apis/apps/v1/namespaces/default/deployments"
    template = {
        "metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template},
    }
    client.post(path, deployment)

    before = client.get(f"{path}/d/scale").json
    table = "application/json;as=Table;v=v1;g=meta.k8s.io"
    printed = client.get(f"{path}/d/scale", Accept=table).json
    after = client.merge(f"{path}/d/scale", {"spec": {"replicas": 4}}).json
    refused = client.merge(f"{path}/d/scale", {"spec": {"replicas": -1}})

    fields = client.get(f"{path}/d").json["metadata"]["managedFields"]
    scaled = [entry["fieldsV1"] for entry in fields if entry.get("subresource") == "scale"]
    assert scaled == [{"f:spec": {"f:replicas": {}}}]
    assert before["spec"]["replicas"] == 1
    assert before["status"]["selector"] == "a=b"
    assert [column["name"] for column in printed["columnDefinitions"]] == [
        "Name",
        "Desired",
        "Available",
        "Age",
    ]
    assert printed["rows"][0]["cells"][:3] == ["d", 1, 0]
    assert after["spec"]["replicas"] == 4
    assert client.get(f"{path}/d").json["spec"]["replicas"] == 4
    assert refused.status == 422


def test_a_wrong_type_in_a_built_in_kind_is_a_bad_request(client: Client) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s"},
        "spec": {"ports": [{"port": "eighty"}]},
    }

    answer = client.post("/api/v1/namespaces/default/services", service)

    assert (answer.status, answer.json["reason"]) == (400, "BadRequest")
    assert "spec.ports[0].port" in answer.json["message"]


def test_a_selector_that_misses_the_template_is_refused(client: Client) -> None:
    template = {
        "metadata": {"labels": {"a": "other"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template},
    }

    answer = client.post("/apis/apps/v1/namespaces/default/deployments", deployment)

    assert answer.status == 422
    assert "does not match template" in answer.json["message"]


def test_an_empty_list_is_the_same_as_none(client: Client) -> None:
    path = "/apis/apps/v1/namespaces/default/deployments"
    template = {"metadata": {"labels": {"a": "b"}}, "spec": pod()["spec"]}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
    body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec}
    created = client.post(path, body).json

    spec["template"] = {**template, "spec": pod(env=[], volumeMounts=[])["spec"]}
    again = client.put(f"{path}/d", body).json

    # Or else its Pods would be replaced by equal ones.
    assert again["metadata"]["resourceVersion"] == created["metadata"]["resourceVersion"]


def test_a_conflict_names_the_subresource_of_the_other_owner(client: Client) -> None:
    path = "/apis/apps/v1/namespaces/default/deployments"
    template = {"metadata": {"labels": {"a": "b"}}, "spec": pod()["spec"]}
    spec = {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}
    body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec}
    client.apply(f"{path}/d?fieldManager=m", body)
    client.merge(f"{path}/d/scale?fieldManager=kubectl", {"spec": {"replicas": 4}})

    refused = client.apply(f"{path}/d?fieldManager=m", body)

    assert refused.status == 409
    assert refused.json["message"] == (
        'Apply failed with 1 conflict: conflict with "kubectl" with subresource "scale" using'
        " apps/v1: .spec.replicas"
    )


def test_a_scale_is_not_applied(client: Client) -> None:
    path = "/apis/apps/v1/namespaces/default/deployments"
    body = {"apiVersion": "autoscaling/v1", "kind": "Scale", "spec": {"replicas": 1}}

    assert client.apply(f"{path}/d/scale?fieldManager=m", body).status == 415


def test_nobody_owns_the_first_status(client: Client) -> None:
    created = client.post(PODS, pod()).json

    assert created["status"]["phase"] == "Pending"
    (entry,) = created["metadata"]["managedFields"]
    assert entry["fieldsV1"].keys() == {"f:spec"}


def test_a_service_can_change_its_type(client: Client) -> None:
    path = "/api/v1/namespaces/default/services"
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s"},
        "spec": {"type": "NodePort", "ports": [{"port": 80}]},
    }
    created = client.post(path, service).json["spec"]
    taken = {"ports": [{"port": 80, "nodePort": created["ports"][0]["nodePort"]}]}

    other = {**service, "metadata": {"name": "t"}, "spec": {**taken, "type": "NodePort"}}
    refused = client.post(path, other)
    plain = client.merge(f"{path}/s", {"spec": {"type": "ClusterIP"}})
    named = client.merge(f"{path}/s", {"spec": {"type": "ExternalName", "externalName": "a.b"}})

    assert refused.status == 422
    assert "provided port is already allocated" in refused.json["message"]
    assert plain.json["spec"]["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]
    assert "clusterIP" not in named.json["spec"]
