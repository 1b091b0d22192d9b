"""Istio's EnvoyFilter: what somebody adds to the configuration of a proxy by hand.

A field that stands here is implemented by the local engine; ``scheme.unknown_fields`` finds the
others, and the engine reports them on the object and closes what it selects.
"""

from __future__ import annotations

from typing import Any, ClassVar

from apirule.apis.meta import GroupVersionKind, Resource, Wire
from apirule.apis.networking import GROUP, IstioStatus


class WorkloadSelector(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    labels: dict[str, str] | None = None


class SubFilterMatch(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""


class FilterMatch(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    sub_filter: SubFilterMatch | None = None


class FilterChainMatch(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    filter: FilterMatch | None = None


class ListenerMatch(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    filter_chain: FilterChainMatch | None = None


class PatchMatch(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    context: str = "ANY"
    listener: ListenerMatch | None = None


class Patch(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    operation: str = ""
    value: dict[str, Any] | None = None
    """A piece of Envoy's configuration, in the form Envoy has for JSON."""


class ConfigPatch(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    apply_to: str = ""
    match: PatchMatch = PatchMatch()
    patch: Patch = Patch()


class EnvoyFilterSpec(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    workload_selector: WorkloadSelector | None = None
    config_patches: tuple[ConfigPatch, ...] = ()
    priority: int = 0
    """Those with a lower one are applied first."""


class EnvoyFilter(Resource, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    gvk: ClassVar = GroupVersionKind(GROUP, "v1alpha3", "EnvoyFilter")
    spec: EnvoyFilterSpec = EnvoyFilterSpec()
    status: IstioStatus = IstioStatus()

    @property
    def selector(self) -> dict[str, str]:
        """The labels a Pod must have; empty takes all of the namespace."""
        chosen = self.spec.workload_selector
        return (chosen.labels if chosen else None) or {}
