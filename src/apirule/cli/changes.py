"""describe and diff: one object in full with its events; what an apply would change."""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Any

import click

from apirule import manifest
from apirule.apis.meta import GroupVersionKind, Object, ObjectRef
from apirule.cli import completion, discovery, instance, manifests, output
from apirule.cli.objects import files_option, namespace_option, place
from apirule.names import ObjectName

if TYPE_CHECKING:
    from apirule.kube.client import Client

NOISE = ("managedFields", "resourceVersion", "uid", "generation", "creationTimestamp")
EVENT = GroupVersionKind("", "v1", "Event")


@click.command()
@click.argument("words", nargs=-1, metavar="KIND NAME | KIND/NAME", shell_complete=completion.words)
@namespace_option
@instance.cluster_options
def describe(words: tuple[str, ...], namespace: str) -> int:
    """Print an object without bookkeeping, and the events about it."""
    kind, name = discovery.one(words)

    async def work(client: Client) -> int:
        resource, gvk = await discovery.find(client, kind)
        target = ObjectName(namespace if resource.namespaced else "", name)
        obj = await client.get(gvk, target)
        about = (await client.list(EVENT, target.namespace)).items
        uid = obj["metadata"].get("uid")
        events = [event for event in about if event["involvedObject"].get("uid") == uid]
        output.answer(manifest.dump([_quiet(obj)]).rstrip())
        rows = [_event_row(event) for event in events]
        output.answer("events:" if rows else "events: none")
        if rows:
            output.answer(output.table(("TYPE", "REASON", "LAST SEEN", "MESSAGE"), rows))
        return 0

    return instance.with_client(work)


@click.command()
@files_option
@namespace_option
@instance.cluster_options
def diff(files: tuple[str, ...], namespace: str) -> int:
    """Print what `apply` would change. Exit code 1: something, or a mistake."""
    if not files:
        raise click.UsageError("Name manifests: -f FILE.")
    objects = manifests.read(files)

    async def work(client: Client) -> int:
        from apirule.kube.errors import NotFound

        differs = False
        for obj in objects:
            await place(client, obj, namespace)
            gvk, ref = GroupVersionKind.of(obj), ObjectRef.of(obj)
            try:
                before = _text(await client.get(gvk, ref.object_name))
            except NotFound:
                before = ""
            after = _text(await client.apply(obj, dry_run=True, strict=True))
            name = manifests.label(obj)
            lines = difflib.unified_diff(
                before.splitlines(), after.splitlines(), f"live/{name}", f"new/{name}", lineterm=""
            )
            for line in lines:
                differs = True
                output.answer(_colored(line))
        return int(differs)

    return instance.with_client(work)


def _text(obj: Object) -> str:
    return manifest.dump([{key: value for key, value in _quiet(obj).items() if key != "status"}])


def _quiet(obj: Object) -> Object:
    kept = {key: value for key, value in obj["metadata"].items() if key not in NOISE}
    return {**obj, "metadata": kept}


def _colored(line: str) -> str:
    if line.startswith(("+++", "---")):
        return click.style(line, bold=True)
    color = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
    return click.style(line, fg=color) if color else line


def _event_row(event: dict[str, Any]) -> tuple[str, str, str, str]:
    seen = event.get("lastTimestamp") or event.get("eventTime") or ""
    message = json.dumps(event.get("message", ""), ensure_ascii=False)[1:-1]
    return str(event.get("type", "")), str(event.get("reason", "")), str(seen), message
