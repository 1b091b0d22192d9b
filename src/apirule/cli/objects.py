"""apply and delete: enough of kubectl for those without it, in its words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from apirule.apis.gateway import v2
from apirule.apis.meta import GroupVersionKind, Object, ObjectRef
from apirule.cli import completion, discovery, instance, manifests, output, waiting
from apirule.names import ObjectName

if TYPE_CHECKING:
    from apirule.kube.client import Client

namespace_option = click.option("-n", "--namespace", default="default", show_default=True)
files_option = click.option(
    "-f", "--filename", "files", multiple=True, help="File, folder, URL or - for stdin."
)


@click.command()
@files_option
@click.option("--dry-run", is_flag=True, help="Let the server check it, change nothing.")
@click.option("--wait", is_flag=True, help="Return when the APIRules among them are enforced.")
@click.option("--timeout", type=click.FloatRange(0), default=30.0, show_default=True, help="In s.")
@namespace_option
@instance.cluster_options
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
            except ApiError as error:
                failures += 1
                ours = isinstance(error, NoKindMatch) and not instance.is_elsewhere()
                why = _unserved(obj) if ours else error.message
                output.error(f"{manifests.label(obj)}: {why}")
            else:
                output.answer(f"{manifests.label(obj)} {'checked' if dry_run else 'applied'}")
        if failures or dry_run or not wait:
            return int(failures > 0)
        return await waiting.until_enforced(client, _rules(objects), timeout_s=timeout)

    return instance.with_client(work)


@click.command()
@click.argument(
    "words", nargs=-1, metavar="[KIND NAME… | KIND/NAME…]", shell_complete=completion.words
)
@files_option
@namespace_option
@instance.cluster_options
def delete(words: tuple[str, ...], files: tuple[str, ...], namespace: str) -> int:
    """Delete objects, by name or those of manifests."""
    targets = discovery.targets(words) if words else []
    if bool(files) == bool(targets) or not all(names for _, names in targets):
        raise click.UsageError("Name objects (KIND NAME…) or manifests (-f FILE).")
    objects = manifests.read(files)

    async def work(client: Client) -> int:
        from apirule.kube.errors import NotFound

        for kind, names in targets:
            gvk = (await discovery.find(client, kind)).gvk
            typed = {"apiVersion": gvk.api_version, "kind": gvk.kind}
            objects.extend({**typed, "metadata": {"name": name}} for name in names)
        if not objects:
            output.say("No resources found.")
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
