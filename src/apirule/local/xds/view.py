"""From the world to a snapshot: which objects count right now, and in which state.

What the proxies shall see is the world, but for four things: guards that linger until the last
route to them is gone, objects a proxy refused, objects put on trial to find out which one it was,
and workloads whose sidecar does not hold its guards, which nobody shall reach.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from apirule import providers
from apirule.apis import core
from apirule.apis.meta import ObjectRef, Resource
from apirule.keysets import KeySet, from_config_map
from apirule.local.xds.world import Moment, alone
from apirule.mesh.config import MeshSettings
from apirule.mesh.snapshot import Snapshot
from apirule.names import ObjectName

ON_TRIAL = "It is being checked."
_MESH_CONFIG = ObjectRef("", core.ConfigMap.gvk.kind, *providers.CONFIG_MAP)


class View(msgspec.Struct, frozen=True):
    moment: Moment
    rejected: Mapping[ObjectRef, str]
    lingering: Mapping[ObjectRef, Resource] = msgspec.field(default_factory=dict)
    shunned: frozenset[ObjectName] = frozenset()
    """Pods that get no traffic."""
    held: Mapping[ObjectRef, Resource | None] = msgspec.field(default_factory=dict)
    """Objects on trial: what stands in for each; None stands for rejected."""

    def on_trial(self, held: Iterable[ObjectRef], before: Mapping[ObjectRef, Resource]) -> View:
        """Return the same with some objects held back: as they were ``before``, or rejected."""
        return msgspec.structs.replace(self, held={ref: before.get(ref) for ref in held})

    def differs_only_by_objects(self, other: View) -> bool:
        """Say whether at most plain objects differ: neither verdicts on them, nor key sets."""
        return (
            self.rejected == other.rejected
            and self.shunned == other.shunned
            and self.held == other.held
            and self.moment.faults == other.moment.faults
            and self.moment.key_sets == other.moment.key_sets
        )

    def differences(self, other: View) -> Iterator[Resource]:
        """Yield the objects, lingering ones too, that are in one of the two alone."""
        yield from self.moment.differences(other.moment)
        yield from alone(self.lingering, other.lingering)

    def snapshot(self, settings: MeshSettings, before: Snapshot | None = None) -> Snapshot:
        """Index what is to be seen; ``before`` is a snapshot that has most of it already."""
        rejected = {ref: fault.text for ref, fault in self.moment.faults.items()}
        rejected |= self.rejected
        rejected |= {ref: ON_TRIAL for ref, stand_in in self.held.items() if stand_in is None}
        return Snapshot.of(
            self._resources(rejected),
            settings=msgspec.structs.replace(settings, trust_domain_aliases=self._aliases()),
            key_sets=dict(self._key_sets(rejected)),
            rejected=rejected,
            before=before,
        )

    def _aliases(self) -> tuple[str, ...]:
        config = self.moment.resources.get(_MESH_CONFIG)
        text = (
            (config.data or {}).get(providers.KEY) if isinstance(config, core.ConfigMap) else None
        )
        return providers.trust_domain_aliases(text or "")

    def _resources(self, rejected: Mapping[ObjectRef, str]) -> Iterable[Resource]:
        everything: Mapping[ObjectRef, Resource] = self.moment.resources
        if self.lingering:
            everything = {**everything, **self.lingering}
        if rejected or self.shunned or self.held:
            return self._counted(everything, rejected)
        return everything.values()

    def _counted(
        self, everything: Mapping[ObjectRef, Resource], rejected: Mapping[ObjectRef, str]
    ) -> Iterator[Resource]:
        for ref, resource in everything.items():
            stand_in = self.held.get(ref) or resource
            kept = not isinstance(stand_in, core.EndpointSlice) or (
                ref not in rejected and not self._is_shunned(stand_in)
            )
            if kept:
                yield stand_in

    def _is_shunned(self, piece: core.EndpointSlice) -> bool:
        targets = (endpoint.target_ref for endpoint in piece.endpoints)
        namespace = piece.metadata.namespace
        return any(
            ObjectName(target.namespace or namespace, target.name) in self.shunned
            for target in targets
            if target is not None and target.kind == "Pod"
        )

    def _key_sets(
        self, rejected: Mapping[ObjectRef, str]
    ) -> Iterator[tuple[tuple[str, str], KeySet]]:
        # A rejected key set is none: the mesh puts a key in its place that nobody has.
        for ref, known in self.moment.key_sets.items():
            stand_in = self.held.get(ref)
            key_set = from_config_map(stand_in) if isinstance(stand_in, core.ConfigMap) else known
            if ref not in rejected and key_set is not None:
                yield (key_set.issuer, key_set.jwks_uri), key_set
