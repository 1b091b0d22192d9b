"""Why a workload is not ready: what stands in the status of its Pods, and the last warning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio

from apirule.apis import core
from apirule.apis.meta import GroupVersionKind, Object
from apirule.local.processes.pod_status import WHICH_ENDS
from apirule.local.workloads.rollout import HASH_LABEL, template_hash
from apirule.names import ObjectName

if TYPE_CHECKING:
    from apirule.kube.client import Client

DEPLOYMENT = GroupVersionKind("apps", "v1", "Deployment")
EVENT = GroupVersionKind("", "v1", "Event")
POD = core.Pod.gvk

LOOK_EVERY_S = 0.25
LASTING_LOOKS = 6
"""How often in a row a cause is seen that will not pass by itself before nobody waits for that."""

_LASTING = ("ImageNotMapped", "CreateContainerConfigError", "CreateContainerError")


class Hindrance(NamedTuple):
    text: str
    lasting: bool
    """It does not pass by itself, whatever time it is given."""


async def until_ready(
    client: Client, name: ObjectName, is_ready: Callable[[Object], bool], *, within_s: float
) -> Hindrance | None:
    """Wait until a Deployment is as ``is_ready`` wants it. None: it is; else what keeps it."""
    since = datetime.now(UTC).replace(microsecond=0)  # noqa: TID251 - statuses tell the time
    pods: list[Object] = []
    before: Hindrance | None = None
    seen = 0
    with anyio.move_on_after(within_s):
        while True:
            deployment = await client.get(DEPLOYMENT, name)
            if is_ready(deployment):
                return None
            pods = await _pods(client, deployment)
            causes = (cause for pod in pods for cause in of_pod(pod, since) if cause.lasting)
            found = next(causes, None)
            seen = seen + 1 if found == before else 1
            if found is not None and seen >= LASTING_LOOKS:
                return found
            before = found
            # That something stays as it is is nothing that anybody reports.
            await anyio.sleep(LOOK_EVERY_S)
    told = [cause.text for pod in pods for cause in of_pod(pod, since)]
    why = told[0] if told else await _last_warning(client, name, pods)
    return Hindrance(f"it is not ready after {within_s:g} s" + (f": {why}" if why else ""), False)


def of_pod(pod: Object, since: datetime) -> Iterator[Hindrance]:
    """Yield what keeps a Pod from being ready; an end before ``since`` says nothing any more."""
    status = pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if (condition["type"], condition["status"]) == ("PodScheduled", "False"):
            message = str(condition.get("message", ""))
            yield Hindrance(message, lasting=not message.endswith(WHICH_ENDS))
    for one in (*(status.get("initContainerStatuses") or ()), *_containers(status)):
        waiting = (one.get("state") or {}).get("waiting") or {}
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        ended = (one.get("lastState") or {}).get("terminated") or {}
        if reason in _LASTING:
            yield Hindrance(f"{reason}: {message}", lasting=True)
        elif reason == "CrashLoopBackOff" and ended.get("reason") == "StartError":
            fresh = datetime.fromisoformat(ended["finishedAt"]) >= since
            yield Hindrance(f"it does not start: {ended.get('message', '')}", lasting=fresh)
        elif reason == "CrashLoopBackOff":
            times = f"restarted {one.get('restartCount', 0)} times"
            code = ended.get("exitCode")
            yield Hindrance(f"{one['name']} ends with exit code {code}, {times}", lasting=False)


def _containers(status: Object) -> Sequence[Any]:
    return status.get("containerStatuses") or ()


async def _pods(client: Client, deployment: Object) -> list[Object]:
    """Return the Pods of a Deployment's present template, the newest first."""
    namespace = deployment["metadata"]["namespace"]
    label = f"{HASH_LABEL}={template_hash(deployment['spec']['template'])}"
    pods = (await client.list(POD, namespace, label_selector=label)).items
    pods = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    return sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True)


async def _last_warning(client: Client, name: ObjectName, pods: Sequence[Object]) -> str:
    uids = {pod["metadata"]["uid"] for pod in pods}
    events = [
        event
        for event in (await client.list(EVENT, name.namespace)).items
        if event.get("type") == "Warning" and event["involvedObject"].get("uid") in uids
    ]
    last = max(events, key=lambda event: str(event.get("lastTimestamp")), default=None)
    return f"{last['reason']}: {last['message']}" if last else ""
