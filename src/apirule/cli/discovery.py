"""Which kind a word of the command line means: plural, singular, short name or kind."""

from __future__ import annotations

import difflib
import json
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from apirule.apis.meta import GroupVersionKind

if TYPE_CHECKING:
    from apirule.kube.client import ApiResource, Client


class Served(NamedTuple):
    resource: ApiResource
    gvk: GroupVersionKind


async def find_kind(client: Client, word: str) -> ApiResource:
    return (await find(client, word)).resource


async def find(client: Client, word: str) -> Served:
    """Find a kind by any of its names, with ``.group`` if need be. UsageError: there is none."""
    from apirule.kube.client import ApiResource

    wanted, _, wanted_group = word.lower().partition(".")
    known: set[str] = set()
    async for group, version, entry in _entries(client):
        names = {entry["name"], entry.get("singularName", ""), entry["kind"].lower()}
        names |= set(entry.get("shortNames") or ())
        if wanted in names and wanted_group in ("", group):
            resource = ApiResource(group, version, entry["name"], bool(entry["namespaced"]))
            return Served(resource, GroupVersionKind(group, version, entry["kind"]))
        known |= names
    near = difflib.get_close_matches(wanted, sorted(known - {""}), n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise click.UsageError(f"The server has no kind '{word}'.{hint}")


class Target(NamedTuple):
    """A kind, by the word for it, and the objects of it that are meant; none: all of them."""

    kind: str
    names: tuple[str, ...] = ()


def targets(words: Sequence[str]) -> list[Target]:
    """Read what kubectl takes: ``KIND[,KIND…] [NAME…]`` or ``KIND/NAME…``."""
    if any("/" in word for word in words):
        pairs = [word.partition("/") for word in words]
        if not all(kind and name for kind, _, name in pairs):
            raise click.UsageError("Write KIND/NAME for each object, or KIND NAME….")
        return [Target(kind, (name,)) for kind, _, name in pairs]
    kinds, *names = words
    return [Target(kind, tuple(names)) for kind in kinds.split(",") if kind]


def one(words: Sequence[str]) -> tuple[str, str]:
    """Read the kind and the name of one object."""
    found = targets(words) if words else []
    if len(found) != 1 or len(found[0].names) != 1:
        raise click.UsageError("Name the object: KIND NAME or KIND/NAME.")
    return found[0].kind, found[0].names[0]


async def _entries(client: Client) -> AsyncIterator[tuple[str, str, dict[str, Any]]]:
    """Yield every kind that is served, in the version that its group prefers first."""
    groups = json.loads(await client.read_text("/apis"))["groups"]
    preferred = [("", "v1"), *((g["name"], g["preferredVersion"]["version"]) for g in groups)]
    # A kind need not be in that one.
    served = [(g["name"], one["version"]) for g in groups for one in g["versions"]]
    for group, version in dict.fromkeys([*preferred, *served]):
        path = f"/apis/{group}/{version}" if group else f"/api/{version}"
        for entry in json.loads(await client.read_text(path))["resources"]:
            if "/" not in entry["name"]:
                yield group, version, entry
