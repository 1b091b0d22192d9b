"""Errors of a RateLimit: its buckets by themselves, and the Pods it selects.

The checks have the order and the words of the Kyma operator; those at the end of each part are
ours, and find what Envoy would refuse or could never match.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from datetime import timedelta

from apirule.apis import core
from apirule.apis.gateway.v1alpha1 import Bucket, BucketConfig, RateLimit
from apirule.problem import SPEC, FieldPath, Problem, Reason
from apirule.schema.formats import parse_duration
from apirule.validate.workloads import SIDECAR, has_sidecar

GATEWAY_LABELS = {"istio": "ingressgateway"}
SHORTEST_FILL = timedelta(milliseconds=50)
_MOST_TOKENS = 2**32 - 1
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_LOCAL = SPEC / "local"
_DEFAULT = _LOCAL / "defaultBucket"


def check(
    limit: RateLimit, pods: Iterable[core.Pod], others: Iterable[RateLimit]
) -> Iterator[Problem]:
    """Yield every error. ``pods`` and ``others`` are those of the namespace; itself is left out."""
    selected = list(selected_pods(limit, pods))
    yield from _check_intervals(limit)
    yield from _check_buckets(limit)
    at = SPEC / "selectorLabels"
    if not selected:
        yield Problem(
            at,
            Reason.NOT_FOUND,
            f"no pods found with the given selectors: {_as_go_map(limit.spec.selector_labels)}"
            f" in namespace {limit.metadata.namespace}",
            "Give labels that Pods of this namespace have.",
        )
        return
    names = sorted(o.metadata.name for o in others if _shares(limit, o, selected))
    if names:
        yield Problem(
            at,
            Reason.CONFLICT,
            f"conflicting with the following RateLimit CRs: {', '.join(names)}",
            "Let only one of them select a Pod.",
        )
    gateways = [pod for pod in selected if is_gateway(pod)]
    bare = [pod for pod in selected if not has_sidecar(pod) and pod not in gateways]
    if bare:
        yield Problem(
            at,
            Reason.SIDECAR_MISSING,
            "sidecar injection is not enabled for the following pods: "
            + ", ".join(str(pod.object_name) for pod in bare),
            "Label the namespace with istio-injection=enabled, and restart the Pods.",
        )
    elif gateways and len(gateways) < len(selected):
        yield Problem(
            at,
            Reason.CONFLICT,
            "some of the selected pods are gateways and some are not: "
            + ", ".join(str(pod.object_name) for pod in gateways),
            "Make a RateLimit for the gateways and another one for the workloads.",
        )


def selected_pods(limit: RateLimit, pods: Iterable[core.Pod]) -> Iterator[core.Pod]:
    wanted = limit.spec.selector_labels.items()
    return (pod for pod in pods if wanted <= pod.labels.items())


def is_gateway(pod: core.Pod) -> bool:
    """Whether a Pod is a gateway: it has the label of one, or nothing behind its proxy."""
    if GATEWAY_LABELS.items() <= pod.labels.items():
        return True
    containers = (*pod.spec.init_containers, *pod.spec.containers)
    return [container.name for container in containers] == [SIDECAR]


def _shares(limit: RateLimit, other: RateLimit, selected: Iterable[core.Pod]) -> bool:
    return other.object_name != limit.object_name and any(
        True for _ in selected_pods(other, selected)
    )


def _check_intervals(limit: RateLimit) -> Iterator[Problem]:
    default = yield from _check_interval("defaultBucket", limit.spec.local.default_bucket, _DEFAULT)
    for index, config in enumerate(limit.spec.local.buckets):
        at, name = _LOCAL / "buckets" / index / "bucket", f"bucket '[{index}]'"
        interval = yield from _check_interval(name, config.bucket, at)
        if default and interval and interval % default:
            yield Problem(
                at / "fillInterval",
                Reason.INVALID,
                f"{name}: fillInterval must be a multiple of defaultBucket fillInterval",
                "Envoy fills all buckets in the time of the default one, or in multiples of it.",
            )


def _check_interval(
    name: str, bucket: Bucket, at: FieldPath
) -> Generator[Problem, None, timedelta | None]:
    """Return the interval, None for one that cannot be used."""
    try:
        interval = parse_duration(bucket.fill_interval)
    except ValueError as error:
        yield Problem(
            at / "fillInterval", Reason.INVALID, f"{name}: {error}", "Write it as 30s or 1m30s."
        )
        return None
    if interval >= SHORTEST_FILL:
        return interval
    yield Problem(
        at / "fillInterval",
        Reason.INVALID,
        f"{name}: fillInterval must be greater or equal 50ms",
        "Envoy fills buckets no faster.",
    )
    return None


def _check_buckets(limit: RateLimit) -> Iterator[Problem]:
    local = limit.spec.local
    yield from _check_tokens("defaultBucket", local.default_bucket, _DEFAULT)
    seen: dict[object, int] = {}
    for index, config in enumerate(local.buckets):
        at, name = _LOCAL / "buckets" / index, f"bucket '[{index}]'"
        yield from _check_tokens(name, config.bucket, at / "bucket")
        yield from _check_conditions(name, config, at)
        first = seen.setdefault(conditions(config), index)
        if first != index:
            yield Problem(
                at,
                Reason.DUPLICATE,
                f"{name}: it counts the same requests as bucket '[{first}]'",
                "Leave one of them out.",
            )


def conditions(config: BucketConfig) -> tuple[tuple[str, str], ...]:
    """Return what a request must have to be counted: the path first, then headers by name."""
    headers = sorted((name.lower(), value) for name, value in (config.headers or {}).items())
    return (*((("path", config.path),) if config.path else ()), *headers)


def _check_tokens(name: str, bucket: Bucket, at: FieldPath) -> Iterator[Problem]:
    for field, value in (
        ("maxTokens", bucket.max_tokens),
        ("tokensPerFill", bucket.tokens_per_fill),
    ):
        if not 1 <= value <= _MOST_TOKENS:
            yield Problem(
                at / field,
                Reason.INVALID,
                f"{name}: {field} must be between 1 and {_MOST_TOKENS}",
                "To let nothing through, take the APIRule away.",
            )


def _check_conditions(name: str, config: BucketConfig, at: FieldPath) -> Iterator[Problem]:
    path = config.path
    if path and (not path.startswith("/") or "?" in path):
        yield Problem(
            at / "path",
            Reason.INVALID,
            f"{name}: path {path!r} must begin with / and have no query",
            "Write the path as the request has it, for example /orders.",
        )
    names = [header.lower() for header in config.headers or {}]
    for header, value in (config.headers or {}).items():
        if not _HEADER_NAME.fullmatch(header) or header.lower() == "path" or not value:
            yield Problem(
                at / "headers" / header,
                Reason.INVALID,
                f"{name}: {header!r} must be the name of a header and have a value",
                "Write what a request has; for its path there is the field path.",
            )
        elif names.count(header.lower()) > 1:
            yield Problem(
                at / "headers" / header,
                Reason.DUPLICATE,
                f"{name}: the header {header!r} is given twice",
                "The case of a header's name means nothing.",
            )


def _as_go_map(labels: Mapping[str, str]) -> str:
    return "map[" + " ".join(f"{key}:{labels[key]}" for key in sorted(labels)) + "]"
