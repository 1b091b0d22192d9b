"""wait: until an object is as it is wanted, watched and not polled."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
import click

from apirule.apis.gateway import v2
from apirule.apis.meta import GroupVersionKind, Object
from apirule.cli import completion, discovery, instance, output
from apirule.names import ObjectName

if TYPE_CHECKING:
    from apirule.kube.client import Client

EXIT_TIMEOUT = 5
Condition = Callable[[Object | None], bool]
"""Told the object as it is now; None when it does not exist."""


@click.command()
@click.argument("words", nargs=-1, metavar="KIND NAME | KIND/NAME", shell_complete=completion.words)
@click.option(
    "--for",
    "wanted",
    required=True,
    metavar="condition=NAME[=VALUE]|jsonpath={PATH}=VALUE|delete|create",
    help="What to wait for.",
)
@click.option("--timeout", type=click.FloatRange(0), default=30.0, show_default=True, help="In s.")
@click.option("-n", "--namespace", default="default", show_default=True)
@instance.cluster_options
def wait(words: tuple[str, ...], wanted: str, timeout: float, namespace: str) -> int:
    """Wait until an object is as it is wanted. Exit code 5: time ran out."""
    kind, name = discovery.one(words)
    condition = parse(wanted)

    async def work(client: Client) -> int:
        resource, gvk = await discovery.find(client, kind)
        target = ObjectName(namespace if resource.namespaced else "", name)
        with anyio.move_on_after(timeout):
            await until(client, gvk, target, condition)
            output.answer(f"{resource.plural}/{name} condition met")
            return 0
        output.error(
            f"timed out after {timeout:g} s waiting for {wanted} of {resource.plural}/{name}"
        )
        return EXIT_TIMEOUT

    return instance.with_client(work)


def parse(wanted: str) -> Condition:
    """Read what is waited for. UsageError: it is not understood."""
    if wanted == "delete":
        return lambda obj: obj is None
    if wanted == "create":
        return lambda obj: obj is not None
    kind, _, rest = wanted.partition("=")
    if kind == "condition" and rest:
        name, _, value = rest.partition("=")
        return lambda obj: obj is not None and _condition(obj, name) == (value or "True").lower()
    if kind == "jsonpath" and rest:
        from apirule.cli.jsonpath import template

        path, equals, value = rest.rpartition("}=") if "}=" in rest else (rest, "", "")
        fill = template(path + "}" if equals else path)
        value = value.strip("'\"")
        return lambda obj: obj is not None and (fill(obj) == value if equals else bool(fill(obj)))
    raise click.UsageError(
        f"--for={wanted} is not understood; write condition=Ready, "
        "jsonpath='{.status.state}'=Ready, delete or create."
    )


async def until(
    client: Client, gvk: GroupVersionKind, target: ObjectName, condition: Condition
) -> None:
    """Return when the condition holds."""
    field = f"metadata.name={target.name}"
    while True:
        listing = await client.list(gvk, target.namespace, field_selector=field)
        if condition(listing.items[0] if listing.items else None):
            return
        async with client.watch(
            gvk,
            target.namespace,
            resource_version=listing.resource_version,
            field_selector=field,
        ) as events:
            async for event in events:
                if event.type == "BOOKMARK":
                    continue
                if condition(None if event.type == "DELETED" else event.object):
                    return


async def until_enforced(client: Client, rules: list[ObjectName], *, timeout_s: float) -> int:
    """Wait until each APIRule is Ready. Returns the exit code; the last states are said."""
    states: dict[ObjectName, str] = {}

    def is_ready(name: ObjectName) -> Condition:
        def check(obj: Object | None) -> bool:
            status: dict[str, Any] = (obj or {}).get("status") or {}
            current = status.get("observedGeneration", 0) or _generation(status)
            state = status.get("state") or "Processing"
            states[name] = f"{state}: {status.get('description', '')}".rstrip(": ")
            generation = (obj or {}).get("metadata", {}).get("generation")
            return state == "Ready" and current in (0, generation)

        return check

    with anyio.move_on_after(timeout_s):
        for name in rules:
            await until(client, v2.APIRule.gvk, name, is_ready(name))
        return 0
    for name in rules:
        if not states.get(name, "").startswith("Ready"):
            output.error(f"APIRule {name} is not Ready after {timeout_s:g} s: {states.get(name)}")
    return EXIT_TIMEOUT


def _generation(status: dict[str, Any]) -> int:
    """Return the generation that the conditions speak of; 0 when they do not say."""
    found = [c.get("observedGeneration") or 0 for c in status.get("conditions") or []]
    return min(found, default=0)


def _condition(obj: Object, name: str) -> str:
    conditions = (obj.get("status") or {}).get("conditions") or []
    found = (c["status"] for c in conditions if str(c["type"]).lower() == name.lower())
    return str(next(found, "")).lower()
