"""From a container to the process the supervisor is asked for, with the files it needs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from apirule.apis import core
from apirule.apis.meta import Object
from apirule.apis.scheme import decode
from apirule.kube.informer import Informer, name_of
from apirule.local.processes import bootstrap_file, containers, mounts, volumes
from apirule.local.processes.environment import Surroundings
from apirule.local.processes.images import NotMapped
from apirule.local.processes.mounts import ConfigError, Mounts, variable_of
from apirule.local.processes.pod_status import Waiting
from apirule.local.processes.ports import Placement
from apirule.local.processes.protocol import Message
from apirule.local.processes.volumes import Volume
from apirule.mesh.proxy import PROXY_CONTAINER
from apirule.names import ObjectName


class Made(NamedTuple):
    definition: Message
    note: str
    """For the Event that a container runtime calls ``Pulled``."""
    elsewhere: tuple[str, ...] = ()
    """Sentences about mounts that the program is not told of."""


class NotMadeError(Exception):
    """The container cannot be started as things are; the text is that of the Event."""

    def __init__(self, waiting: Waiting, *, event: str, text: str) -> None:
        super().__init__(text)
        self.waiting = waiting
        self.event = event
        """Reason of the Event."""


class Maker:
    """``sources`` are the objects that environments are made of, by kind."""

    def __init__(
        self, pods: Path, xds_socket: Path, sources: Mapping[str, Informer], *, domain: str
    ) -> None:
        self._folder = pods
        self._xds_socket = xds_socket
        self._domain = domain
        self._capacity = _capacity()
        self._sources = sources

    def volumes(self, pod: Object) -> dict[str, Volume]:
        """Return what the volumes of a Pod are now. ConfigError: one of them cannot be had."""
        folder = containers.volumes_folder(self._folder, name_of(pod))
        return volumes.read(pod, self._around(pod), folder)

    def make(
        self,
        pod: Object,
        container: Object,
        placement: Placement,
        volumes: Mapping[str, Volume],
        *,
        init: bool,
    ) -> Made:
        """Define the process of a container. NotMadeError: not now."""
        folder = containers.work_folder(self._folder, name_of(pod))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if container["name"] == PROXY_CONTAINER:
            return self._proxy(pod, container, placement, folder.parent)
        program = containers.program_of(container)
        if isinstance(program, NotMapped):
            waiting = Waiting("ImageNotMapped", program.message)
            raise NotMadeError(waiting, event=waiting.reason, text=program.message)
        try:
            mounted = mounts.of(container, {name: v.folder for name, v in volumes.items()})
            _make_folders(container, volumes)
            definition = containers.definition(
                pod,
                container,
                program,
                placement,
                around=self._around(pod),
                mounted=mounted,
                pods=self._folder,
                init=init,
            )
        except ConfigError as error:
            waiting = Waiting("CreateContainerConfigError", str(error))
            raise NotMadeError(waiting, event="Failed", text=f"Error: {error}") from error
        return Made(definition, program.note, tuple(_elsewhere(container, definition, mounted)))

    def _proxy(self, pod: Object, container: Object, placement: Placement, folder: Path) -> Made:
        argv = bootstrap_file.prepare(
            decode(pod, core.Pod), folder, xds_socket=self._xds_socket, admin=placement.admin
        )
        definition = containers.proxy_definition(pod, container, argv, pods=self._folder)
        return Made(definition, f'Image "{container.get("image")}" is the Envoy of apirule')

    def _around(self, pod: Object) -> Surroundings:
        namespace = name_of(pod).namespace

        def lookup(kind: str, name: str) -> Object | None:
            return self._sources[kind].get(ObjectName(namespace, name))

        return Surroundings(lookup, self._domain, self._capacity)


def _make_folders(container: Object, volumes: Mapping[str, Volume]) -> None:
    """Make the parts of a folder of programs that are mounted by themselves."""
    for mount in container.get("volumeMounts") or []:
        volume = volumes[mount["name"]]
        if volume.is_own and volume.files is None and mount.get("subPath"):
            part = volume.folder / mounts.inner_path(mount["subPath"])
            part.mkdir(mode=0o700, parents=True, exist_ok=True)


def _elsewhere(container: Object, definition: Message, mounted: Mounts) -> Iterator[str]:
    """Yield a sentence for each mount that nothing in the words of a program leads to."""
    told = [*definition["argv"], definition["cwd"]]
    told += [value for key, value in definition["env"].items() if not key.startswith("VOLUME_")]
    for mount in container.get("volumeMounts") or []:
        path = str(mount["mountPath"]).rstrip("/")
        place = mounted.places[path]
        if place != path and not any(place in text for text in told):
            yield (
                f"Volume {mount['name']} of container {container['name']} is not at {path}, which "
                f"belongs to this machine, but at {place}. A program that opens {path} by itself "
                f"does not find it: give it the path, as ${variable_of(mount['name'])}, or as "
                f"{path} in command, args or env, where that means the real one"
            )


def _capacity() -> Mapping[str, int]:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"cpu": os.cpu_count() or 1, "memory": memory}
