"""Where a container finds its volumes: not at their ``mountPath``, which belongs to the machine.

Nobody but root can put a folder there for one program alone. So the files are in the folder of the
Pod, and a path below a ``mountPath`` that stands in the manifest (command, arguments, variables,
working directory) or in a command of ``kubectl exec`` is replaced by the real one. A program that
opens the path by itself has to be told: ``VOLUME_<NAME>`` is the folder. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import msgspec

from apirule.apis.meta import Object


class ConfigError(Exception):
    """What a container is made of cannot be had; Kubernetes' ``CreateContainerConfigError``."""


class Mounts(msgspec.Struct, frozen=True):
    places: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Where each ``mountPath`` really is."""
    folders: Mapping[str, str] = msgspec.field(default_factory=dict)
    """The folder of each volume that is mounted, by its name."""

    def relocate(self, text: str) -> str:
        return relocate(text, self.places)

    def variables(self) -> Iterator[tuple[str, str]]:
        for name, folder in self.folders.items():
            yield variable_of(name), folder


NONE = Mounts()


def variable_of(volume: str) -> str:
    """Return the name of the variable that tells the folder of a volume."""
    return f"VOLUME_{volume.upper().replace('-', '_')}"


def of(container: Object, folders: Mapping[str, Path]) -> Mounts:
    """Read the ``volumeMounts`` of a container. ConfigError: one of them makes no sense."""
    places, mounted = {}, {}
    for mount in container.get("volumeMounts") or []:
        name, path = mount.get("name", ""), str(mount.get("mountPath", "")).rstrip("/")
        if name not in folders:
            raise ConfigError(f'there is no volume "{name}" to mount')
        if not path.startswith("/"):
            raise ConfigError(f'a volume cannot be mounted at "{mount.get("mountPath", "")}" here')
        if mount.get("subPathExpr"):
            raise ConfigError("subPathExpr does not exist here: write the path as subPath")
        inside = inner_path(mount.get("subPath") or ".")
        places[path] = str(folders[name] / inside)
        mounted[name] = str(folders[name])
    return Mounts(places, mounted)


def inner_path(text: str) -> PurePosixPath:
    """Return a path below a volume. ConfigError: it leads out of it."""
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\0" in text:
        raise ConfigError(f'"{text}" leads out of its volume')
    return path


def relocate(text: str, places: Mapping[str, str]) -> str:
    """Replace every path at or below a ``mountPath`` by where it really is."""
    if not places:
        return text
    longest_first = sorted(places, key=len, reverse=True)
    pattern = _BEFORE + f"({'|'.join(map(re.escape, longest_first))})" + _AFTER
    return re.sub(pattern, lambda found: places[found[1]], text)


_BEFORE = r"(?:(?<![\w.\-/$})])|(?<=://)|(?<=:///))"
"""A path begins where no other one goes on, and in ``file:///etc`` and ``sqlite:////etc``."""
_AFTER = r"(?![\w.\-])"
