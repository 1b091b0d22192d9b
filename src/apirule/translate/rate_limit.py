"""RateLimit to EnvoyFilter: one filter that counts, before all others.

The bucket stands in the filter, not on the routes: so it counts all requests of a Pod together, and
a change of a route does not fill it again. Each bucket has a ``rate_limits`` entry of its own, so
that it does not depend on what other buckets ask for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import msgspec

from apirule.apis import core
from apirule.apis.envoy_filter import (
    ConfigPatch,
    EnvoyFilter,
    EnvoyFilterSpec,
    FilterChainMatch,
    FilterMatch,
    ListenerMatch,
    Patch,
    PatchMatch,
    WorkloadSelector,
)
from apirule.apis.gateway.v1alpha1 import Bucket, BucketConfig, RateLimit, RateLimitStatus
from apirule.apis.meta import ObjectMeta, OwnerReference
from apirule.apis.operator import APIGateway
from apirule.problem import Problem
from apirule.schema.formats import parse_duration
from apirule.translate.status import Enforcement, State, Verdict
from apirule.validate import rate_limit

_TYPE = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
_HCM = "envoy.filters.network.http_connection_manager"
_FILTER = "envoy.filters.http.local_ratelimit"
_OF_THE_REQUEST = frozenset({"method", "scheme"})
"""Names of headers that stand for what HTTP/2 writes with a colon."""


class Outcome(msgspec.Struct, frozen=True):
    """``resource`` is None when the RateLimit has errors: what exists must then stay as it is."""

    resource: EnvoyFilter | None
    problems: tuple[Problem, ...]


def translate(limit: RateLimit, pods: Iterable[core.Pod], others: Iterable[RateLimit]) -> Outcome:
    """``pods`` and ``others`` are those of the namespace."""
    known = tuple(pods)
    problems = tuple(rate_limit.check(limit, known, others))
    if problems:
        return Outcome(None, problems)
    # They are all of one kind, or there would be a problem.
    pod = next(rate_limit.selected_pods(limit, known))
    context = "GATEWAY" if rate_limit.is_gateway(pod) else "SIDECAR_INBOUND"
    return Outcome(_envoy_filter(limit, context), ())


def awaited_gateway(gateway: APIGateway | None) -> RateLimitStatus | None:
    """Return what to say while there is no APIGateway that is Ready; None if there is one."""
    if gateway is None:
        return RateLimitStatus(
            state=State.WARNING,
            description="failed to reconcile RateLimit CR because of missing APIGateway CR in the"
            " cluster",
        )
    if gateway.status.state == State.READY:
        return None
    return RateLimitStatus(
        state=State.WARNING,
        description="failed to create RateLimit CR because APIGateway CR is in"
        f" {gateway.status.state or State.PROCESSING} state",
    )


def missing_dependency(crd: str) -> RateLimitStatus:
    return RateLimitStatus(
        state=State.ERROR,
        description=f"dependency missing '{crd}': the cluster does not serve this kind",
    )


def failed(message: str) -> RateLimitStatus:
    return RateLimitStatus(state=State.ERROR, description=message)


def status_of(outcome: Outcome, enforced: Enforcement) -> RateLimitStatus:
    """``enforced`` is what the engine says of the EnvoyFilter."""
    if outcome.problems:
        texts = "; ".join(problem.message for problem in outcome.problems)
        return failed(f"failed to validate RateLimit: {texts}")
    if enforced.refusals:
        return failed("; ".join(f"{one.kind} {one.message}" for one in enforced.refusals))
    if enforced.verdict is Verdict.FALSE:
        text = f"Waiting for the proxies: {enforced.message}"
        return RateLimitStatus(state=State.PROCESSING, description=text)
    return RateLimitStatus(state=State.READY, description="Finished reconciliation")


def _envoy_filter(limit: RateLimit, context: str) -> EnvoyFilter:
    meta = limit.metadata
    owner = OwnerReference(
        api_version=limit.gvk.api_version,
        kind=limit.gvk.kind,
        name=meta.name,
        uid=meta.uid,
        controller=True,
        block_owner_deletion=True,
    )
    hcm = ListenerMatch(filter_chain=FilterChainMatch(filter=FilterMatch(name=_HCM)))
    return EnvoyFilter(
        metadata=ObjectMeta(name=meta.name, namespace=meta.namespace, owner_references=(owner,)),
        spec=EnvoyFilterSpec(
            workload_selector=WorkloadSelector(labels=dict(limit.spec.selector_labels)),
            config_patches=(
                ConfigPatch(
                    apply_to="HTTP_FILTER",
                    match=PatchMatch(context=context, listener=hcm),
                    patch=Patch(operation="INSERT_BEFORE", value=_filter(limit)),
                ),
            ),
        ),
    )


def _filter(limit: RateLimit) -> dict[str, Any]:
    spec = limit.spec
    value = {
        "stat_prefix": "rate_limit",
        "enable_x_ratelimit_headers": "DRAFT_VERSION_03" if spec.enable_response_headers else "OFF",
        "filter_enabled": _share("local_rate_limit_enabled", 100),
        "filter_enforced": _share("local_rate_limit_enforced", 100 if spec.enforce else 0),
        "always_consume_default_token_bucket": False,
        "token_bucket": _bucket(spec.local.default_bucket),
        "descriptors": [_descriptor(config) for config in spec.local.buckets],
        "rate_limits": [_rate_limit(config) for config in spec.local.buckets],
    }
    return {
        "name": _FILTER,
        "typed_config": {
            # In this wrapping any Istio passes it on, whatever types it was built with.
            "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
            "type_url": _TYPE,
            "value": value,
        },
    }


def _share(key: str, percent: int) -> dict[str, Any]:
    return {
        "runtime_key": key,
        "default_value": {"numerator": percent, "denominator": "HUNDRED"},
    }


def _bucket(bucket: Bucket) -> dict[str, Any]:
    return {
        "max_tokens": bucket.max_tokens,
        "tokens_per_fill": bucket.tokens_per_fill,
        "fill_interval": _seconds(parse_duration(bucket.fill_interval)),
    }


def _seconds(interval: timedelta) -> str:
    """Write a duration as protobuf does in JSON."""
    micros = interval // timedelta(microseconds=1)
    text = f"{micros // 1_000_000}.{micros % 1_000_000:06}"
    return text.rstrip("0").rstrip(".") + "s"


def _descriptor(config: BucketConfig) -> dict[str, Any]:
    return {
        "entries": [{"key": key, "value": value} for key, value in rate_limit.conditions(config)],
        "token_bucket": _bucket(config.bucket),
    }


def _rate_limit(config: BucketConfig) -> dict[str, Any]:
    """Return what gives a request exactly the entries of a bucket, in their order, or nothing."""
    conditions = rate_limit.conditions(config)
    return {
        "actions": [
            {
                "header_value_match": {
                    "descriptor_key": key,
                    "descriptor_value": value,
                    "headers": [_matcher(key, value)],
                }
            }
            for key, value in conditions
        ]
    }


def _matcher(key: str, value: str) -> dict[str, Any]:
    if key == "path":
        # What Envoy calls the path has the query at its end.
        regex = f"{re.escape(value)}(\\?.*)?"
        return {"name": ":path", "string_match": {"safe_regex": {"regex": regex}}}
    name = f":{key}" if key in _OF_THE_REQUEST else key
    return {"name": name, "string_match": {"exact": value}}
