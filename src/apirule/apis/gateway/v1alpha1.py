"""RateLimit v1alpha1: how many requests a workload takes in a time."""

from __future__ import annotations

from typing import ClassVar

from apirule.apis.gateway.v2 import GROUP
from apirule.apis.meta import GroupVersionKind, Resource, Wire


class Bucket(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Each request takes a token; without one it is refused."""

    max_tokens: int
    tokens_per_fill: int
    fill_interval: str
    """A Go duration such as ``30s``."""


class BucketConfig(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A bucket for the requests that have this path and all of these headers."""

    path: str = ""
    headers: dict[str, str] | None = None
    bucket: Bucket


class LocalConfig(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    default_bucket: Bucket
    buckets: tuple[BucketConfig, ...] = ()


class RateLimitSpec(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    selector_labels: dict[str, str]
    local: LocalConfig
    enable_response_headers: bool = False
    enforce: bool = True


class RateLimitStatus(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    state: str = ""
    description: str = ""


class RateLimit(Resource, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    gvk: ClassVar = GroupVersionKind(GROUP, "v1alpha1", "RateLimit")
    spec: RateLimitSpec
    status: RateLimitStatus = RateLimitStatus()
