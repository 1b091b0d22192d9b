"""apply, get, delete: enough of kubectl for those without it, in its words and columns."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from apirule import manifest
from apirule.apis.meta import GroupVersionKind, Object, ObjectRef
from apirule.cli import instance, output
from apirule.names import ObjectName

if TYPE_CHECKING:
    from apirule.kube.client import ApiResource, Client

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io, application/json"

namespace_option = click.option("-n", "--namespace", default="default", show_default=True)


@click.command()
@click.option("-f", "--filename", "files", multiple=True, required=True, help="File, folder or -.")
@click.option("--dry-run", is_flag=True, help="Let the server check it, change nothing.")
@namespace_option
def apply(files: tuple[str, ...], dry_run: bool, namespace: str) -> int:
    """Create or change objects (server-side apply)."""
    objects, failed = read_manifests(files)
    if failed:
        return 1

    async def work(client: Client) -> int:
        from apirule.kube.errors import ApiError

        failures = 0
        for obj in objects:
            try:
                await _place(client, obj, namespace)
                await client.apply(obj, dry_run=dry_run)
            except ApiError as error:
                failures += 1
                output.say(f"{_label(obj)}: {error.message}")
            else:
                output.answer(f"{_label(obj)} {'checked' if dry_run else 'applied'}")
        return int(failures > 0)

    return instance.with_client(work)


@click.command()
@click.argument("kind")
@click.argument("name", required=False)
@namespace_option
@click.option("-A", "--all-namespaces", is_flag=True)
@click.option("-l", "--selector", default="", help="Labels, as kubectl takes them.")
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["table", "wide", "json", "yaml", "name"]),
    default="table",
)
def get(
    kind: str, name: str | None, namespace: str, all_namespaces: bool, selector: str, form: str
) -> int:
    """List objects of a kind, or print one of them."""

    async def work(client: Client) -> int:
        resource = await find_kind(client, kind)
        where = "" if all_namespaces or not resource.namespaced else namespace
        path = resource.path(where, name or "")
        query = {"labelSelector": selector} if selector else {}
        accept = TABLE if form in ("table", "wide") else ""
        answer = json.loads(await client.read_text(path, query, accept=accept))
        _print(answer, form, with_namespace=all_namespaces and resource.namespaced)
        return 0

    return _reporting(work)


@click.command()
@click.argument("kind", required=False)
@click.argument("name", required=False)
@click.option("-f", "--filename", "files", multiple=True, help="File, folder or -.")
@namespace_option
def delete(kind: str | None, name: str | None, files: tuple[str, ...], namespace: str) -> int:
    """Delete one object, or those of manifests."""
    if not files and not (kind and name):
        raise click.UsageError("Name an object (KIND NAME) or manifests (-f FILE).")

    async def work(client: Client) -> int:
        if files:
            objects, failed = read_manifests(files)
            if failed:
                return 1
        else:
            resource = await find_kind(client, str(kind))
            gvk = await _kind_of(client, resource)
            objects = [
                {
                    "apiVersion": gvk.api_version,
                    "kind": gvk.kind,
                    "metadata": {"name": name},
                }
            ]
        for obj in objects:
            await _place(client, obj, namespace)
            await client.delete(GroupVersionKind.of(obj), ObjectRef.of(obj).object_name)
            output.answer(f"{_label(obj)} deleted")
        return 0

    return _reporting(work)


def read_manifests(files: tuple[str, ...]) -> tuple[list[Object], bool]:
    """Read all manifests; what is wrong with them is printed, and True comes back."""
    objects: list[Object] = []
    failed = False
    for source, text in texts(files):
        found = manifest.load(text, source=source)
        for finding in found.findings:
            output.say(str(finding))
        failed = failed or found.has_errors
        objects += found.objects
    return objects, failed


def texts(files: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield name and text of each file; a folder stands for the manifests in it."""
    for name in files:
        if name == "-":
            yield "-", sys.stdin.read()
            continue
        path = Path(name)
        if not path.exists():
            raise click.UsageError(f"There is no file {name}.")
        paths = sorted(path.iterdir()) if path.is_dir() else [path]
        for file in paths:
            if path.is_dir() and file.suffix not in (".yaml", ".yml", ".json"):
                continue
            yield str(file), file.read_text()


