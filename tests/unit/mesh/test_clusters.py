"""Whom a Service's cluster talks to, and how."""

from typing import Any

from google.protobuf.json_format import MessageToDict
from tests.unit.mesh.objects import GATEWAY_POD, decode, endpoints, pod

from apirule.mesh import clusters
from apirule.mesh.memo import Memo
from apirule.mesh.proxy import InboundPort
from apirule.mesh.snapshot import Snapshot
from apirule.names import ObjectName


def outbound(text: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    snapshot = Snapshot.of(decode(GATEWAY_POD + text))
    service = snapshot.services[ObjectName("web", "shop")]
    made = clusters.outbound(snapshot, service, service.spec.ports[0], Memo())
    assert made.assignment is not None
    groups = MessageToDict(made.assignment).get("endpoints", [])
    return MessageToDict(made.cluster), [e for group in groups for e in group["lbEndpoints"]]


def identities(cluster: dict[str, Any]) -> list[str]:
    context = cluster["transportSocket"]["typedConfig"]["commonTlsContext"]
    validation = context["combinedValidationContext"]["defaultValidationContext"]
    return [san["matcher"]["exact"] for san in validation["matchTypedSubjectAltNames"]]


def options(cluster: dict[str, Any]) -> set[str]:
    (protocol,) = cluster["typedExtensionProtocolOptions"].values()
    return set(protocol["explicitHttpConfig"])


def test_workloads_in_the_mesh_are_called_by_their_identities_over_http2() -> None:
    text = pod("a", sidecar=5, account="a") + endpoints("a", 5)
    text += pod("b", sidecar=6, account="b") + endpoints("b", 6)

    cluster, places = outbound(text)

    assert identities(cluster) == [
        "spiffe://cluster.local/ns/web/sa/a",
        "spiffe://cluster.local/ns/web/sa/b",
    ]
    assert options(cluster) == {"http2ProtocolOptions"}
    assert len(places) == 2


def test_a_restart_does_not_change_the_cluster() -> None:
    up = pod("a", sidecar=5) + endpoints("a", 5)
    down = pod("a", sidecar=5) + endpoints("a", 5, ready="false")

    (before, _), (after, places) = outbound(up), outbound(down)

    assert before == after
    assert places == []


def test_a_workload_outside_the_mesh_is_called_in_plain_text() -> None:
    cluster, places = outbound(pod("a") + endpoints("a", 5))

    assert "transportSocket" not in cluster
    assert options(cluster) == {"httpProtocolOptions"}
    assert "metadata" not in places[0]


def test_each_endpoint_of_a_mixed_service_says_what_it_takes() -> None:
    text = pod("a", sidecar=5) + endpoints("a", 5) + pod("b") + endpoints("b", 6)

    cluster, places = outbound(text)

    names = [match["name"] for match in cluster["transportSocketMatches"]]
    assert names == ["mutual-tls", "plain"]
    assert ["metadata" in place for place in places] == [True, False]


def test_a_port_that_takes_no_mutual_tls_is_called_without() -> None:
    disabled = """
---
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: {name: disabled, namespace: web}
spec: {mtls: {mode: DISABLE}}
"""

    _, places = outbound(pod("a", sidecar=5) + endpoints("a", 5) + disabled)

    assert "metadata" not in places[0]


def test_an_endpoint_that_two_slices_name_is_there_once() -> None:
    second = endpoints("a", 5).replace("metadata: {name: a", "metadata: {name: a2")

    _, places = outbound(pod("a", sidecar=5) + endpoints("a", 5) + second)

    assert len(places) == 1


def test_the_application_is_reached_at_its_port_or_socket() -> None:
    port = clusters.inbound(InboundPort(80, "127.0.0.1:5000", 6000), speaks_h2=False)
    pipe = clusters.inbound(InboundPort(80, "unix:/run/a.sock", 6000), speaks_h2=True)

    def address(cluster: Any) -> Any:
        (group,) = MessageToDict(cluster)["loadAssignment"]["endpoints"]
        return group["lbEndpoints"][0]["endpoint"]["address"]

    assert address(port) == {"socketAddress": {"address": "127.0.0.1", "portValue": 5000}}
    assert address(pipe) == {"pipe": {"path": "/run/a.sock"}}
    assert options(MessageToDict(pipe)) == {"http2ProtocolOptions"}
