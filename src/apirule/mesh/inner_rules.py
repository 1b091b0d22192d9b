"""VirtualServices for calls inside the mesh: which one rules which host.

The one that names a host exactly goes before one with a wildcard, a longer wildcard before a
shorter one, and of equals the oldest has the host. A host that is neither a Service nor in a
ServiceEntry is served on port 80, as in Istio.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from apirule import names
from apirule.apis.meta import ObjectRef
from apirule.apis.networking import VirtualService
from apirule.mesh import hosts
from apirule.mesh.snapshot import Snapshot
from apirule.names import ObjectName
from apirule.problem import SPEC, FieldPath, Problem, Reason


class InnerRules(msgspec.Struct, frozen=True):
    """By host in full, the most specific first."""

    by_host: Mapping[str, VirtualService]
    problems: Mapping[ObjectRef, Sequence[Problem]]

    def of(self, host: str) -> VirtualService | None:
        """Return what rules calls to a host of a Service or ServiceEntry."""
        exact = self.by_host.get(host)
        if exact is not None:
            return exact
        return next((r for wide, r in self.by_host.items() if hosts.covers(wide, host)), None)


def inner_rules(snapshot: Snapshot) -> InnerRules:
    return snapshot.memo("inner rules", lambda: _inner_rules(snapshot))


def _inner_rules(snapshot: Snapshot) -> InnerRules:
    found: dict[str, VirtualService] = {}
    problems: defaultdict[ObjectRef, list[Problem]] = defaultdict(list)
    for rules in snapshot.mesh_virtual_services:
        for index, host in enumerate(rules.spec.hosts):
            full = in_full(host, rules.metadata.namespace)
            wrong = list(_problems(snapshot, rules, full, found.get(full), SPEC / "hosts" / index))
            problems[rules.ref] += wrong
            if not wrong and hosts.is_valid(full):
                found.setdefault(full, rules)
    by_precision = sorted(found, key=lambda host: (host.startswith("*"), -len(host)))
    return InnerRules({host: found[host] for host in by_precision}, problems)


def in_full(host: str, namespace: str) -> str:
    """Return what a host means in a namespace. Istio: only a name without dots is short."""
    if "." in host or host == "*":
        return host.lower()
    return names.service_host(ObjectName(namespace, host.lower()))


def _problems(
    snapshot: Snapshot,
    rules: VirtualService,
    host: str,
    owner: VirtualService | None,
    at: FieldPath,
) -> Iterator[Problem]:
    if host == "*":
        yield Problem(
            at,
            Reason.INVALID,
            'The host "*" has no meaning for calls inside the mesh.',
            "Name the hosts, or only Gateways in spec.gateways.",
        )
    elif (service := hosts.short_for(host)) in snapshot.services and service is not None:
        full = names.service_host(service)
        yield Problem(at, Reason.INVALID, f'"{host}" is {full} cut short.', f"Write {full}.")
    elif owner is not None and owner is not rules:
        yield Problem(
            at,
            Reason.CONFLICT,
            f"VirtualService {owner.object_name} is older and rules calls to {host} already; this "
            "one has no effect on them.",
            "Write everything of a host into one VirtualService.",
        )
