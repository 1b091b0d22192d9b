"""Rate limits in a real Envoy: what RateLimits become, and EnvoyFilters as others write them."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import pytest
import yaml
from envoy.extensions.filters.http.local_ratelimit.v3.local_rate_limit_pb2 import LocalRateLimit
from ports import free_ports
from tests.shells.mesh_run import (
    Answer,
    Authority,
    connect,
    echo_app,
    mesh_secrets,
    request,
    running,
)

from apirule.apis import core, scheme
from apirule.apis.envoy_filter import EnvoyFilter
from apirule.apis.gateway.v1alpha1 import RateLimit
from apirule.apis.meta import ObjectMeta
from apirule.apis.security import AuthorizationPolicy
from apirule.mesh.build import build
from apirule.mesh.snapshot import Snapshot
from apirule.names import ObjectName
from apirule.translate import rate_limit

pytestmark = pytest.mark.envoy

POD = """
metadata:
  name: shop-1
  namespace: shop
  labels: {app: shop}
  annotations: {apirule.local/ports: '[{"port": 80, "app": "127.0.0.1:%s", "sidecar": %s}]'}
spec: {containers: [{name: shop}, {name: istio-proxy}]}
"""
TYPE = f"type.googleapis.com/{LocalRateLimit.DESCRIPTOR.full_name}"
LONG = "fillInterval: 600s, tokensPerFill: 1"
"""So long that no bucket is filled again during a test."""


@dataclass
class Workload:
    port: int
    admin: Path

    def get(self, target: str, *, method: str = "GET", **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return request(connect(self.port), target, host="shop", method=method, headers=named)

    def statuses(self, target: str, times: int, **headers: str) -> list[int]:
        return [self.get(target, **headers).status for _ in range(times)]

    def stats(self) -> dict[str, int]:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.admin))
        text = request(connection, "/stats?filter=http_local_rate_limit", host="admin").body
        pairs = (line.split(": ") for line in text.splitlines())
        return {name.rpartition(".")[2]: int(value) for name, value in pairs}


def limit(spec: str) -> RateLimit:
    metadata = {"name": "shop", "namespace": "shop", "uid": "1"}
    body = {"selectorLabels": {"app": "shop"}, **yaml.safe_load(spec)}
    return scheme.decode({"metadata": metadata, "spec": body}, RateLimit)


def envoy_filter(patches: str) -> EnvoyFilter:
    metadata = {"name": "shop", "namespace": "shop"}
    spec = {
        "configPatches": yaml.safe_load(patches.replace("type_url: LIMIT", f"type_url: {TYPE}"))
    }
    return scheme.decode({"metadata": metadata, "spec": spec}, EnvoyFilter)


@contextmanager
def serving(limiting: RateLimit | EnvoyFilter, *more: AuthorizationPolicy) -> Iterator[Workload]:
    folder = Path(mkdtemp(prefix="ap", dir="/tmp"))
    app, port = free_ports(2)
    pod = scheme.decode(yaml.safe_load(POD % (app, port)), core.Pod)
    if isinstance(limiting, RateLimit):
        outcome = rate_limit.translate(limiting, [pod], [limiting])
        assert outcome.resource is not None, outcome.problems
        limiting = outcome.resource
    snapshot = Snapshot.of([pod, limiting, *more])
    proxy = snapshot.proxy(ObjectName("shop", "shop-1"))
    assert proxy is not None
    config = build(snapshot, proxy)
    assert config.problems == {}
    secrets: dict[str, Any] = mesh_secrets(Authority(), proxy.spiffe_id)
    try:
        with echo_app("shop", app), running(folder / "envoy", proxy, config, secrets):
            yield Workload(port, folder / "envoy" / "admin")
    finally:
        rmtree(folder)


def test_what_is_too_much_is_refused_in_envoys_words() -> None:
    spec = f"local: {{defaultBucket: {{maxTokens: 2, {LONG}}}}}"

    with serving(limit(spec)) as shop:
        answers = [shop.get("/") for _ in range(3)]

    assert [answer.status for answer in answers] == [200, 200, 429]
    assert answers[2].body == "local_rate_limited"
    assert not any("x-ratelimit-limit" in answer.headers for answer in answers)


def test_headers_tell_what_is_left_if_they_are_asked_for() -> None:
    spec = f"{{enableResponseHeaders: true, local: {{defaultBucket: {{maxTokens: 2, {LONG}}}}}}}"

    with serving(limit(spec)) as shop:
        headers = [shop.get("/").headers for _ in range(3)]

    assert [one["x-ratelimit-remaining"] for one in headers] == ["1", "0", "0"]
    assert {one["x-ratelimit-limit"] for one in headers} == {"2"}
    assert all("x-ratelimit-reset" in one for one in headers)


def test_each_bucket_counts_its_own_requests_and_the_default_one_the_rest() -> None:
    spec = f"""
local:
  defaultBucket: {{maxTokens: 4, {LONG}}}
  buckets:
    - {{path: /ip, bucket: {{maxTokens: 1, {LONG}}}}}
    - {{headers: {{x-tenant: blue}}, bucket: {{maxTokens: 2, {LONG}}}}}
    - {{path: /get, headers: {{x-b: "2", x-a: "1", method: GET}}, bucket: {{maxTokens: 1, {LONG}}}}}
