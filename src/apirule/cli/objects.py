"""apply, get, delete: enough of kubectl for those without it, in its words and columns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from apirule import manifest
from apirule.apis.gateway import v2
from apirule.apis.meta import GroupVersionKind, Object, ObjectRef
from apirule.cli import completion, discovery, instance, manifests, output, waiting
from apirule.names import ObjectName

if TYPE_CHECKING:
    from apirule.kube.client import ApiResource, Client

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io, application/json"
FORMS = ("table", "wide", "json", "yaml", "name")
JSONPATH = "jsonpath="

namespace_option = click.option("-n", "--namespace", default="default", show_default=True)
files_option = click.option(
    "-f", "--filename", "files", multiple=True, help="File, folder, URL or - for stdin."
)


class Form(click.ParamType[str]):
    """One of ``FORMS``, or ``jsonpath={…}``."""

    name = "form"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return f"[{'|'.join(FORMS)}|{JSONPATH}…]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if text not in FORMS and not text.startswith(JSONPATH):
            self.fail(f"'{text}' is none of {', '.join(FORMS)}, {JSONPATH}…", param, ctx)
        return text


@click.command()
@files_option
@click.option("--dry-run", is_flag=True, help="Let the server check it, change nothing.")
@click.option("--wait", is_flag=True, help="Return when the APIRules among them are enforced.")
@click.option("--timeout", type=click.FloatRange(0), default=30.0, show_default=True, help="In s.")
@namespace_option
def apply(files: tuple[str, ...], dry_run: bool, wait: bool, timeout: float, namespace: str) -> int:
    """Create or change objects (server-side apply)."""
    if not files:
        raise click.UsageError("Name manifests: -f FILE.")
    objects = manifests.read(files)
    if not objects:
        raise click.ClickException("no objects passed to apply")

    async def work(client: Client) -> int:
        from apirule.kube.errors import ApiError, NoKindMatch, Unreachable

        failures = 0
        for obj in objects:
            try:
                await place(client, obj, namespace)
                await client.apply(obj, dry_run=dry_run, strict=True)
            except Unreachable:
                raise
            except NoKindMatch:
                failures += 1
                output.error(f"{manifests.label(obj)}: {_unserved(obj)}")
            except ApiError as error:
                failures += 1
                output.error(f"{manifests.label(obj)}: {error.message}")
            else:
                output.answer(f"{manifests.label(obj)} {'checked' if dry_run else 'applied'}")
        if failures or dry_run or not wait:
            return int(failures > 0)
        return await waiting.until_enforced(client, _rules(objects), timeout_s=timeout)

    return instance.with_client(work)


@click.command()
@click.argument("kind", shell_complete=completion.kinds)
@click.argument("name", required=False, shell_complete=completion.names)
@namespace_option
@click.option("-A", "--all-namespaces", is_flag=True)
@click.option("-l", "--selector", default="", help="Labels, as kubectl takes them.")
@click.option("-w", "--watch", is_flag=True, help="Go on with what changes; ends with Ctrl-C.")
@click.option("-o", "--output", "form", type=Form(), default="table", show_default=True)
def get(
    kind: str,
    name: str | None,
    namespace: str,
    all_namespaces: bool,
    selector: str,
    watch: bool,
    form: str,
) -> int:
    """List objects of a kind, or print one of them."""
    kind, name = discovery.split(kind, name)
    if name and (all_namespaces or selector):
        raise click.UsageError("An object's name goes with neither -A nor -l.")
    show = _printer(form)

    async def work(client: Client) -> int:
        resource, gvk = await discovery.find(client, kind)
        where = "" if all_namespaces or not resource.namespaced else namespace
        accept = TABLE if form in ("table", "wide") else ""
        query = {"labelSelector": selector} if selector else {}
        path = resource.path(where, name or "")
        answer = json.loads(await client.read_text(path, query, accept=accept))
        with_namespace = all_namespaces and resource.namespaced
        show(answer, with_namespace=with_namespace)
        if watch:
            await _watch(
                client,
                gvk,
                resource,
                ObjectName(where, name or ""),
                selector=selector,
                form=form,
                with_namespace=with_namespace,
            )
        return 0

    return instance.with_client(work)


@click.command()
@click.argument("kind", required=False, shell_complete=completion.kinds)
@click.argument("name", required=False, shell_complete=completion.names)
@files_option
@namespace_option
def delete(kind: str | None, name: str | None, files: tuple[str, ...], namespace: str) -> int:
    """Delete one object, or those of manifests."""
    if kind:
        kind, name = discovery.split(kind, name)
    if bool(files) == bool(kind and name):
        raise click.UsageError("Name an object (KIND NAME) or manifests (-f FILE).")
    objects = manifests.read(files)

    async def work(client: Client) -> int:
        from apirule.kube.errors import NotFound

        if kind:
            gvk = (await discovery.find(client, kind)).gvk
            meta = {"name": str(name)}
            objects.append({"apiVersion": gvk.api_version, "kind": gvk.kind, "metadata": meta})
        missing = 0
        for obj in objects:
            try:
                await place(client, obj, namespace)
                await client.delete(GroupVersionKind.of(obj), ObjectRef.of(obj).object_name)
            except NotFound as error:
                missing += 1
                output.error(f"{manifests.label(obj)}: {error.message}")
            else:
                output.answer(f"{manifests.label(obj)} deleted")
        return int(missing > 0)

    return instance.with_client(work)


async def place(client: Client, obj: Object, namespace: str) -> None:
    """Give an object of a namespaced kind the namespace it does not name."""
    resource = await client.resource(GroupVersionKind.of(obj))
    if resource.namespaced:
        obj["metadata"].setdefault("namespace", namespace)


def _rules(objects: list[Object]) -> list[ObjectName]:
    refs = [ObjectRef.of(obj) for obj in objects]
    return [ref.object_name for ref in refs if (ref.group, ref.kind) == (v2.GROUP, "APIRule")]


def _unserved(obj: Object) -> str:
    """Say more than "no such kind" of what is not served."""
    from apirule.cli import checking

    problem = checking.unserved(GroupVersionKind.of(obj), checking.served())
    return f"{problem.message}. {problem.fix}"


async def _watch(
    client: Client,
    gvk: GroupVersionKind,
    resource: ApiResource,
    target: ObjectName,
    *,
    selector: str,
    form: str,
    with_namespace: bool,
) -> None:
    """Print what changes from now on, each object in the form that was asked for."""
    from apirule.kube.errors import NotFound

    field = f"metadata.name={target.name}" if target.name else ""
    listing = await client.list(
        gvk, target.namespace, label_selector=selector, field_selector=field
    )
    show, version = _printer(form), listing.resource_version
    while True:
        async with client.watch(
            gvk,
            target.namespace,
            resource_version=version,
            label_selector=selector,
            field_selector=field,
        ) as events:
            async for event in events:
                meta = event.object["metadata"]
                version = str(meta.get("resourceVersion") or version)
                if event.type == "BOOKMARK":
                    continue
                if form not in ("table", "wide"):
                    show(event.object, with_namespace=with_namespace)
                    continue
                path = resource.path(meta.get("namespace", ""), meta["name"])
                try:
                    row = (
                        {}
                        if event.type == "DELETED"
                        else await client.read_text(path, accept=TABLE)
                    )
                except NotFound:
                    row = {}
                if row:
                    _print_table(
                        json.loads(str(row)),
                        wide=form == "wide",
                        with_namespace=with_namespace,
                        header=False,
                    )
                else:
                    output.answer(f"{meta['name']}   deleted")


def _printer(form: str) -> Any:
    """Return what prints an answer in a form. UsageError: the jsonpath is not understood."""
    if form.startswith(JSONPATH):
        from apirule.cli.jsonpath import template

        fill = template(form.removeprefix(JSONPATH))
        return lambda answer, **_: click.echo(fill(answer), nl=False)  # as kubectl does

    def show(answer: Object, *, with_namespace: bool) -> None:
        if form == "json":
            output.answer_json(answer)
        elif form == "yaml":
            output.answer(manifest.dump([answer]).rstrip())
        elif form == "name":
            kind = str(answer["kind"]).removesuffix("List")
            for item in answer.get("items", [answer]):
                typed = {"apiVersion": answer["apiVersion"], "kind": kind, **item}
                output.answer(manifests.label(typed))
        else:
            _print_table(answer, wide=form == "wide", with_namespace=with_namespace)

    return show


def _print_table(
    answer: Mapping[str, Any], *, wide: bool, with_namespace: bool, header: bool = True
) -> None:
    columns = answer["columnDefinitions"]
    shown = [i for i, column in enumerate(columns) if wide or not column.get("priority")]
    titles = [columns[i]["name"].upper() for i in shown]
    rows = [
        ["" if row["cells"][i] is None else str(row["cells"][i]) for i in shown]
        for row in answer.get("rows") or []
    ]
    if with_namespace:
        titles.insert(0, "NAMESPACE")
        for row, raw in zip(rows, answer.get("rows") or [], strict=True):
            row.insert(0, raw["object"]["metadata"].get("namespace", ""))
    if not rows:
        output.say("No resources found.")
        return
    text = output.table(titles, rows)
    output.answer(text if header else text.partition("\n")[2])
