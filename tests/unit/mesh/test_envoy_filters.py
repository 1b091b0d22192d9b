"""EnvoyFilters: what is taken over, what is refused, and that what is refused closes."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.local_ratelimit.v3.local_rate_limit_pb2 import LocalRateLimit
from tests.unit.mesh.policies_given import WEB

from apirule.apis import scheme
from apirule.apis.envoy_filter import EnvoyFilter
from apirule.mesh import security
from apirule.mesh.envoy_filters import compile_filter, patches_for
from apirule.mesh.filters import ORDER, PLACES, Place, Stage
from apirule.mesh.memo import Memo
from apirule.mesh.policies import policies_for
from apirule.mesh.proxy import Role
from apirule.mesh.snapshot import Snapshot

TYPE = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
WRAP = "type.googleapis.com"
BUCKET = {"max_tokens": 10, "tokens_per_fill": 5, "fill_interval": "1s"}
LIMIT: dict[str, Any] = {"@type": TYPE, "stat_prefix": "x", "token_bucket": BUCKET}


def filter_patch(config: Any = LIMIT, *, beside: str = "", **patch: Any) -> dict[str, Any]:
    listener = {"filterChain": {"filter": {"subFilter": {"name": beside}}}}
    return {
        "applyTo": "HTTP_FILTER",
        "match": {"context": "SIDECAR_INBOUND", **({"listener": listener} if beside else {})},
        "patch": {
            "operation": "INSERT_FIRST" if not beside else "INSERT_BEFORE",
            "value": {"name": "limit", "typed_config": config},
            **patch,
        },
    }


def route_patch(**value: Any) -> dict[str, Any]:
    return {
        "applyTo": "HTTP_ROUTE",
        "match": {"context": "SIDECAR_INBOUND"},
        "patch": {"operation": "MERGE", "value": value},
    }


def envoy_filter(*patches: dict[str, Any], name: str = "ef", **metadata: Any) -> EnvoyFilter:
    priority = metadata.pop("priority", 0)
    meta = {"name": name, "namespace": "shop", **metadata}
    spec = {"configPatches": list(patches), "priority": priority}
    return scheme.decode({"metadata": meta, "spec": spec}, EnvoyFilter)


def problems_of(*patches: dict[str, Any]) -> list[str]:
    return [f"{p.reason} {p}" for p in compile_filter(envoy_filter(*patches)).problems]


def limit(**changes: Any) -> dict[str, Any]:
    return {**deepcopy(LIMIT), **changes}


def described(**changes: Any) -> dict[str, Any]:
    """A limit with one descriptor."""
    descriptor = {"entries": [{"key": "a", "value": "b"}], "token_bucket": BUCKET, **changes}
    return limit(descriptors=[descriptor])


def acting(action: Any) -> dict[str, Any]:
    return limit(rate_limits=[{"actions": [action]}])


def matching(matcher: Any) -> dict[str, Any]:
    return acting({"header_value_match": {"descriptor_value": "v", "headers": [matcher]}})


def test_the_order_has_a_place_for_every_filter() -> None:
    assert set(ORDER) == {*Stage, *Place}
    assert {slot.place for slot in PLACES.values()} == set(Place)
    assert ORDER[:2] == (Stage.FORM, Place.FIRST)
    assert ORDER[-2:] == (Place.LAST, Stage.ROUTER)


@pytest.mark.parametrize(
    "config",
    [
        limit(),
        {
            "@type": f"{WRAP}/udpa.type.v1.TypedStruct",
            "type_url": TYPE,
            "value": {"stat_prefix": "x"},
        },
        {"@type": f"{WRAP}/xds.type.v3.TypedStruct", "typeUrl": TYPE, "value": {"statPrefix": "x"}},
        described(),
        limit(status={"code": "ServiceUnavailable"}),
        acting({"remote_address": {}}),
        acting({"generic_key": {"descriptor_value": "v"}}),
        acting({"request_headers": {"header_name": ":path", "descriptor_key": "p"}}),
        matching({"name": ":path", "string_match": {"safe_regex": {"regex": "/a(\\?.*)?"}}}),
        matching({"name": "x-a", "present_match": True}),
        limit(response_headers_to_add=[{"header": {"key": "x-a", "value": "100%%"}}]),
    ],
)
def test_a_local_rate_limit_is_taken_over(config: dict[str, Any]) -> None:
    compiled = compile_filter(envoy_filter(filter_patch(config)))

    assert compiled.problems == ()
    assert compiled.insertions[0].filter.typed_config.type_url == TYPE


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (None, "FieldValueInvalid {c}: It is not an object with an @type."),
        ({}, 'NotImplemented {c}.@type: The type "" is not implemented here.'),
        ({"@type": "x/lua"}, 'NotImplemented {c}.@type: The type "x/lua" is not implemented here.'),
        (
            {"@type": "type.googleapis.com/udpa.type.v1.TypedStruct", "type_url": "x/rbac"},
            'NotImplemented {c}.type_url: The type "x/rbac" is not implemented here.',
        ),
        (limit(stage=1), "NotImplemented {c}.stage: This field is not implemented here."),
        (
            acting({"dynamic_metadata": {"descriptor_key": "a", "metadata_key": {"key": "b"}}}),
            (
                "NotImplemented {c}.rate_limits[0].actions[0].dynamic_metadata: This field is not"
                " implemented here."
            ),
        ),
        (limit(stat_prefix=""), "FieldValueInvalid {c}.stat_prefix: It is missing."),
        (
            limit(status={"code": "OK"}),
            "FieldValueInvalid {c}.status: 200 is not the status of an error.",
        ),
        (
            limit(filter_enabled={"runtime_key": "a"}),
            "FieldValueInvalid {c}.filter_enabled.default_value: It is missing.",
        ),
        (
            limit(token_bucket={**BUCKET, "max_tokens": 0}),
            "FieldValueInvalid {c}.token_bucket.max_tokens: It must be at least 1.",
        ),
        (
            limit(token_bucket={**BUCKET, "tokens_per_fill": 0}),
            "FieldValueInvalid {c}.token_bucket.tokens_per_fill: It must be at least 1.",
        ),
        (
            limit(token_bucket={**BUCKET, "fill_interval": "0.049s"}),
            "FieldValueInvalid {c}.token_bucket.fill_interval: It must be at least 50ms.",
        ),
        (
            described(token_bucket={**BUCKET, "fill_interval": "1.5s"}),
            (
                "FieldValueInvalid {c}.descriptors[0].token_bucket.fill_interval: It must be a"
                " multiple of that of the main token bucket."
            ),
        ),
        (
            described(entries=[]),
            "FieldValueInvalid {c}.descriptors[0].entries: It is missing.",
        ),
        (
            described(entries=[{"key": "a"}]),
            "FieldValueInvalid {c}.descriptors[0].entries[0]: It must have a key and a value.",
        ),
        (
            limit(descriptors=described()["descriptors"] * 2),
            (
                "FieldValueInvalid {c}.descriptors[1].entries: Another descriptor has the same"
                " entries."
            ),
        ),
        (
            acting({"request_headers": {"header_name": "a b", "descriptor_key": "p"}}),
            (
                "FieldValueInvalid {c}.rate_limits[0].actions[0].request_headers.header_name: It is"
                " not an HTTP header name."
            ),
        ),
        (acting({}), "FieldValueInvalid {c}.rate_limits[0].actions[0]: It says nothing."),
        (
            matching({"name": "x-a", "string_match": {"safe_regex": {"regex": "("}}}),
            (
                "FieldValueInvalid {c}.rate_limits[0].actions[0].header_value_match.headers[0]"
                ".string_match.safe_regex: Missing ): (."
            ),
        ),
        (
            limit(response_headers_to_add=[{"header": {"key": "host", "value": "a"}}]),
            (
                "FieldValueInvalid {c}.response_headers_to_add[0].header.key: Envoy does not let a"
                " route change it."
            ),
        ),
        (
            limit(response_headers_to_add=[{"header": {"key": "x-a", "value": "%REQ(b)%"}}]),
            (
                "FieldValueInvalid {c}.response_headers_to_add[0].header.value: Command operators"
                " are not implemented; write %% for %."
            ),
        ),
    ],
)
def test_what_envoy_would_refuse_or_is_not_known_is_refused(config: Any, problem: str) -> None:
    place = "spec.configPatches[0].patch.value.typed_config"

    assert problems_of(filter_patch(config)) == [problem.replace("{c}", place)]


def test_a_value_of_another_type_is_refused() -> None:
    [problem] = problems_of(filter_patch(limit(token_bucket="many")))

    assert "It cannot be read as LocalRateLimit" in problem


@pytest.mark.parametrize(
    ("patch", "problem"),
    [
        ({"applyTo": "CLUSTER"}, 'applyTo: The target "CLUSTER" is not implemented here.'),
        ({"match": {}}, 'match.context: The context "ANY" is not implemented here.'),
        (
            {"match": {"context": "SIDECAR_OUTBOUND"}},
            'match.context: The context "SIDECAR_OUTBOUND" is not implemented here.',
        ),
        (
            {"patch": {"operation": "REMOVE"}},
            'patch.operation: The operation for an HTTP_FILTER "REMOVE" is not implemented here.',
        ),
        (
            filter_patch(beside="envoy.filters.http.router", operation="INSERT_AFTER"),
            (
                "match.listener.filterChain.filter.subFilter.name: The place"
                ' "INSERT_AFTER envoy.filters.http.router" is not implemented here.'
            ),
        ),
        (
            filter_patch(value={"typed_config": LIMIT}),
            "patch.value.name: A filter needs a name.",
        ),
        (
            filter_patch(value={"name": "a", "typed_config": LIMIT, "disabled": True}),
            "patch.value.disabled: This field is not implemented here.",
        ),
        (route_patch(match={}), "patch.value.match: This field is not implemented here."),
        (
            route_patch(route={"cluster": "a"}),
            "patch.value.route.cluster: This field is not implemented here.",
        ),
        (
            route_patch(route={"rate_limits": {}}),
            "patch.value.route.rate_limits: It is not a list.",
        ),
        (
            route_patch(typed_per_filter_config={"a": {"@type": "x/rbac"}}),
            (
                'patch.value.typed_per_filter_config.a.@type: The type "x/rbac" is not implemented'
                " here."
            ),
        ),
    ],
)
def test_a_patch_that_belongs_nowhere_known_is_refused(patch: dict[str, Any], problem: str) -> None:
    [found] = problems_of({**filter_patch(), **patch})

    assert found.partition(" ")[2] == f"spec.configPatches[0].{problem}"


def test_priority_comes_before_age_and_the_root_namespace_before_the_own_one() -> None:
    made = [
        envoy_filter(
            filter_patch(limit(stat_prefix=name), beside="envoy.filters.http.router"),
            name=name,
            namespace=namespace,
            priority=priority,
            creationTimestamp=f"2026-01-0{day}T00:00:00Z",
        )
        for name, namespace, priority, day in (
            ("late", "istio-system", 1, 1),
            ("own", "shop", 0, 1),
            ("root", "istio-system", 0, 2),
        )
    ]

    patches = patches_for(Snapshot.of(made), WEB, Memo())

    assert [ref.name for ref in patches.sources] == ["root", "own", "late"]
    prefixes = [
        LocalRateLimit.FromString(f.typed_config.value).stat_prefix
        for f in patches.filters[Place.LAST]
    ]
    assert prefixes == ["root", "own", "late"]


def test_a_refused_one_closes_the_workloads_it_speaks_of_and_no_others() -> None:
    bad = envoy_filter({"applyTo": "CLUSTER", "match": {"context": "SIDECAR_INBOUND"}})
    of_gateways = envoy_filter({"applyTo": "CLUSTER", "match": {"context": "GATEWAY"}}, name="gw")
    snapshot = Snapshot.of([bad, of_gateways])

    policies = policies_for(snapshot, WEB)
    deny = security.extensions(snapshot, WEB)["shop/web/80/deny"]

    assert policies.closed == (bad.ref,)
    assert set(policies.problems) == {bad.ref}
    assert b"closed[EnvoyFilter]" in deny.typed_config.value
    assert security.sources(snapshot, WEB)["shop/web/80/deny"] == {bad.ref}


def test_one_that_an_envoy_refused_or_nobody_could_read_closes_too() -> None:
    sound, unreadable = envoy_filter(filter_patch()), envoy_filter(name="stub")
    rejected = {sound.ref: "no", unreadable.ref: "It cannot be read."}

    patches = patches_for(Snapshot.of([sound, unreadable], rejected=rejected), WEB, Memo())

    assert patches.filters == {}
    assert set(patches.problems) == {sound.ref, unreadable.ref}


def test_one_without_patches_does_nothing() -> None:
    patches = patches_for(Snapshot.of([envoy_filter()]), WEB, Memo())

    assert (patches.filters, patches.routes, patches.problems) == ({}, (), {})


def test_rate_limits_are_merged_only_into_routes_that_forward() -> None:
    merge = route_patch(
        route={"rate_limits": [{"actions": [{"remote_address": {}}]}]},
        typed_per_filter_config={"limit": LIMIT},
    )
    forwards = route_components_pb2.Route(route=route_components_pb2.RouteAction(cluster="a"))
    answers = route_components_pb2.Route(
        direct_response=route_components_pb2.DirectResponseAction(status=200)
    )
    host = route_components_pb2.VirtualHost(name="h", routes=[forwards, answers])
    table = route_pb2.RouteConfiguration(name="t", virtual_hosts=[host])
    patches = patches_for(Snapshot.of([envoy_filter(merge)]), WEB, Memo())

    patched = patches.on_routes(table).virtual_hosts[0].routes

    assert [route.WhichOneof("action") for route in patched] == ["route", "direct_response"]
    assert len(patched[0].route.rate_limits) == 1
    assert all("limit" in route.typed_per_filter_config for route in patched)
    assert not table.virtual_hosts[0].routes[0].typed_per_filter_config
    assert {merge.role for merge in compile_filter(envoy_filter(merge)).merges} == {Role.SIDECAR}