"""

    with serving(limit(spec)) as shop:
        by_path = [shop.get(path).status for path in ("/ip?x=1", "/ip", "//ip?y")]
        by_header = shop.statuses("/other", 3, x_tenant="blue")
        by_both = shop.statuses("/get", 2, x_a="1", x_b="2")
        rest = [
            shop.get("/get", x_a="1").status,
            shop.get("/other", x_tenant="red").status,
            shop.get("/ip/more").status,
            *shop.statuses("/", 2),
        ]

    assert by_path == [200, 429, 429]
    assert by_header == [200, 200, 429]
    assert by_both == [200, 429]
    assert rest == [200, 200, 200, 200, 429]


def test_a_request_that_fits_two_buckets_needs_a_token_of_each() -> None:
    spec = f"""
local:
  defaultBucket: {{maxTokens: 1, {LONG}}}
  buckets:
    - {{path: /ip, bucket: {{maxTokens: 3, {LONG}}}}}
    - {{headers: {{x-tenant: blue}}, bucket: {{maxTokens: 1, {LONG}}}}}
"""

    with serving(limit(spec)) as shop:
        both = shop.statuses("/ip", 2, x_tenant="blue")
        path_only = shop.get("/ip").status

    assert both == [200, 429]
    assert path_only == 200


def test_a_limit_that_is_not_enforced_only_counts() -> None:
    spec = f"{{enforce: false, local: {{defaultBucket: {{maxTokens: 1, {LONG}}}}}}}"

    with serving(limit(spec)) as shop:
        statuses = shop.statuses("/", 3)
        stats = shop.stats()

    assert statuses == [200, 200, 200]
    assert (stats["ok"], stats["rate_limited"], stats["enforced"]) == (1, 2, 0)


def test_a_request_that_policies_refuse_takes_a_token_too() -> None:
    spec = f"local: {{defaultBucket: {{maxTokens: 1, {LONG}}}}}"
    nobody = AuthorizationPolicy(metadata=ObjectMeta(name="nobody", namespace="shop"))

    with serving(limit(spec), nobody) as shop:
        statuses = shop.statuses("/", 2)

    assert statuses == [403, 429]


TWO_PATCHES = """
- applyTo: HTTP_FILTER
  match:
    context: SIDECAR_INBOUND
    listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}
  patch:
    operation: INSERT_BEFORE
    value:
      name: envoy.filters.http.local_ratelimit
      typed_config:
        "@type": type.googleapis.com/udpa.type.v1.TypedStruct
        type_url: LIMIT
        value: {stat_prefix: http_local_rate_limiter}
- applyTo: HTTP_ROUTE
  match: {context: SIDECAR_INBOUND}
  patch:
    operation: MERGE
    value:
      route:
        rate_limits:
          - actions: [{request_headers: {header_name: ":path", descriptor_key: ":path"}}]
      typed_per_filter_config:
        envoy.filters.http.local_ratelimit:
          "@type": type.googleapis.com/udpa.type.v1.TypedStruct
          type_url: LIMIT
          value:
            stat_prefix: rate_limit
            filter_enabled: &all
              runtime_key: local_rate_limit_enabled
              default_value: {numerator: 100, denominator: HUNDRED}
            filter_enforced: *all
            always_consume_default_token_bucket: false
            token_bucket: {max_tokens: 2, tokens_per_fill: 1, fill_interval: 600.000000s}
            descriptors:
              - entries: [{key: ":path", value: /ip}]
                token_bucket: {max_tokens: 1, tokens_per_fill: 1, fill_interval: 600.000000s}
"""


def test_a_filter_whose_settings_are_merged_into_the_routes_limits_as_well() -> None:
    with serving(envoy_filter(TWO_PATCHES)) as shop:
        by_path = shop.statuses("/ip", 2)
        rest = shop.statuses("/", 3)

    assert by_path == [200, 429]
    assert rest == [200, 200, 429]


AFTER_POLICIES = """
- applyTo: HTTP_FILTER
  match:
    context: SIDECAR_INBOUND
    listener:
      filterChain:
        filter:
          name: envoy.filters.network.http_connection_manager
          subFilter: {name: envoy.filters.http.router}
  patch:
    operation: INSERT_BEFORE
    value:
      name: late
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
        stat_prefix: late
        status: {code: ServiceUnavailable}
        token_bucket: {max_tokens: 1, fill_interval: 600s}
        filter_enabled: &all {default_value: {numerator: 100}}
        filter_enforced: *all
        response_headers_to_add: [{header: {key: x-limited, value: 100%% sure}}]
"""


def test_a_filter_before_the_router_does_not_count_what_policies_refuse() -> None:
    policy = AuthorizationPolicy(metadata=ObjectMeta(name="nobody", namespace="shop"))

    with serving(envoy_filter(AFTER_POLICIES), policy) as closed:
        refused = closed.statuses("/", 3)
    with serving(envoy_filter(AFTER_POLICIES)) as shop:
        answers = [shop.get("/") for _ in range(2)]

    assert refused == [403, 403, 403]
    assert [answer.status for answer in answers] == [200, 503]
    assert answers[1].headers["x-limited"] == "100% sure"
