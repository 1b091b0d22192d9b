"""What the containers of a Pod become: definitions for the supervisor, folders, log files.

Pure, but for the types: nothing here is started, written or read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec

from apirule import names
from apirule.apis import core
from apirule.apis.meta import Object
from apirule.apis.scheme import decode
from apirule.local.processes import environment, images
from apirule.local.processes.mounts import Mounts
from apirule.local.processes.ports import Placement
from apirule.local.processes.protocol import Message
from apirule.local.processes.start_order import is_sidecar
from apirule.names import ObjectName

DEFAULT_GRACE_S = 30
PROXY_GRACE_S = 2.0
MOUNTS = "mounts"
"""In what the supervisor keeps of a process: where its mounts really are."""
RESTART_POLICIES = {"Always": "always", "OnFailure": "on-failure", "Never": "never"}


def pod_folder(pods: Path, pod: ObjectName) -> Path:
    # Neither name may hold an underscore, so no two Pods share a folder.
    return pods / f"{pod.namespace}_{pod.name}"


def log_file(pods: Path, pod: ObjectName, container: str, *, previous: bool = False) -> Path:
    """Return where the output of a container is. Its older part, if any, has ``.1`` appended.

    ValueError: the name of the container could lead out of the folder of its Pod.
    """
    if not names.DNS_LABEL.fullmatch(container):
        raise ValueError(f'"{container}" cannot be the name of a container')
    name = f"{container}.log.previous" if previous else f"{container}.log"
    return pod_folder(pods, pod) / name


class PodLogs:
    """Where the API server finds the logs that ``kubectl logs`` asks for."""

    def __init__(self, pods: Path) -> None:
        self._pods = pods

    def open(self, namespace: str, pod: str, container: str, *, previous: bool) -> Path | None:
        try:
            path = log_file(self._pods, ObjectName(namespace, pod), container, previous=previous)
        except ValueError:
            return None
        return path if path.exists() else None


def process_name(pod: ObjectName, container: str) -> str:
    return f"{pod}/{container}"


def fingerprint(container: Object) -> str:
    """Return what tells one version of a container from another."""
    return names.digest(json.dumps(container, sort_keys=True))


def complete(pod: Object) -> Object:
    """Return the Pod with a list of containers, and the ports their images are known to have.

    A Pod in the database of an earlier version may lack the list.
    """

    def with_ports(container: Object) -> Object:
        port = None if container.get("ports") else images.port_of(*_words(container))
        if port is None:
            return container
        return {**container, "ports": [{"containerPort": port, "protocol": "TCP"}]}

    spec = pod.get("spec") or {}
    given = [with_ports(container) for container in spec.get("containers") or []]
    return {**pod, "spec": {**spec, "containers": given}}


def containers_of(pod: Object) -> Iterator[Object]:
    """Yield all containers of a Pod."""
    yield from pod["spec"].get("initContainers") or []
    yield from pod["spec"]["containers"]


def typed(pod: Object) -> core.Pod | None:
    """Return a Pod in its typed form; None if a field of it has another type."""
    try:
        return decode(pod, core.Pod)
    except msgspec.ValidationError:
        return None


def why_refused(pod: Object) -> str:
    """Return why a Pod cannot run here whatever is free; "" if it can."""
    spec = pod["spec"]
    if not spec["containers"]:
        return "The Pod has no containers: delete it, and apply it with some."
    for container in containers_of(pod):
        if not names.DNS_LABEL.fullmatch(container.get("name") or ""):
            return (
                f'"{container.get("name", "")}" cannot be the name of a container: delete the Pod, '
                "and apply it with a name of lower-case letters, digits and hyphens."
            )
    return ""


def program_of(container: Object) -> images.Program | images.NotMapped:
    return images.program_of(*_words(container))


def _words(container: Object) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    command, args = (tuple(container.get(field) or ()) for field in ("command", "args"))
    return container.get("image") or "", command, args


def bundled(pod: Object) -> frozenset[str]:
    """Return the containers whose programs are servers that we bring along."""
    programs = {c["name"]: program_of(c) for c in pod["spec"]["containers"]}
    return frozenset(
        name
        for name, program in programs.items()
        if isinstance(program, images.Program) and program.bundled
    )


def grace_s(pod: Object) -> float:
    """Return how long the programs of a Pod may take to end."""
    given = pod["metadata"].get("deletionGracePeriodSeconds")
    if given is None:
        given = pod["spec"].get("terminationGracePeriodSeconds")
    return float(DEFAULT_GRACE_S if given is None else given)


def definition(
    pod: Object,
    container: Object,
    program: images.Program,
    placement: Placement,
    *,
    around: environment.Surroundings,
    mounted: Mounts,
    pods: Path,
    init: bool = False,
) -> Message:
    """Describe the process of a container. mounts.ConfigError: a variable is missing."""
    variables = environment.environment(pod, container, placement, around, mounted)
    sidecar = init and is_sidecar(container)
    policy = RESTART_POLICIES[pod["spec"].get("restartPolicy") or "Always"]
    if sidecar:
        policy = "always"
    elif init and policy == "always":
        policy = "on-failure"
    given = container.get("workingDir")
    folder = mounted.relocate(given) if given else str(work_folder(pods, _name(pod)))
    # What we bring along was not written by whoever wrote the mounts.
    words = program.argv if program.bundled else map(mounted.relocate, program.argv)
    common = _common(pod, container, pods)
    if mounted.places:
        common["meta"][MOUNTS] = dict(mounted.places)
    return {
        **common,
        "kind": "sidecar" if sidecar else "init" if init else "workload",
        "argv": [environment.expand(word, variables) for word in words],
        "env": variables,
        "cwd": folder,
        "restart": policy,
        "grace_s": grace_s(pod),
    }


def proxy_definition(pod: Object, container: Object, argv: list[str], *, pods: Path) -> Message:
    """Describe the Envoy of a Pod."""
    gateway = len(pod["spec"]["containers"]) == 1 and not pod["spec"].get("initContainers")
    return {
        **_common(pod, container, pods),
        "kind": "gateway" if gateway else "sidecar",
        "argv": argv,
        "restart": "always",
        "grace_s": PROXY_GRACE_S,
    }


def work_folder(pods: Path, pod: ObjectName) -> Path:
    """Return where a program starts that has no ``workingDir``: empty, so it can serve nothing."""
    return pod_folder(pods, pod) / "work"


def volumes_folder(pods: Path, pod: ObjectName) -> Path:
    return pod_folder(pods, pod) / "volumes"


def ignored_fields(pod: Object) -> Iterator[str]:
    """Yield what the Pod asks for and a local process cannot have, one sentence each."""
    spec = pod["spec"]
    for field, why in _IGNORED_OF_POD.items():
        if spec.get(field):
            yield f"spec.{field} has no effect: {why}"
    for container in containers_of(pod):
        place = f"container {container['name']}"
        for field, why in _IGNORED_OF_CONTAINER.items():
            if container.get(field):
                yield f"{field} of {place} has no effect: {why}"
        for port in container.get("ports") or []:
            if port.get("protocol", "TCP") != "TCP":
                yield f"port {port['containerPort']} of {place} is not served: only TCP is"
        if "postStart" in (container.get("lifecycle") or {}):
            yield f"lifecycle.postStart of {place} has no effect: only preStop is called"


_IGNORED_OF_POD = {
    "hostAliases": "names are resolved by this machine",
    "dnsConfig": "names are resolved by this machine",
    "securityContext": "programs run as the user who runs apirule",
    "runtimeClassName": "programs are processes of this machine",
    "shareProcessNamespace": "all programs see each other",
    "activeDeadlineSeconds": "nobody ends a program for its age",
    "readinessGates": "only containers count for readiness",
}

_IGNORED_OF_CONTAINER = {
    "volumeDevices": "programs see the files of this machine",
    "securityContext": "programs run as the user who runs apirule",
    "resources": "a process here has no limits",
    "stdin": "programs have no input",
    "tty": "programs have no terminal",
}


def _common(pod: Object, container: Object, pods: Path) -> Message:
    name = _name(pod)
    return {
        "name": process_name(name, container["name"]),
        "log": str(log_file(pods, name, container["name"])),
        "fresh_log": True,
        "meta": {
            "pod": str(name),
            "uid": pod["metadata"]["uid"],
            "container": container["name"],
            "fingerprint": fingerprint(container),
        },
    }


def _name(pod: Object) -> ObjectName:
    return ObjectName(pod["metadata"]["namespace"], pod["metadata"]["name"])
