"""The CRDs we bring along: valid, in step with the typed resources, with the limits of APIRule."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping, Set
from typing import Any

import msgspec
import pytest

from apirule import schema
from apirule.apis import networking, operator, scheme, security, traffic
from apirule.apis.envoy_filter import EnvoyFilter
from apirule.apis.gateway import v1alpha1, v2
from apirule.apis.meta import GroupVersionKind, Object, Resource, Wire
from apirule.schema import KindInfo

CRDS = schema.bundled_crds()
KINDS = {kind.gvk: kind for crd in CRDS for kind in schema.from_crd(crd)}
TYPED: tuple[type[Resource], ...] = (
    v2.APIRule,
    networking.VirtualService,
    networking.Gateway,
    traffic.DestinationRule,
    traffic.ServiceEntry,
    security.RequestAuthentication,
    security.AuthorizationPolicy,
    security.PeerAuthentication,
    EnvoyFilter,
    v1alpha1.RateLimit,
    operator.APIGateway,
    operator.Istio,
)
V2 = KINDS[v2.APIRule.gvk]


def rule(**changes: Any) -> Object:
    """An APIRule with one rule; changes replace fields of its spec."""
    spec = {
        "hosts": ["orders.example.com"],
        "gateway": "kyma-system/kyma-gateway",
        "service": {"name": "orders", "port": 8080},
        "rules": [{"path": "/*", "methods": ["GET"], "noAuth": True}],
    }
    return {
        "apiVersion": "gateway.kyma-project.io/v2",
        "kind": "APIRule",
        "metadata": {"name": "orders", "namespace": "shop"},
        "spec": {**spec, **changes},
    }


def problems_of(**changes: Any) -> list[str]:
    return [str(problem) for problem in schema.admit(rule(**changes), V2).problems]


def with_rule(**changes: Any) -> dict[str, Any]:
    return {"rules": [{"path": "/*", "methods": ["GET"], "noAuth": True, **changes}]}


@pytest.mark.parametrize("crd", CRDS, ids=lambda crd: str(crd["metadata"]["name"]))
def test_a_bundled_crd_is_valid_itself(crd: Object) -> None:
    definition = next(k for k in schema.builtin_kinds() if k.kind == "CustomResourceDefinition")

    admission = schema.admit(crd, definition)

    assert admission.problems == []
    assert admission.unknown_fields == []
    assert schema.check_crd(crd) == []


@pytest.mark.parametrize("typed", TYPED, ids=lambda typed: typed.__name__)
def test_a_crd_and_its_typed_resource_have_the_same_fields(typed: type[Resource]) -> None:
    openapi = KINDS[typed.gvk].schema.openapi

    differences = list(_differences(typed, openapi, "", skip={"metadata", "apiVersion", "kind"}))

    assert differences == []


def _differences(
    shape: Any, openapi: Mapping[str, Any], at: str, *, skip: Set[str] = frozenset()
) -> Iterator[str]:
    origin, arguments = typing.get_origin(shape), typing.get_args(shape)
    if origin in (types.UnionType, typing.Union):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        yield from _differences(inner, openapi, at)
    elif origin is tuple:
        yield from _typed_as("array", openapi, at)
        yield from _differences(arguments[0], openapi.get("items", {}), f"{at}[]")
    elif origin is dict and arguments[1] is Any:
        yield from _typed_as("object", openapi, at)
    elif origin is dict:
        yield from _typed_as("object", openapi, at)
        yield from _differences(arguments[1], openapi.get("additionalProperties", {}), f"{at}{{}}")
    elif isinstance(shape, type) and issubclass(shape, Wire):
        yield from _typed_as("object", openapi, at)
        yield from _struct_differences(shape, openapi, at, skip)
    elif "x-kubernetes-int-or-string" not in openapi:
        yield from _typed_as(
            {str: "string", bool: "boolean", int: "integer", float: "number"}[shape], openapi, at
        )


def _typed_as(name: str, openapi: Mapping[str, Any], at: str) -> Iterator[str]:
    if openapi.get("type") != name:
        yield f"{at} is {openapi.get('type')} in the CRD, {name} in the type"


def _struct_differences(
    shape: type[Wire], openapi: Mapping[str, Any], at: str, skip: Set[str]
) -> Iterator[str]:
    hints = typing.get_type_hints(shape)
    fields = {f.encode_name: f for f in msgspec.structs.fields(shape) if f.name != "metadata"}
    listed = {n: s for n, s in openapi.get("properties", {}).items() if n not in skip}
    if set(fields) != set(listed):
        yield f"{at}: only in one of the two: {sorted(set(fields) ^ set(listed))}"
    for name, field in fields.items():
        if name in listed:
            yield from _differences(hints[field.name], listed[name], f"{at}.{name}")
        if field.required and name not in openapi.get("required", ()):
            yield f"{at}.{name} is required in the type only"


def test_every_field_is_explained() -> None:
    missing = [
        f"{kind.kind}{at}"
        for kind in KINDS.values()
        for at in _unexplained(kind.schema.openapi["properties"]["spec"], ".spec")
    ]

    assert missing == []


def _unexplained(openapi: Mapping[str, Any], at: str) -> Iterator[str]:
    if not openapi.get("description"):
        yield at
    for name, child in openapi.get("properties", {}).items():
        yield from _unexplained(child, f"{at}.{name}")
    for child in (openapi.get("items"), openapi.get("additionalProperties")):
        for name, grandchild in (child or {}).get("properties", {}).items():
            yield from _unexplained(grandchild, f"{at}.{name}")


def test_api_rule_is_served_as_v2_and_v2alpha1_and_stored_as_v2() -> None:
    kinds = [kind for kind in KINDS.values() if kind.kind == "APIRule"]

    assert [(k.version, k.served, k.storage) for k in kinds] == [
        ("v2", True, True),
        ("v2alpha1", True, False),
    ]
    assert V2.categories == ("kyma-api-gateway",)
    assert V2.subresources == {"status"}
    assert [column["jsonPath"] for column in V2.printer_columns] == [".status.state", ".spec.hosts"]


def test_only_v2_insists_on_a_spec() -> None:
    obj = {"apiVersion": "x", "kind": "APIRule", "metadata": {"name": "a"}}
    alpha = KINDS[GroupVersionKind(v2.GROUP, "v2alpha1", "APIRule")]

    assert [str(problem) for problem in schema.admit(obj, V2).problems][:1] == [
        "spec: Required value"
    ]
    assert schema.admit(obj, alpha).problems == []


def test_the_short_names_are_those_of_istio() -> None:
    assert {kind.kind: kind.short_names for kind in KINDS.values() if kind.short_names} == {
        "VirtualService": ("vs",),
        "Gateway": ("gw",),
        "DestinationRule": ("dr",),
        "ServiceEntry": ("se",),
        "RequestAuthentication": ("ra",),
        "AuthorizationPolicy": ("ap",),
        "PeerAuthentication": ("pa",),
    }


@pytest.mark.parametrize(
    "host", ["a", "1", "a.bc", "10.0.0.12", "a" * 63, "*.local.kyma.dev", "orders.kyma.localhost"]
)
def test_a_host_is_accepted(host: str) -> None:
    assert problems_of(hosts=[host]) == []


@pytest.mark.parametrize(
    "host",
    [
        *["a.b", "1.2.3.4", "x.y.c-d", "a-.com", "*", "*.local", "api.*.com", "Foo", "foo_bar"],
        *["a" * 64, "a.bc\n", "", "a..bc"],
    ],
)
def test_a_host_is_refused_with_the_message_of_the_crd(host: str) -> None:
    (problem,) = schema.admit(rule(hosts=[host]), V2).problems

    assert str(problem.field) == "spec.hosts[0]"
    assert problem.message.endswith(
        ": Host must be a lowercase RFC 1123 label (must consist of lowercase alphanumeric "
        "characters or '-', and must start and end with an lowercase alphanumeric character), "
        "a fully qualified domain name, or a wildcard domain name (e.g. *.local.kyma.dev)"
    )


@pytest.mark.parametrize("field", ["gateway", "externalGateway"])
@pytest.mark.parametrize(
    "name", ["kyma-gateway", "gw.ns.svc.cluster.local", "a/b.c", "A/b", "a/b/c", f"a/{'b' * 64}"]
)
def test_a_gateway_is_namespace_and_name(field: str, name: str) -> None:
    label = field[0].upper() + field[1:]

    assert problems_of(**{field: name}) == [
        f'spec.{field}: Invalid value: "{name}": {label} must be in the namespace/name format'
    ]
    assert problems_of(**{field: "a/b"}) == []


@pytest.mark.parametrize(
    "path",
    [
        *["/", "//", "/a", "/a/", "/a//b", "/a/{*}", "/a/{*}/b", "/{**}", "/a/{**}/b", "/*"],
        *["/a.b", "/a%20b", "/a(b)"],
    ],
)
def test_a_path_is_accepted(path: str) -> None:
    assert problems_of(**with_rule(path=path)) == []


@pytest.mark.parametrize(
    "path",
    [
        *["", "a", "/a*", "/a/*", "/{x}", "/a{*}", "/{*}b", "/{*}{*}", "/a b", "/a%2", "/a?x"],
        *["/a#x", "/a|b", "/ü", "/a\n"],
    ],
)
def test_a_path_is_refused(path: str) -> None:
    assert len(problems_of(**with_rule(path=path))) == 1


@pytest.mark.parametrize(
    ("access", "is_valid"),
    [
        ({}, False),
        ({"noAuth": False}, False),
        ({"noAuth": True}, True),
        ({"jwt": {}}, True),
        ({"jwt": {}, "noAuth": False}, True),
        ({"jwt": {}, "noAuth": True}, False),
        ({"extAuth": {"authorizers": ["a"]}}, True),
        ({"extAuth": {"authorizers": ["a"]}, "jwt": {}}, False),
    ],
)
def test_a_rule_has_exactly_one_access(access: dict[str, Any], is_valid: bool) -> None:
    rules = [{"path": "/*", "methods": ["GET"], **access}]
    message = (
        "spec.rules[0]: Invalid value: "
        "One of the following fields must be set: noAuth, jwt, extAuth"
    )

    assert problems_of(rules=rules) == ([] if is_valid else [message])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"hosts": []}, "spec.hosts"),
        ({"hosts": ["a", "b"]}, "spec.hosts"),
        ({"hosts": [f"{'a' * 63}.{'b' * 63}.{'c' * 63}.{'d' * 61}.com"]}, "spec.hosts[0]"),
        ({"gateway": f"{'a' * 63}/{'b' * 64}"}, "spec.gateway"),
        ({"service": {"name": "a", "port": 0}}, "spec.service.port"),
        ({"service": {"name": "a", "port": 65536}}, "spec.service.port"),
        ({"service": {"port": 1}}, "spec.service.name"),
        ({"service": {"name": "a", "port": 1, "namespace": "Shop"}}, "spec.service.namespace"),
        ({"corsPolicy": {"maxAge": 0}}, "spec.corsPolicy.maxAge"),
        ({"corsPolicy": {"maxAge": "10s"}}, "spec.corsPolicy.maxAge"),
        ({"rules": []}, "spec.rules"),
        (with_rule(methods=["get"]), "spec.rules[0].methods[0]"),
        (with_rule(methods=[]), "spec.rules[0].methods"),
        (with_rule(timeout=3901), "spec.rules[0].timeout"),
        ({"timeout": 0}, "spec.timeout"),
        (with_rule(request={"headers": {"x": 1}}), "spec.rules[0].request.headers.x"),
        (
            {"rules": [{"path": "/*", "methods": ["GET"], "extAuth": {"authorizers": []}}]},
            "spec.rules[0].extAuth.authorizers",
        ),
        (
            {
                "rules": [
                    {"path": "/", "methods": ["GET"], "jwt": {"authentications": [{"issuer": "a"}]}}
                ]
            },
            "spec.rules[0].jwt.authentications[0].jwksUri",
        ),
    ],
)
def test_a_limit_of_an_api_rule(changes: dict[str, Any], field: str) -> None:
    assert str(schema.admit(rule(**changes), V2).problems[0].field) == field


def test_the_tutorials_spelling_of_from_params_is_no_unknown_field() -> None:
    authentication = {"issuer": "a", "jwksUri": "b", "fromParameters": ["access_token"]}
    rules = [
        {"path": "/*", "methods": ["GET"], "jwt": {"authentications": [authentication]}},
    ]

    admission = schema.admit(rule(rules=rules), V2)

    assert (admission.problems, admission.unknown_fields) == ([], [])


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: str(kind.gvk))
def test_a_field_we_do_not_know_is_kept_in_the_kinds_of_others(kind: KindInfo) -> None:
    obj = {"metadata": {"name": "a"}, "spec": {"unheardOf": {"x": 1}}}

    pruned, _ = kind.schema.prune(obj)

    ours = kind.group == v2.GROUP or kind.kind == operator.APIGateway.gvk.kind
    assert ("unheardOf" in pruned["spec"]) != ours


def test_deeper_unknown_fields_are_kept_and_found_by_the_scheme() -> None:
    http = {"match": [{"uri": {"prefix": "/"}, "statPrefix": "a"}], "delegate": {}}
    obj: Object = {"metadata": {"name": "a"}, "spec": {"hosts": ["a"], "http": [http]}}
    kind = KINDS[GroupVersionKind(networking.GROUP, "v1", "VirtualService")]

    admission = schema.admit(obj, kind)
    found = scheme.unknown_fields(admission.object, networking.VirtualService)

    assert admission.unknown_fields == []
    assert {str(path) for path in found} == {
        "spec.http[0].delegate",
        "spec.http[0].match[0].statPrefix",
    }


def test_equal_schemas_are_compiled_once() -> None:
    first, second = (schema.from_crd(crd)[0] for crd in [schema.bundled_crds()[0]] * 2)

    assert first.schema is second.schema


BUCKET = {"maxTokens": 1, "tokensPerFill": 1, "fillInterval": "1s"}


@pytest.mark.parametrize(
    ("conditions", "is_valid"),
    [
        ({"path": "/a"}, True),
        ({"headers": {"x": "y"}}, True),
        ({"path": "/a", "headers": {}}, True),
        ({}, False),
        ({"path": ""}, False),
        ({"headers": {}}, False),
    ],
)
def test_a_bucket_counts_requests_of_a_path_or_with_headers(
    conditions: Object, is_valid: bool
) -> None:
    buckets = [{"bucket": BUCKET, **conditions}]
    limit = {
        "apiVersion": v1alpha1.RateLimit.gvk.api_version,
        "kind": "RateLimit",
        "metadata": {"name": "a"},
        "spec": {
            "selectorLabels": {"app": "a"},
            "local": {"defaultBucket": BUCKET, "buckets": buckets},
        },
    }

    found = schema.admit(limit, KINDS[v1alpha1.RateLimit.gvk]).problems

    message = (
        "spec.local.buckets[0]: Invalid value: At least one of 'path' or 'headers' must be set"
    )
    assert [str(problem) for problem in found] == ([] if is_valid else [message])
