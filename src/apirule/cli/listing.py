"""get: list objects or print some of them, in kubectl's forms and columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from apirule import manifest
from apirule.apis.meta import GroupVersionKind, Object
from apirule.cli import completion, discovery, instance, manifests, output
from apirule.cli.objects import namespace_option
from apirule.names import ObjectName

if TYPE_CHECKING:
    from apirule.kube.client import ApiResource, Client

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io, application/json"
TABLES = ("table", "wide")
FORMS = (*TABLES, "json", "yaml", "name")
JSONPATH = "jsonpath="
DEFAULT_KIND = "apirules"


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


class Wanted(NamedTuple):
    """What is asked for of one kind. ``name`` empty: all of them."""

    resource: ApiResource
    gvk: GroupVersionKind
    namespace: str
    name: str
    selector: str

    @property
    def path(self) -> str:
        return self.resource.path(self.namespace, self.name)


@click.command()
@click.argument(
    "words",
    nargs=-1,
    metavar="[KIND[,KIND…] [NAME…] | KIND/NAME…]",
    shell_complete=completion.words,
)
@namespace_option
@click.option("-A", "--all-namespaces", is_flag=True)
@click.option("-l", "--selector", default="", help="Labels, as kubectl takes them.")
@click.option("-w", "--watch", is_flag=True, help="Go on with what changes; ends with Ctrl-C.")
@click.option("-o", "--output", "form", type=Form(), default="table", show_default=True)
@instance.cluster_options
def get(
    words: tuple[str, ...],
    namespace: str,
    all_namespaces: bool,
    selector: str,
    watch: bool,
    form: str,
) -> int:
    """List objects, or print those that are named; without a KIND: APIRules."""
    targets = discovery.targets(words or (DEFAULT_KIND,))
    if any(names for _, names in targets) and (all_namespaces or selector):
        raise click.UsageError("An object's name goes with neither -A nor -l.")
    if watch and (len(targets) > 1 or len(targets[0].names) > 1):
        raise click.UsageError("--watch takes one kind, or one object.")
    show = _printer(form)

    async def work(client: Client) -> int:
        wanted: list[Wanted] = []
        for kind, names in targets:
            resource, gvk = await discovery.find(client, kind)
            where = "" if all_namespaces or not resource.namespaced else namespace
            wanted += [Wanted(resource, gvk, where, name, selector) for name in names or ("",)]
        # Of one object: how old it is says nothing of how far its watch reaches back.
        since = await _now(client, wanted[0]) if watch and wanted[0].name else ""
        answers = [await _read(client, one, form) for one in wanted]
        _print(wanted, answers, form, show, all_namespaces=all_namespaces)
        if watch:
            since = since or answers[0]["metadata"]["resourceVersion"]
            await _watch(client, wanted[0], since, form, show, all_namespaces=all_namespaces)
        return 0

    return instance.with_client(work)


async def _read(client: Client, wanted: Wanted, form: str) -> Object:
    accept = TABLE if form in TABLES else ""
    query = {"labelSelector": wanted.selector} if wanted.selector else {}
    answer: Object = json.loads(await client.read_text(wanted.path, query, accept=accept))
    return answer


def _print(
    wanted: list[Wanted],
    answers: list[Object],
    form: str,
    show: Callable[[Object], None],
    *,
    all_namespaces: bool,
) -> None:
    if form not in TABLES:
        show(answers[0] if len(answers) == 1 else _joined(answers))
        return
    kinds = list(dict.fromkeys(one.gvk for one in wanted))
    shown = False
    for kind in kinds:
        tables = [answer for one, answer in zip(wanted, answers, strict=True) if one.gvk == kind]
        rows = [row for table in tables for row in table.get("rows") or []]
        if not rows:
            continue
        if shown:
            output.answer("")
        namespaced = next(one.resource.namespaced for one in wanted if one.gvk == kind)
        prefix = manifests.label_of_kind(kind) if len(kinds) > 1 else ""
        _print_table(
            {**tables[0], "rows": rows},
            wide=form == "wide",
            with_namespace=all_namespaces and namespaced,
            prefix=prefix,
        )
        shown = True
    if not shown:
        where = f" in {wanted[0].namespace} namespace" if wanted[0].namespace else ""
        output.say(f"No resources found{where}.")


async def _now(client: Client, wanted: Wanted) -> str:
    """Return the resourceVersion as of which the object has not been read yet."""
    field = f"metadata.name={wanted.name}"
    return (await client.list(wanted.gvk, wanted.namespace, field_selector=field)).resource_version


async def _watch(
    client: Client,
    wanted: Wanted,
    version: str,
    form: str,
    show: Callable[[Object], None],
    *,
    all_namespaces: bool,
) -> None:
    """Print what changes after a resourceVersion, each object in the form that was asked for."""
    field = f"metadata.name={wanted.name}" if wanted.name else ""
    while True:
        async with client.watch(
            wanted.gvk,
            wanted.namespace,
            resource_version=version,
            label_selector=wanted.selector,
            field_selector=field,
        ) as events:
            async for event in events:
                meta = event.object["metadata"]
                version = str(meta.get("resourceVersion") or version)
                if event.type == "BOOKMARK":
                    continue
                if form not in TABLES:
                    show(event.object)
                    continue
                name = ObjectName(meta.get("namespace", ""), meta["name"])
                table = None if event.type == "DELETED" else await _row(client, wanted, name)
                if table is None:
                    output.answer(f"{name.name}   deleted")
                else:
                    with_namespace = all_namespaces and wanted.resource.namespaced
                    _print_table(
                        table, wide=form == "wide", with_namespace=with_namespace, header=False
                    )


async def _row(client: Client, wanted: Wanted, name: ObjectName) -> Object | None:
    """Return the table of one object; None: it has gone meanwhile."""
    from apirule.kube.errors import NotFound

    try:
        return await _read(
            client, wanted._replace(namespace=name.namespace, name=name.name), TABLES[0]
        )
    except NotFound:
        return None


def _joined(answers: Iterable[Object]) -> Object:
    """Return one list of all objects, as kubectl makes it."""
    items = [item for answer in answers for item in _items(answer)]
    return {"apiVersion": "v1", "kind": "List", "items": items, "metadata": {}}


def _items(answer: Object) -> list[Object]:
    """Return the objects of a list, each with its type; of anything else, itself."""
    if "items" not in answer:
        return [answer]
    kind = str(answer["kind"]).removesuffix("List")
    typed = {"apiVersion": answer["apiVersion"], "kind": kind} if kind else {}
    return [{**typed, **item} for item in answer["items"] or []]


def _printer(form: str) -> Callable[[Object], None]:
    """Return what prints an answer in a form. UsageError: the jsonpath is not understood."""
    if form.startswith(JSONPATH):
        from apirule.cli.jsonpath import template

        fill = template(form.removeprefix(JSONPATH))
        return lambda answer: click.echo(fill(answer), nl=False)  # as kubectl does

    def show(answer: Object) -> None:
        if form == "json":
            output.answer_json(_without_bookkeeping(answer))
        elif form == "yaml":
            output.answer(manifest.dump([_without_bookkeeping(answer)]).rstrip())
        else:
            for item in _items(answer):
                output.answer(manifests.label(item))

    return show


def _without_bookkeeping(answer: Object) -> Object:
    """Leave out who manages which field, as kubectl does."""
    if "items" in answer:
        return {**answer, "items": [_without_bookkeeping(item) for item in answer["items"] or []]}
    meta = answer.get("metadata")
    if not isinstance(meta, dict):
        return answer
    return {**answer, "metadata": {k: v for k, v in meta.items() if k != "managedFields"}}


def _print_table(
    answer: Mapping[str, Any],
    *,
    wide: bool,
    with_namespace: bool,
    header: bool = True,
    prefix: str = "",
) -> None:
    """Print the rows of a table; ``prefix`` tells kinds apart where there are several."""
    columns = answer["columnDefinitions"]
    shown = [i for i, column in enumerate(columns) if wide or not column.get("priority")]
    titles = [columns[i]["name"].upper() for i in shown]
    rows = [
        ["" if row["cells"][i] is None else str(row["cells"][i]) for i in shown]
        for row in answer.get("rows") or []
    ]
    for row in rows if prefix else ():
        row[0] = f"{prefix}/{row[0]}"
    if with_namespace:
        titles.insert(0, "NAMESPACE")
        for row, raw in zip(rows, answer.get("rows") or [], strict=True):
            row.insert(0, raw["object"]["metadata"].get("namespace", ""))
    text = output.table(titles, rows)
    output.answer(text if header else text.partition("\n")[2])
