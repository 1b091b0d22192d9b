"""Which kind a word of the command line means: plural, singular, short name or kind."""

from __future__ import annotations

import difflib
import json
from collections.abc import AsyncIterator
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


def split(kind: str, name: str | None) -> tuple[str, str | None]:
    """Take ``KIND/NAME`` and ``KIND NAME`` for the same."""
    if name is None and "/" in kind:
        kind, _, name = kind.partition("/")
    return kind, name


async def _entries(client: Client) -> AsyncIterator[tuple[str, str, dict[str, Any]]]:
    groups = json.loads(await client.read_text("/apis"))["groups"]
    preferred = [("", "v1"), *((g["name"], g["preferredVersion"]["version"]) for g in groups)]
    for group, version in preferred:
        path = f"/apis/{group}/{version}" if group else f"/api/{version}"
        for entry in json.loads(await client.read_text(path))["resources"]:
            if "/" not in entry["name"]:
                yield group, version, entry
