"""The volumes of a Pod as folders: what is in them, and writing that.

A volume of a ConfigMap, a Secret or of fields of the Pod is a folder of files that follow their
source; an ``emptyDir`` a folder that goes with the Pod; a ``hostPath`` is what it says.
"""

from __future__ import annotations

import base64
import binascii
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from apirule import names
from apirule.apis.meta import Object
from apirule.local.processes.environment import Lookup, Surroundings, field_of, resource_of
from apirule.local.processes.mounts import ConfigError, inner_path

_MODE = 0o644
_OWNER = 0o700
"""Files are for the user who runs apirule alone, whatever a manifest opens to others."""


class File(msgspec.Struct, frozen=True):
    content: bytes
    mode: int = _MODE


class Volume(msgspec.Struct, frozen=True):
    folder: Path
    files: Mapping[str, File] | None = None
    """What is in it, by path. None: that is up to the programs."""
    is_own: bool = True
    """We make it, unless it is there."""


def read(pod: Object, around: Surroundings, folder: Path) -> dict[str, Volume]:
    """Return the volumes of a Pod by name; ``folder`` is where they are. ConfigError: not now."""
    return {
        name: _volume(name, source, pod, around, folder)
        for name, source in _named(pod["spec"].get("volumes") or [])
    }


def write(volume: Volume) -> None:
    """Make the folder and, file by file, its content. A program sees old files or new ones."""
    if not volume.is_own:
        return
    volume.folder.mkdir(mode=_OWNER, parents=True, exist_ok=True)
    if volume.files is None:
        return
    wanted = {volume.folder / path: file for path, file in volume.files.items()}
    folders = {volume.folder, *(parent for path in wanted for parent in path.parents)}
    for present in sorted(volume.folder.rglob("*"), reverse=True):
        if present.is_dir() and not present.is_symlink():
            if present not in folders:
                shutil.rmtree(present)
        elif present not in wanted:
            present.unlink()
    for path, file in wanted.items():
        path.parent.mkdir(mode=_OWNER, parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.new")
        temporary.touch(mode=0o600)
        temporary.write_bytes(file.content)
        temporary.chmod((file.mode & _OWNER) | 0o400)
        temporary.replace(path)


def _named(given: list[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for volume in given:
        name = str(volume.get("name", ""))
        if not names.DNS_LABEL.fullmatch(name):
            raise ConfigError(f'"{name}" cannot be the name of a volume')
        source = {key: value for key, value in volume.items() if key != "name"}
        # Who names no source gets an emptyDir, as in Kubernetes.
        yield name, source or {"emptyDir": {}}


def _volume(
    name: str, source: Mapping[str, Any], pod: Object, around: Surroundings, folder: Path
) -> Volume:
    match dict(source):
        case {"hostPath": {"path": path, **more}} if str(path).startswith("/"):
            return Volume(Path(path), is_own=more.get("type") == "DirectoryOrCreate")
        case {"emptyDir": _}:
            return Volume(folder / name)
        case {"projected": projected}:
            files: dict[str, File] = {}
            mode = projected.get("defaultMode") or _MODE
            for one in projected.get("sources") or []:
                files |= _files(one, pod, around, mode)
            return Volume(folder / name, files)
        case _:
            return Volume(folder / name, _files(source, pod, around, _MODE))


def _files(
    source: Mapping[str, Any], pod: Object, around: Surroundings, mode: int
) -> dict[str, File]:
    match dict(source):
        case {"configMap": given}:
            return _selected("ConfigMap", given.get("name", ""), given, around.lookup, mode)
        case {"secret": given}:
            secret = given.get("secretName") or given.get("name", "")
            return _selected("Secret", secret, given, around.lookup, mode)
        case {"downwardAPI": given}:
            default = given.get("defaultMode") or mode
            return {
                str(inner_path(item["path"])): File(
                    _field(item, pod, around), item.get("mode") or default
                )
                for item in given.get("items") or []
            }
        case _:
            raise ConfigError(
                f"volumes of {', '.join(source)} do not exist here: use emptyDir, hostPath, "
                "configMap, secret or downwardAPI"
            )


def _selected(
    kind: str, name: str, given: Mapping[str, Any], lookup: Lookup, mode: int
) -> dict[str, File]:
    """Return what a ConfigMap or Secret holds, or the keys that are chosen of it, as files."""
    obj = lookup(kind, name)
    if obj is None:
        if given.get("optional"):
            return {}
        raise ConfigError(f'{kind.lower()} "{name}" not found')
    content, default = _content(kind, obj), given.get("defaultMode") or mode
    if not given.get("items"):
        return {str(inner_path(key)): File(value, default) for key, value in content.items()}
    files = {}
    for item in given["items"]:
        if item["key"] in content:
            path = str(inner_path(item["path"]))
            files[path] = File(content[item["key"]], item.get("mode") or default)
        elif not given.get("optional"):
            raise ConfigError(f"{kind.lower()} references non-existent config key: {item['key']}")
    return files


def _content(kind: str, obj: Object) -> dict[str, bytes]:
    data, binary = obj.get("data") or {}, obj.get("binaryData") or {}
    if kind == "Secret":
        data, binary = {}, data
    try:
        decoded = {key: base64.b64decode(value) for key, value in binary.items()}
    except binascii.Error as error:
        name = obj["metadata"]["name"]
        raise ConfigError(f'{kind.lower()} "{name}" holds a value that is not Base64') from error
    return {key: value.encode() for key, value in data.items()} | decoded


def _field(item: Mapping[str, Any], pod: Object, around: Surroundings) -> bytes:
    if reference := item.get("resourceFieldRef"):
        return resource_of(reference, pod, {"name": ""}, around.capacity).encode()
    path = (item.get("fieldRef") or {}).get("fieldPath", "")
    if path in ("metadata.labels", "metadata.annotations"):
        values = pod["metadata"].get(path.rpartition(".")[2]) or {}
        return "".join(f'{key}="{values[key]}"\n' for key in sorted(values)).encode()
    return field_of(path, pod).encode()
