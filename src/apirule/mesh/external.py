"""The filters that ask external authorizers: a slot for each of the few a workload may have.

An authorizer takes two filters: shadow rules that mark the requests its CUSTOM policies speak of,
and ext_authz, which asks about the marked ones. Both are one extension, for they must change
together, and policies must not touch a listener: its old connections would go on without them. So
every listener has ``SLOTS`` of these extensions, and those that are not needed let everything pass.

Several authorizers cannot share one: of a chain inside an extension Envoy forgets what comes after
a filter that had to wait for its answer. What stands before it is met in any case: the rules that
refuse what an authorizer should be asked about that cannot be asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from zlib import crc32

from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.rbac.v3.rbac_pb2 import RBAC, Policy
from envoy.extensions.common.matching.v3.extension_matcher_pb2 import ExtensionWithMatcher
from envoy.extensions.filters.http.composite.v3.composite_pb2 import (
    Composite,
    ExecuteFilterAction,
    FilterChainConfiguration,
)
from envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import ExtAuthz
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC as RBACFilter  # noqa: N811 - a name
from envoy.type.matcher.v3.metadata_pb2 import MetadataMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.matcher.v3.value_pb2 import ValueMatcher
from google.protobuf.message import Message
from xds.core.v3.extension_pb2 import TypedExtensionConfig as MatchAction
from xds.type.matcher.v3.matcher_pb2 import Matcher

from apirule.apis.security import AuthorizationPolicy
from apirule.mesh import authorizers, rbac
from apirule.mesh.authorizers import Authorizer, Unusable, of_policy, provider_name
from apirule.mesh.challenge import RBAC_FILTER
from apirule.mesh.config import MeshSettings
from apirule.mesh.memo import Memo
from apirule.mesh.packing import pack
from apirule.mesh.snapshot import Snapshot
from apirule.problem import SPEC, Problem, Reason

SLOTS = 4
TYPES: tuple[type[Message], ...] = (RBACFilter, ExtensionWithMatcher)
"""What the extension of a slot may be: rules alone, or a chain that ends with a question."""


def slots(
    policies: Iterable[AuthorizationPolicy], before: Mapping[str, int] | None = None
) -> Mapping[str, int]:
    """Return the slot of each authorizer that has one, usable or not.

    An authorizer stays where it was ``before`` when others come and go: on its way from one slot
    to another it might not be asked for a moment. A new one goes where its name says, or to the
    next free slot.
    """
    names = dict.fromkeys(map(provider_name, policies))
    taken = {name: slot for name, slot in (before or {}).items() if name in names}
    for name in names:
        if name in taken:
            continue
        free = (slot for slot in _preferred(name) if slot not in taken.values())
        slot = next(free, None)
        if slot is not None:
            taken[name] = slot
    return taken


def problem(
    snapshot: Snapshot, policy: AuthorizationPolicy, taken: Mapping[str, int]
) -> Problem | None:
    """Return what keeps the authorizer of a policy from being asked; ``taken``: from ``slots``."""
    if provider_name(policy) in taken:
        return authorizers.problem(snapshot, policy)
    return Problem(
        SPEC / "provider" / "name",
        Reason.NOT_IMPLEMENTED,
        f"A workload has at most {SLOTS} authorizers. What the policy speaks of is refused.",
        f"Use one of {', '.join(sorted(taken))}.",
    )


def build(
    snapshot: Snapshot,
    policies: Sequence[AuthorizationPolicy],
    taken: Mapping[str, int],
    port: int,
    memo: Memo,
) -> Sequence[RBACFilter | ExtensionWithMatcher]:
    """Build the extension of each slot for the CUSTOM policies of a workload."""
    refused: list[dict[str, Policy]] = [{} for _ in range(SLOTS)]
    asked: list[dict[str, Policy]] = [{} for _ in range(SLOTS)]
    whom: list[Authorizer | None] = [None] * SLOTS
    for policy in policies:
        name = provider_name(policy)
        slot = taken.get(name)
        rules = _rules(policy, snapshot.settings, port, memo)
        try:
            authorizer = of_policy(snapshot, policy) if slot is not None else None
        except Unusable:
            authorizer = None
        if slot is None or authorizer is None:
            refused[_preferred(name)[0] if slot is None else slot] |= rules
        else:
            asked[slot] |= rules
            whom[slot] = authorizer
    return [_slot(*contents) for contents in zip(refused, asked, whom, strict=True)]


def authorizers_of(
    snapshot: Snapshot, policies: Sequence[AuthorizationPolicy], taken: Mapping[str, int]
) -> Iterator[Authorizer]:
    """Yield whom the CUSTOM policies of a workload ask."""
    for policy in {provider_name(policy): policy for policy in policies}.values():
        if provider_name(policy) in taken:
            with suppress(Unusable):
                yield of_policy(snapshot, policy)


def _preferred(name: str) -> list[int]:
    first = crc32(name.encode()) % SLOTS
    return [(first + step) % SLOTS for step in range(SLOTS)]


def _slot(
    refused: dict[str, Policy], asked: dict[str, Policy], authorizer: Authorizer | None
) -> RBACFilter | ExtensionWithMatcher:
    denial = RBACFilter(rules=RBAC(action=RBAC.DENY, policies=refused) if refused else None)
    if authorizer is None:
        return denial
    return _in_one(
        [
            *([_filter("refuse", denial)] if refused else []),
            _filter("mark", _marking(authorizer.name, asked)),
            _filter("ask", _asking(authorizer)),
        ]
    )


def _rules(
    policy: AuthorizationPolicy, settings: MeshSettings, port: int, memo: Memo
) -> dict[str, Policy]:
    # None without rules, as in Istio: such a policy speaks of no request.
    key = ("rules", settings, port)
    return memo.of(policy, key, partial(rbac.policies, policy, settings, port))


def _marking(name: str, rules: dict[str, Policy]) -> RBACFilter:
    return RBACFilter(
        shadow_rules=RBAC(action=RBAC.DENY, policies=rules),
        shadow_rules_stat_prefix=_mark(name),
    )


def _asking(authorizer: Authorizer) -> ExtAuthz:
    config = ExtAuthz()
    config.CopyFrom(authorizer.config)
    key = MetadataMatcher.PathSegment(key=f"{_mark(authorizer.name)}shadow_effective_policy_id")
    rules = StringMatcher(prefix=f"istio-ext-authz-{authorizer.name}-")
    config.filter_enabled_metadata.CopyFrom(
        MetadataMatcher(filter=RBAC_FILTER, path=[key], value=ValueMatcher(string_match=rules))
    )
    return config


def _mark(name: str) -> str:
    # Of each authorizer its own: one mark for all would be overwritten by the next one.
    return f"istio_ext_authz_{name}_"


def _in_one(chain: Sequence[TypedExtensionConfig]) -> ExtensionWithMatcher:
    action = ExecuteFilterAction(filter_chain=FilterChainConfiguration(typed_config=chain))
    # Without anything to match, what stands for "no match" is done for every request.
    always = Matcher.OnMatch(action=MatchAction(name="ask", typed_config=pack(action)))
    return ExtensionWithMatcher(
        extension_config=_filter("authorizers", Composite()),
        xds_matcher=Matcher(on_no_match=always),
    )


def _filter(name: str, config: Message) -> TypedExtensionConfig:
    return TypedExtensionConfig(name=name, typed_config=pack(config))
