"""What the kubelet keeps of one Pod while it exists."""

from __future__ import annotations

from dataclasses import dataclass, field

from apirule.apis.meta import Object
from apirule.kube.events import EventRecorder
from apirule.kube.informer import name_of
from apirule.local.processes.pod_status import Waiting
from apirule.local.processes.ports import Placement
from apirule.local.processes.volumes import Volume
from apirule.names import ObjectName


@dataclass
class Record:
    pod: Object
    placement: Placement | None = None
    unscheduled: str = ""
    waiting: dict[str, Waiting] = field(default_factory=dict)
    volumes: dict[str, Volume] | None = None
    """As they were last written; None: they never were."""
    proxy_due: float | None = None
    """When the proxy is late, by the clock of the event loop; None: it was not started yet."""
    told: set[str] = field(default_factory=set)
    """Events that are written once."""
    ending: bool = False

    @property
    def name(self) -> ObjectName:
        return name_of(self.pod)

    @property
    def uid(self) -> str:
        return str(self.pod["metadata"]["uid"])

    async def warn_once(self, events: EventRecorder, reason: str, message: str) -> None:
        if (said := f"{reason} {message}") not in self.told:
            self.told.add(said)
            await events.warning(self.pod, reason, message)
