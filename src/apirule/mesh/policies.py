"""Which policies hold for a proxy, and which of them close it.

The policies of the root namespace come first, then those of the workload's namespace, each in
creation order; a selector must be a subset of the Pod's labels. A policy that an Envoy has refused,
or that cannot be expressed, closes every workload it selects: left out, an ALLOW policy that is the
only one would leave the workload open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from functools import partial
from typing import TypeVar

import msgspec

from apirule import ownership
from apirule.apis.meta import ObjectRef
from apirule.apis.security import (
    DRY_RUN,
    AuthorizationPolicy,
    PeerAuthentication,
    RequestAuthentication,
    WorkloadSelector,
)
from apirule.mesh import envoy_filters, external, jwt_authn, rbac
from apirule.mesh.config import MeshSettings
from apirule.mesh.memo import Memo
from apirule.mesh.proxy import Proxy
from apirule.mesh.snapshot import Snapshot, selects
from apirule.problem import ROOT, SPEC, FieldPath, Problem, Reason, errors

AnyPolicy = RequestAuthentication | AuthorizationPolicy | PeerAuthentication
P = TypeVar("P", RequestAuthentication, AuthorizationPolicy, PeerAuthentication)


class MTLSMode(StrEnum):
    DISABLE = "DISABLE"
    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"


UNSET = "UNSET"
_MODES: Mapping[str, MTLSMode] = {mode.value: mode for mode in MTLSMode}


class Policies(msgspec.Struct, frozen=True):
    """What one workload enforces. ``closed`` is not empty: nothing passes, whatever else holds."""

    authentications: tuple[RequestAuthentication, ...]
    allow: tuple[AuthorizationPolicy, ...]
    deny: tuple[AuthorizationPolicy, ...]
    audit: tuple[AuthorizationPolicy, ...]
    dry_run: tuple[AuthorizationPolicy, ...]
    """ALLOW and DENY policies that are only tried."""
    custom: tuple[AuthorizationPolicy, ...]
    slots: Mapping[str, int]
    """Where each external authorizer is asked."""
    closed: tuple[ObjectRef, ...]
    problems: Mapping[ObjectRef, tuple[Problem, ...]]


def policies_for(snapshot: Snapshot, proxy: Proxy, memo: Memo | None = None) -> Policies:
    """Return what a proxy enforces; ``memo`` remembers what was found wrong with each policy."""
    known = memo or Memo()
    return snapshot.memo(("policies", proxy.name), lambda: _policies_for(snapshot, proxy, known))


def _policies_for(snapshot: Snapshot, proxy: Proxy, memo: Memo) -> Policies:
    found: dict[ObjectRef, list[Problem]] = {}
    closed: list[ObjectRef] = []
    sound: list[AnyPolicy] = []
    for policy in _selected(snapshot, proxy):
        wrong = list(_known_problems(policy, snapshot.settings, memo))
        refused = snapshot.rejected.get(policy.ref) if snapshot.rejected else None
        if refused is not None:
            wrong.append(_rejected(refused))
        if wrong:
            found[policy.ref] = wrong
        if errors(wrong):
            closed.append(policy.ref)
        else:
            sound.append(policy)
    for ref, refused_for in envoy_filters.patches_for(snapshot, proxy, memo).problems.items():
        found[ref] = list(refused_for)
        closed.append(ref)
    authentications = tuple(p for p in sound if isinstance(p, RequestAuthentication))
    for authentication, notice in jwt_authn.notices(authentications, snapshot.key_sets):
        found.setdefault(authentication.ref, []).append(notice)
    authorizations = [p for p in sound if isinstance(p, AuthorizationPolicy)]
    enforced = [policy for policy in authorizations if not is_dry_run(policy)]
    custom = tuple(policy for policy in enforced if policy.spec.action == "CUSTOM")
    taken = memo.going_on(("slots", proxy.name), partial(external.slots, custom))
    for policy in custom:
        # What it speaks of is refused then, and nothing else: the workload is not closed.
        unusable = external.problem(snapshot, policy, taken)
        if unusable is not None:
            found.setdefault(policy.ref, []).append(unusable)
    return Policies(
        authentications=authentications,
        allow=tuple(policy for policy in enforced if policy.spec.action == "ALLOW"),
        deny=tuple(policy for policy in enforced if policy.spec.action == "DENY"),
        audit=tuple(policy for policy in enforced if policy.spec.action == "AUDIT"),
        dry_run=tuple(policy for policy in authorizations if is_dry_run(policy)),
        custom=custom,
        slots=taken,
        closed=tuple(closed),
        problems={ref: tuple(wrong) for ref, wrong in found.items()},
    )


def problems_of(policy: AnyPolicy, settings: MeshSettings) -> list[Problem]:
    """Return what is wrong with a policy by itself, whatever it selects."""
    match policy:
        case RequestAuthentication():
            return jwt_authn.problems(policy)
        case AuthorizationPolicy():
            return [*rbac.problems(policy, settings), *_dry_run_problems(policy)]
        case PeerAuthentication():
            return list(_mode_problems(policy))


def _known_problems(policy: AnyPolicy, settings: MeshSettings, memo: Memo) -> tuple[Problem, ...]:
    return memo.of(policy, ("problems", settings), lambda: tuple(problems_of(policy, settings)))


def is_dry_run(policy: AuthorizationPolicy) -> bool:
    """Whether a policy is only tried. What was made from an APIRule is enforced in any case."""
    asked = policy.annotations.get(DRY_RUN, "").lower() == "true"
    return asked and ownership.owner_of(policy.labels) is None


def mtls_mode(snapshot: Snapshot, proxy: Proxy, port: int) -> MTLSMode:
    """Return how a port of a workload is called: port, workload, namespace, mesh, else PERMISSIVE.

    ``port`` is the workload's. In each scope the oldest PeerAuthentication counts; UNSET inherits.
    A mode we do not know is STRICT, and closes the workload besides.
    """
    root = snapshot.settings.root_namespace
    scopes: dict[str, PeerAuthentication] = {}
    for policy in _peer_authentications(snapshot, proxy):
        namespace = policy.metadata.namespace
        wide = "mesh" if namespace == root else "namespace"
        scopes.setdefault("workload" if _labels(policy.spec.selector) else wide, policy)
    for mode in _modes(scopes, port):
        if mode != UNSET:
            return _MODES.get(mode, MTLSMode.STRICT)
    return MTLSMode.PERMISSIVE


def _modes(scopes: Mapping[str, PeerAuthentication], port: int) -> Iterator[str]:
    workload = scopes.get("workload")
    if workload is not None:
        of_port = (workload.spec.port_level_mtls or {}).get(str(port))
        if of_port is not None:
            yield of_port.mode
    for scope in ("workload", "namespace", "mesh"):
        policy = scopes.get(scope)
        if policy is not None and policy.spec.mtls is not None:
            yield policy.spec.mtls.mode


def _peer_authentications(snapshot: Snapshot, proxy: Proxy) -> list[PeerAuthentication]:
    selected = _of(snapshot.peer_authentications, snapshot, proxy)
    # Unlike the other policies, those of the workload's own namespace come first within a scope.
    return sorted(selected, key=lambda policy: policy.metadata.namespace != proxy.name.namespace)


def _selected(snapshot: Snapshot, proxy: Proxy) -> Iterator[AnyPolicy]:
    yield from _of(snapshot.request_authentications, snapshot, proxy)
    yield from _of(snapshot.authorization_policies, snapshot, proxy)
    yield from _of(snapshot.peer_authentications, snapshot, proxy)


def _of(policies: Callable[[str], tuple[P, ...]], snapshot: Snapshot, proxy: Proxy) -> Iterator[P]:
    # A gateway may stand in the root namespace itself.
    for namespace in dict.fromkeys((snapshot.settings.root_namespace, proxy.name.namespace)):
        for policy in policies(namespace):
            if selects(_labels(policy.spec.selector), proxy.labels):
                yield policy


def _labels(selector: WorkloadSelector | None) -> Mapping[str, str]:
    return (selector.match_labels if selector else None) or {}


def _mode_problems(policy: PeerAuthentication) -> Iterator[Problem]:
    spec = policy.spec
    modes: list[tuple[FieldPath, str]] = []
    if spec.mtls is not None:
        modes.append((SPEC / "mtls" / "mode", spec.mtls.mode))
    for port, mtls in (spec.port_level_mtls or {}).items():
        place = SPEC / "portLevelMtls" / port
        modes.append((place / "mode", mtls.mode))
        if not port.isdecimal():
            yield _invalid(place, f"{port!r} is not a port.")
    if spec.port_level_mtls and not _labels(spec.selector):
        text = "Modes for single ports need a selector."
        yield _invalid(SPEC / "portLevelMtls", text)
    for place, mode in modes:
        if mode not in _MODES and mode != UNSET:
            yield _invalid(
                place, f"The mode {mode!r} is not one of {UNSET}, {', '.join(MTLSMode)}."
            )


def _dry_run_problems(policy: AuthorizationPolicy) -> Iterator[Problem]:
    if is_dry_run(policy) and policy.spec.action not in ("ALLOW", "DENY"):
        place = FieldPath("metadata", "annotations", DRY_RUN)
        yield _invalid(place, f"The action {policy.spec.action} cannot be tried only.")


def _rejected(why: str) -> Problem:
    return Problem(
        field=ROOT,
        reason=Reason.REJECTED,
        message=f"Envoy refused the policy: {why}",
        fix="Correct the policy; until then nothing passes.",
    )


def _invalid(place: FieldPath, message: str) -> Problem:
    fix = "Correct the value; until then nothing passes."
    return Problem(field=place, reason=Reason.INVALID, message=message, fix=fix)
