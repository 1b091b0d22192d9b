from dataclasses import dataclass, field
from typing import Any

import pytest

from apirule.apis import security, traffic
from apirule.apis.envoy_filter import EnvoyFilter
from apirule.apis.meta import Object, ObjectRef
from apirule.local.xds import world as world_module
from apirule.local.xds.world import NOTHING, Moment, World


@dataclass
class Change:
    object: Object
    type: str = "MODIFIED"
    revision: int = field(default=1)


def obj(kind: str, api: str = "v1", name: str = "a", **fields: Any) -> Object:
    meta = {"namespace": "default", "name": name, **fields.pop("metadata", {})}
    return {"apiVersion": api, "kind": kind, "metadata": meta, **fields}


def policy(spec: Any, **more: Any) -> Object:
    return obj("AuthorizationPolicy", "security.istio.io/v1", spec=spec, **more)


def rule(http: Any, **more: Any) -> Object:
    return obj(
        "VirtualService", "networking.istio.io/v1", spec={"hosts": ["h"], "http": http}, **more
    )


def test_status_and_bookkeeping_are_not_a_change() -> None:
    world = World()
    first = rule([], metadata={"generation": 1, "resourceVersion": "1"})
    noise = {"generation": 1, "resourceVersion": "2", "managedFields": [{"manager": "kubectl"}]}

    assert world.apply([Change(first)])
    assert not world.apply([Change(rule([], metadata=noise, status={"observedGeneration": 1}))])
    assert world.status(ObjectRef.of(first)) == {"observedGeneration": 1}
    assert world.apply([Change(rule([], metadata={"generation": 2}))])


def test_all_unknown_fields_are_named_and_the_object_stays_for_its_selector() -> None:
    world = World()
    bad = policy({"selector": {"matchLabels": {"app": "x"}}, "colour": 1, "rules": [{"size": 2}]})

    world.apply([Change(bad)])

    moment = world.moment()
    fault = moment.faults[ObjectRef.of(bad)]
    kept = moment.resources[ObjectRef.of(bad)]
    assert fault.reason == "UnknownField"
    assert "spec.colour: " in fault.text
    assert "spec.rules[0].size: " in fault.text
    assert isinstance(kept, security.AuthorizationPolicy)
    assert kept.spec.selector == security.WorkloadSelector(match_labels={"app": "x"})


def test_unreadable_policy_keeps_the_selector_it_can_be_closed_by() -> None:
    world = World()
    bad = policy({"selector": {"matchLabels": {"app": "x"}}, "rules": "all"})

    world.apply([Change(bad)])

    moment = world.moment()
    kept = moment.resources[ObjectRef.of(bad)]
    assert moment.faults[ObjectRef.of(bad)].reason == "Invalid"
    assert isinstance(kept, security.AuthorizationPolicy)
    assert kept.spec.selector == security.WorkloadSelector(match_labels={"app": "x"})


def test_policy_without_a_readable_selector_stands_for_its_whole_namespace() -> None:
    world = World()

    world.apply([Change(policy("nonsense")), Change(policy({"selector": 5}, name="b"))])

    kept = list(world.moment().resources.values())
    assert len(kept) == 2
    assert all(isinstance(r, security.AuthorizationPolicy) for r in kept)
    assert [r.spec.selector for r in kept if isinstance(r, security.AuthorizationPolicy)] == [
        None,
        None,
    ]


def test_mended_object_has_no_fault() -> None:
    world = World()
    world.apply([Change(policy({"colour": 1}))])

    assert world.apply([Change(policy({}))])
    assert world.moment().faults == {}


def test_secrets_without_a_certificate_and_other_config_maps_are_not_kept() -> None:
    world = World()

    noticed = world.apply(
        [
            Change(obj("Secret", data={"password": "eA=="})),
            Change(obj("ConfigMap", data={"x": "y"})),
            Change(obj("Deployment", "apps/v1", spec={})),
        ]
    )

    assert not noticed
    assert world.moment().resources == {}


def test_certificate_is_kept_and_leaves_with_its_secret() -> None:
    world, secret = World(), obj("Secret", data={"tls.crt": "eA==", "tls.key": "eQ=="})

    assert world.apply([Change(secret)])
    assert world.apply([Change(secret, "DELETED")])
    assert world.moment().resources == {}


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        ("apirule.local/ports", "not json"),
        ("apirule.local/ports", "null"),
        ("apirule.local/ports", '[{"port": "80", "app": "127.0.0.1:1"}]'),
        ("apirule.local/ports", '[{"port": 80, "app": "127.0.0.1:1", "sidecar": 70000}]'),
        ("apirule.local/ports", '[{"port": 80, "app": "somewhere"}]'),
        ("apirule.local/outbound", "x"),
    ],
)
def test_pod_with_broken_annotations_has_a_fault(annotation: str, text: str) -> None:
    world = World()
    meta = {"annotations": {annotation: text}}
    containers = [{"name": "app"}, {"name": "istio-proxy"}]
    broken = obj("Pod", metadata=meta, spec={"containers": containers})

    world.apply([Change(broken)])

    assert set(world.moment().faults) == {ObjectRef.of(broken)}


