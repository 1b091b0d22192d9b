"""What a snapshot takes over from the one before, and what is built again after a change."""

from collections.abc import Iterable

import pytest
from tests.unit.mesh.objects import GATEWAY_POD, decode, endpoints, pod, virtual_service

from apirule.apis.meta import ObjectRef, Resource
from apirule.apis.networking import VirtualService
from apirule.keysets import KeySet
from apirule.mesh.build import build
from apirule.mesh.config import ProxyConfig, TypeUrl
from apirule.mesh.memo import Memo
from apirule.mesh.snapshot import Snapshot

POLICY = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: policy, namespace: web}
spec: {rules: [{to: [{operation: {paths: ["%s"]}}]}]}
"""
MODE = """
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: mode, namespace: web}
spec: {mtls: {mode: STRICT}}
"""
POD = decode(pod("a", sidecar=3) + endpoints("a", 3))
KEYS = {("https://issuer", "https://issuer/keys"): KeySet("https://issuer", "https://issuer/keys")}


def built(snapshot: Snapshot, memo: Memo) -> list[ProxyConfig]:
    return [build(snapshot, proxy, memo) for proxy in snapshot.proxies()]


def serialized(configs: Iterable[ProxyConfig]) -> list[tuple[str, bytes]]:
    return [
        (name, message.SerializeToString(deterministic=True))
        for config in configs
        for group in config.resources.values()
        for name, message in group.items()
    ]


@pytest.mark.parametrize(
    "change",
    [
        decode(POLICY % "/b"),
        decode(MODE),
        decode(POLICY % "/a" + pod("b", sidecar=4)),
        virtual_service("late"),
        decode(endpoints("b", 9)),
    ],
    ids=["policy", "mode", "pod", "route", "endpoints"],
)
def test_what_is_built_on_what_was_built_before_is_what_is_built_afresh(
    change: list[Resource],
) -> None:
    memo = Memo()
    objects = {r.ref: r for r in decode(GATEWAY_POD + POLICY % "/a") + POD + virtual_service("vs")}
    before = Snapshot.of(objects.values())
    built(before, memo)

    changed = objects | {r.ref: r for r in change}
    after = Snapshot.of(changed.values(), before=before)
    back = Snapshot.of(objects.values(), before=after)

    assert serialized(built(after, memo)) == serialized(
        built(Snapshot.of(changed.values()), Memo())
    )
    assert serialized(built(back, memo)) == serialized(built(Snapshot.of(objects.values()), Memo()))


def test_a_policy_that_changes_leaves_the_routes_as_they_were_built() -> None:
    memo = Memo()
    common = decode(GATEWAY_POD) + POD + virtual_service("vs")
    before = Snapshot.of([*common, *decode(POLICY % "/a")])
    first = built(before, memo)

    second = built(Snapshot.of([*common, *decode(POLICY % "/b")], before=before), memo)

    for one, other in zip(first, second, strict=True):
        for url in (TypeUrl.LISTENER, TypeUrl.ROUTE, TypeUrl.CLUSTER):
            for name, message in one.resources[url].items():
                assert other.resources[url][name] is message


def test_an_edition_is_another_one_when_an_object_is_refused() -> None:
    rule = virtual_service("vs")
    before = Snapshot.of(rule)
    refused: dict[ObjectRef, str] = {rule[0].ref: "because"}

    after = Snapshot.of(rule, rejected=refused, before=before)

    assert after.edition(without=[VirtualService]) != before.edition(without=[VirtualService])


def test_an_edition_is_another_one_when_there_are_other_keys() -> None:
    before = Snapshot.of(POD)

    assert Snapshot.of(POD, key_sets=KEYS, before=before).edition() != before.edition()
    assert Snapshot.of(POD, before=before).edition() == before.edition()


def test_snapshots_that_know_nothing_of_each_other_have_no_edition_in_common() -> None:
    assert Snapshot.of(POD).edition() != Snapshot.of(POD).edition()
