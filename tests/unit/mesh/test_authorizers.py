"""External authorizers: which ones can be asked, and which slot each one has."""

from typing import Any

import pytest
import yaml
from tests.unit.mesh.policies_given import WEB, authorization

from apirule.apis import core, security
from apirule.apis.meta import ObjectMeta, Resource
from apirule.mesh import authorizers, external
from apirule.mesh import security as filters
from apirule.mesh.authorizers import Unusable, of_policy
from apirule.mesh.build import build
from apirule.mesh.config import TypeUrl
from apirule.mesh.memo import Memo
from apirule.mesh.policies import policies_for
from apirule.mesh.snapshot import Snapshot
from apirule.problem import Reason


def service(name: str = "gate", *ports: core.ServicePort) -> core.Service:
    return core.Service(
        metadata=ObjectMeta(namespace="auth", name=name),
        spec=core.ServiceSpec(ports=ports or (core.ServicePort(name="http", port=80),)),
    )


def mesh(*entries: dict[str, Any]) -> core.ConfigMap:
    return core.ConfigMap(
        metadata=ObjectMeta(namespace="istio-system", name="istio"),
        data={"mesh": yaml.safe_dump({"extensionProviders": list(entries)})},
    )


def http(**fields: Any) -> dict[str, Any]:
    config = {"service": "gate.auth.svc.cluster.local", "port": 80, **fields}
    return {"name": "gate", "envoyExtAuthzHttp": config}


def custom(name: str = "gate", **metadata: Any) -> security.AuthorizationPolicy:
    rules = [{"to": [{"operation": {"paths": [f"/{name}"]}}]}]
    spec = {"action": "CUSTOM", "provider": {"name": name}, "rules": rules}
    return authorization(spec, f"ask-{name}", **metadata)


def asked(*resources: Resource) -> authorizers.Authorizer:
    return of_policy(Snapshot.of([service(), *resources]), custom())


@pytest.mark.parametrize(
    "name",
    ["gate.auth.svc.cluster.local", "gate.auth.svc", "gate.auth", "auth/gate", "x/gate.auth"],
)
def test_a_service_may_be_named_in_every_way_that_says_its_namespace(name: str) -> None:
    found = asked(mesh(http(service=name)))

    assert found.upstream.cluster == "outbound|80||gate.auth.svc.cluster.local"


def test_without_a_timeout_a_request_does_not_wait_for_ever() -> None:
    assert asked(mesh(http())).config.http_service.server_uri.timeout.seconds == 5


def test_the_old_name_of_a_field_counts_where_the_new_one_is_not_given() -> None:
    old = asked(mesh(http(includeHeadersInCheck=["a"]))).config
    new = asked(mesh(http(includeHeadersInCheck=["a"], includeRequestHeadersInCheck=["b"]))).config

    assert [p.exact for p in old.allowed_headers.patterns] == ["a"]
    assert [p.exact for p in new.allowed_headers.patterns] == ["b"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"service": "gate"}, "no namespace"),
        ({"service": "other.auth"}, "no Service"),
        ({"service": "example.org"}, "no Service"),
        ({"port": 81}, "no port 81"),
        ({"timeout": "soon"}, "timeout"),
        ({"timeout": "0s"}, "timeout"),
        ({"pathPrefix": "check"}, "pathPrefix"),
        ({"pathPrefix": "/a b"}, "pathPrefix"),
        ({"statusOnError": "0"}, "statusOnError"),
        ({"statusOnError": "299"}, "statusOnError"),
        ({"statusOnError": "forbidden"}, "statusOnError"),
        ({"includeAdditionalHeadersInCheck": {"a b": "c"}}, "a b"),
        ({"includeAdditionalHeadersInCheck": {"a": "b\nc"}}, "control character"),
        ({"includeRequestHeadersInCheck": [""]}, "empty"),
        ({"includeRequestBodyInCheck": {}}, "maxRequestBytes"),
    ],
)
def test_an_authorizer_that_cannot_be_asked_says_why(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(Unusable, match=said):
        asked(mesh(http(**fields)))


def test_a_grpc_authorizer_needs_a_port_that_says_so() -> None:
    entry = {"name": "gate", "envoyExtAuthzGrpc": {"service": "auth/gate", "port": 9000}}
    undeclared = core.ServicePort(name="x", port=9000)
    declared = core.ServicePort(name="x", port=9000, app_protocol="grpc")

    found = of_policy(Snapshot.of([service("gate", declared), mesh(entry)]), custom())

    assert found.config.grpc_service.envoy_grpc.cluster_name.startswith("outbound|9000|")
    with pytest.raises(Unusable, match="gRPC"):
        of_policy(Snapshot.of([service("gate", undeclared), mesh(entry)]), custom())


def test_a_configuration_that_a_proxy_refused_is_not_used() -> None:
    config = mesh(http())
    snapshot = Snapshot.of([service(), config], rejected={config.ref: "Envoy says no"})

    with pytest.raises(Unusable, match="refuses"):
        of_policy(snapshot, custom())


def test_a_refusal_leads_to_the_policies_and_to_the_configuration() -> None:
    policy, config = custom(), mesh(http())

    sources = filters.sources(Snapshot.of([service(), policy, config]), WEB)

    assert sources[filters.name_of(WEB, 80, filters.Guard.EXTERNAL_0)] == {policy.ref, config.ref}


def test_an_authorizer_keeps_its_slot_when_others_come_and_go() -> None:
    everybody = [custom(name) for name in ("a", "b", "c", "d")]
    taken = external.slots(everybody)

    assert sorted(taken.values()) == [0, 1, 2, 3]
    for policy in everybody:
        rest = [one for one in everybody if one is not policy]
        without = external.slots(rest, taken)
        again = external.slots([policy, *rest], without)
        assert without.items() <= taken.items()
        assert again == taken


def test_authorizers_of_a_workload_stay_in_their_slots_while_it_runs() -> None:
    p1, p3 = custom("p1"), custom("p3")  # both would rather have the same slot
    memo = Memo()

    def slot(*policies: security.AuthorizationPolicy) -> int:
        return policies_for(Snapshot.of(policies), WEB, memo).slots["p3"]

    together = slot(p1, p3)

    assert slot(p3) == together
    assert external.slots([p3])["p3"] != together


def test_what_finds_no_slot_is_refused_and_says_so() -> None:
    names = ("a", "b", "c", "d", "e")
    entries = [{**http(), "name": name} for name in names]
    created = {n: f"2026-01-01T00:00:0{i}Z" for i, n in enumerate(names)}
    policies = [custom(name, creationTimestamp=created[name]) for name in names]
    snapshot = Snapshot.of([service(), mesh(*entries), *policies])

    config = build(snapshot, WEB)

    ((ref, (problem,)),) = config.problems.items()
    assert (ref.name, problem.reason) == ("ask-e", Reason.NOT_IMPLEMENTED)
    extensions = config.resources[TypeUrl.EXTENSION].values()
    refusing = [e for e in extensions if b"istio-ext-authz-e-" in e.SerializeToString()]
    assert len(refusing) == len(WEB.inbound)


def test_a_sidecar_without_an_outbound_port_can_call_its_authorizer() -> None:
    config = build(Snapshot.of([service(), mesh(http()), custom()]), WEB)

    assert "outbound|80||gate.auth.svc.cluster.local" in config.resources[TypeUrl.CLUSTER]