@pytest.mark.parametrize(
    "broken",
    [
        obj("EndpointSlice", "discovery.k8s.io/v1", ports=[{"name": "http", "port": -1}]),
        obj("EndpointSlice", "discovery.k8s.io/v1", endpoints=[{"addresses": ["a.example"]}]),
        obj("Service", spec={"ports": [{"port": 70000}]}),
        obj("Service", spec={"ports": [{"port": 80, "targetPort": 0}]}),
    ],
    ids=lambda o: str(o["kind"]),
)
def test_values_no_proxy_can_be_told_are_a_fault(broken: Object) -> None:
    world = World()

    world.apply([Change(broken)])

    assert set(world.moment().faults) == {ObjectRef.of(broken)}


def test_moment_does_not_change_with_the_world() -> None:
    world = World()
    world.apply([Change(rule([]), revision=7)])
    before = world.moment()

    world.apply([Change(rule([]), "DELETED", revision=8)])

    assert (before.revision, len(before.resources)) == (7, 1)
    assert (world.moment().revision, len(world.moment().resources)) == (8, 0)


def test_a_moment_knows_what_has_changed_since_another(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.apply([Change(rule([], name="kept")), Change(rule([], name="gone"))])
    before = world.moment()
    world.apply([Change(rule([], name="gone"), "DELETED"), Change(rule([], name="new"))])
    after = world.moment()
    monkeypatch.setattr(world_module, "_JOURNAL", 1)
    world.apply([Change(rule([], name="newest"))])
    last = world.moment()

    def names(one: Moment, other: Moment) -> list[str]:
        found = sorted(ref.name for ref in one.changed_since(other))
        assert found == sorted(r.metadata.name for r in one.differences(other))
        return found

    assert names(after, before) == names(before, after) == ["gone", "new"]
    assert names(last, before) == ["gone", "new", "newest"]
    assert names(last, after) == names(after, last) == ["newest"]
    assert names(after, after) == []
    assert names(before, NOTHING) == ["gone", "kept"]


def test_objects_whose_status_was_written_are_told_once() -> None:
    world = World()
    world.apply([Change(rule([])), Change(obj("Pod"))])

    assert [ref.name for ref in world.touched()] == ["a"]
    assert world.touched() == set()
    world.apply([Change(rule([], status={"observedGeneration": 1}))])
    assert [ref.name for ref in world.touched()] == ["a"]


def test_readiness_of_a_pod_is_noticed() -> None:
    world, containers = World(), [{"name": "istio-proxy"}]
    status = {"conditions": [{"type": "Ready", "status": "True"}]}
    world.apply([Change(obj("Pod", spec={"containers": containers}))])

    assert world.apply([Change(obj("Pod", spec={"containers": containers}, status=status))])
    assert {str(name) for name in world.moment().serving} == {"default/a"}
    assert not world.apply([Change(obj("Pod", spec={"containers": containers}, status=status))])


def test_a_secret_with_nothing_but_an_authority_is_kept_for_client_certificates() -> None:
    world = World()
    authority = obj("Secret", name="gateway-cacert", data={"ca.crt": "YQ=="})
    password = obj("Secret", name="other", data={"password": "YQ=="})

    world.apply([Change(authority), Change(password)])

    assert set(world.moment().resources) == {ObjectRef.of(authority)}


def test_an_unreadable_destination_rule_keeps_the_host_it_closes() -> None:
    world = World()
    spec = {"host": "shop", "subsets": "all"}
    bad = obj("DestinationRule", "networking.istio.io/v1", spec=spec)

    world.apply([Change(bad)])

    kept = world.moment().resources[ObjectRef.of(bad)]
    assert isinstance(kept, traffic.DestinationRule)
    assert kept.spec.host == "shop"
    assert world.moment().faults[ObjectRef.of(bad)].reason == "Invalid"


def test_an_unreadable_envoy_filter_keeps_the_selector_it_can_close() -> None:
    world = World()
    spec = {"workloadSelector": {"labels": {"app": "x"}}, "configPatches": "all"}
    bad = obj("EnvoyFilter", "networking.istio.io/v1alpha3", spec=spec)

    world.apply([Change(bad)])

    kept = world.moment().resources[ObjectRef.of(bad)]
    assert isinstance(kept, EnvoyFilter)
    assert kept.selector == {"app": "x"}
    assert world.moment().faults[ObjectRef.of(bad)].reason == "Invalid"


def test_the_mesh_configuration_is_followed_and_other_config_maps_are_not() -> None:
    world = World()
    where = {"namespace": "istio-system"}

    assert not world.apply([Change(obj("ConfigMap", data={"mesh": "a: 1"}))])
    assert world.apply([Change(obj("ConfigMap", name="istio", metadata=where, data={"mesh": ""}))])
    assert world.apply([Change(obj("ConfigMap", name="istio", metadata=where, data={}))])
    assert not world.apply([Change(obj("ConfigMap", name="istio", metadata=where, data={}))])