async def find_kind(client: Client, word: str) -> ApiResource:
    """Find a kind by plural, singular, short name or kind, with ``.group`` if need be."""
    from apirule.kube.client import ApiResource

    wanted, _, wanted_group = word.lower().partition(".")
    async for group, version, entry in _served(client):
        names = {entry["name"], entry.get("singularName", ""), entry["kind"].lower()}
        if wanted in names | set(entry.get("shortNames") or ()) and wanted_group in ("", group):
            return ApiResource(group, version, entry["name"], bool(entry["namespaced"]))
    raise click.UsageError(f'The server has no kind "{word}".')


async def _kind_of(client: Client, resource: ApiResource) -> GroupVersionKind:
    async for group, version, entry in _served(client):
        if (group, entry["name"]) == (resource.group, resource.plural):
            return GroupVersionKind(group, version, entry["kind"])
    raise click.UsageError(f'The server has no kind "{resource.plural}".')


async def _served(client: Client) -> Any:
    groups = json.loads(await client.read_text("/apis"))["groups"]
    preferred = [("", "v1"), *((g["name"], g["preferredVersion"]["version"]) for g in groups)]
    for group, version in preferred:
        path = f"/apis/{group}/{version}" if group else f"/api/{version}"
        for entry in json.loads(await client.read_text(path))["resources"]:
            if "/" not in entry["name"]:
                yield group, version, entry


async def _place(client: Client, obj: Object, namespace: str) -> None:
    """Give an object of a namespaced kind the namespace it does not name."""
    resource = await client.resource(GroupVersionKind.of(obj))
    if resource.namespaced:
        obj["metadata"].setdefault("namespace", namespace)


def _reporting(work: Any) -> int:
    from apirule.kube.errors import ApiError

    try:
        return int(instance.with_client(work))
    except ApiError as error:
        if error.reason == "Unreachable":
            raise instance.not_running() from error
        output.say(f"{click.style('error', fg='red')}: {error.message}")
        return 1


def _label(obj: Object) -> str:
    gvk = GroupVersionKind.of(obj)
    kind = f"{gvk.kind.lower()}.{gvk.group}" if gvk.group else gvk.kind.lower()
    return f"{kind}/{obj['metadata'].get('name', '')}"


def _print(answer: Object, form: str, *, with_namespace: bool) -> None:
    if form == "json":
        output.answer_json(answer)
    elif form == "yaml":
        output.answer(manifest.dump([answer]).rstrip())
    elif form == "name":
        for item in answer.get("items", [answer]):
            output.answer(f"{ObjectName(**_name(item))}")
    else:
        _print_table(answer, wide=form == "wide", with_namespace=with_namespace)


def _name(item: Object) -> dict[str, str]:
    meta = item["metadata"]
    return {"namespace": meta.get("namespace", ""), "name": meta["name"]}


def _print_table(answer: Object, *, wide: bool, with_namespace: bool) -> None:
    columns = answer["columnDefinitions"]
    shown = [i for i, column in enumerate(columns) if wide or not column.get("priority")]
    header = [columns[i]["name"].upper() for i in shown]
    rows = [
        ["" if row["cells"][i] is None else str(row["cells"][i]) for i in shown]
        for row in answer.get("rows") or []
    ]
    if with_namespace:
        header.insert(0, "NAMESPACE")
        for row, raw in zip(rows, answer.get("rows") or [], strict=True):
            row.insert(0, raw["object"]["metadata"].get("namespace", ""))
    if not rows:
        output.say("No resources found.")
        return
    output.answer(output.table(header, rows))
