"""The Istio resource: which one counts, and what it makes of the mesh configuration."""

from typing import Any

import yaml

from apirule.apis import scheme
from apirule.apis.meta import Object
from apirule.apis.operator import Authorizer, Istio
from apirule.translate.mesh_config import OURS, fill, leading, unknown_fields


def config_map(mesh: str, ours: str | None = None) -> Object:
    annotations = {"somebody": "else"} | ({OURS: ours} if ours is not None else {})
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "istio", "namespace": "istio-system", "annotations": annotations},
        "data": {"mesh": mesh, "meshNetworks": "networks: {}"},
    }


def authorizer(name: str = "gate", **fields: Any) -> Authorizer:
    return Authorizer(name=name, service="gate.auth", port=80, **fields)


def istio(name: str, namespace: str = "kyma-system", created: str = "2026-01-01") -> Istio:
    meta = {"name": name, "namespace": namespace, "creationTimestamp": created}
    return scheme.decode({"metadata": meta}, Istio)


def mesh_of(obj: Object | None) -> dict[str, Any]:
    assert obj is not None
    mesh: dict[str, Any] = yaml.safe_load(obj["data"]["mesh"])
    return mesh


def test_authorizers_join_what_is_there() -> None:
    there = config_map("accessLogFile: /dev/stdout\nextensionProviders: [{name: traces}]")

    filled = fill(there, [authorizer()])

    assert mesh_of(filled.config_map) == {
        "accessLogFile": "/dev/stdout",
        "extensionProviders": [
            {"name": "traces"},
            {"name": "gate", "envoyExtAuthzHttp": {"service": "gate.auth", "port": 80}},
        ],
    }
    assert filled.config_map is not None
    assert filled.config_map["data"]["meshNetworks"] == "networks: {}"
    assert filled.config_map["metadata"]["annotations"] == {
        "somebody": "else",
        OURS: '["gate"]',
    }


def test_every_field_of_an_authorizer_has_its_place() -> None:
    obj = {
        "metadata": {"name": "a"},
        "spec": {
            "config": {
                "authorizers": [
                    {
                        "name": "gate",
                        "service": "auth/gate",
                        "port": 80,
                        "pathPrefix": "/check",
                        "timeout": "2s",
                        "headers": {
                            "inCheck": {"include": ["a"], "add": {"b": "c"}},
                            "toUpstream": {"onAllow": ["d"]},
                            "toDownstream": {"onAllow": ["e"], "onDeny": ["f"]},
                        },
                    }
                ]
            }
        },
    }
    config = scheme.decode(obj, Istio).spec.config
    assert config is not None

    (entry,) = mesh_of(fill(None, config.authorizers).config_map)["extensionProviders"]

    assert entry["envoyExtAuthzHttp"] == {
        "service": "auth/gate",
        "port": 80,
        "pathPrefix": "/check",
        "timeout": "2s",
        "includeRequestHeadersInCheck": ["a"],
        "includeAdditionalHeadersInCheck": {"b": "c"},
        "headersToUpstreamOnAllow": ["d"],
        "headersToDownstreamOnAllow": ["e"],
        "headersToDownstreamOnDeny": ["f"],
    }
    assert list(unknown_fields(obj)) == []


def test_only_our_own_entries_are_taken_away() -> None:
    there = config_map("extensionProviders: [{name: gate}, {name: theirs}]", '["gate"]')

    assert mesh_of(fill(there, []).config_map)["extensionProviders"] == [{"name": "theirs"}]


def test_nothing_is_written_when_nothing_differs() -> None:
    written = fill(config_map("extensionProviders: []"), [authorizer()]).config_map

    assert fill(written, [authorizer()]).config_map is None
    assert fill(config_map("extensionProviders: [{name: a}]"), []).config_map is None


def test_a_name_of_somebody_else_or_twice_keeps_everything_as_it_is() -> None:
    there = config_map("extensionProviders: [{name: theirs}]")

    filled = fill(there, [authorizer("theirs"), authorizer("a"), authorizer("a")])

    assert filled.config_map is None
    assert [str(problem.field) for problem in filled.problems] == [
        "spec.config.authorizers[0].name",
        "spec.config.authorizers[2].name",
    ]


def test_a_configuration_that_is_not_understood_is_not_overwritten() -> None:
    for mesh in ("extensionProviders: [", "- a", "extensionProviders: {a: b}"):
        filled = fill(config_map(mesh), [authorizer()])

        assert filled.config_map is None
        assert filled.problems


def test_an_annotation_that_makes_no_sense_claims_nothing() -> None:
    there = config_map("extensionProviders: [{name: theirs}]", "nonsense")

    assert mesh_of(fill(there, [authorizer()]).config_map)["extensionProviders"][0] == {
        "name": "theirs"
    }


def test_the_oldest_resource_of_the_namespace_counts() -> None:
    ones = [istio("b", created="2026-01-02"), istio("a"), istio("x", "default", "2020-01-01")]

    assert leading(ones) == ones[1]
    assert leading(ones[2:]) is None


def test_a_field_that_has_no_effect_is_named() -> None:
    obj = {"metadata": {}, "spec": {"config": {"numTrustedProxies": 2}, "components": {}}}

    assert [str(problem.field) for problem in unknown_fields(obj)] == [
        "spec.config.numTrustedProxies",
        "spec.components",
    ]
