"""run and stop: a program as a workload behind its own Envoy."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click

from apirule import settings as settings_module
from apirule.apis import core
from apirule.apis.meta import GroupVersionKind, Object
from apirule.cli import instance, output
from apirule.names import ObjectName

if TYPE_CHECKING:
    from apirule.kube.client import Client

DEPLOYMENT = GroupVersionKind("apps", "v1", "Deployment")
EXIT_TIMEOUT = 5
FOUND_BY = ("PATH", "HOME", "LANG", "LC_ALL", "VIRTUAL_ENV", "PYTHONPATH")

namespace_option = click.option("-n", "--namespace", default="default", show_default=True)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("name")
@click.option("--port", type=click.IntRange(1, 65535), required=True, help="Where it listens.")
@click.option("--service", "service_port", type=click.IntRange(1, 65535), help="Service port.")
@click.option("--no-sidecar", is_flag=True, help="Without Envoy: neither mTLS nor policies.")
@click.option("-e", "--env", "given", multiple=True, metavar="NAME[=VALUE]", help="Environment.")
@click.option("--wait", default=60, show_default=True, help="Seconds to wait; 0: do not.")
@namespace_option
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD…")
def run(
    name: str,
    port: int,
    service_port: int | None,
    no_sidecar: bool,
    given: tuple[str, ...],
    wait: int,
    namespace: str,
    argv: tuple[str, ...],
) -> int:
    """Start a program that listens on 127.0.0.1:PORT, and register its Service."""
    from apirule.kube.errors import ApiError
    from apirule.local.workloads.run import objects_for

    objects = objects_for(
        name,
        namespace,
        port=port,
        service_port=service_port,
        argv=argv,
        cwd=str(Path.cwd()),
        env=_environment(given),
        sidecar=not no_sidecar,
    )

    async def work(client: Client) -> int:
        for obj in objects:
            await client.apply(obj)
        if not wait:
            return 0
        with anyio.move_on_after(wait):
            await _available(client, ObjectName(namespace, name))
            sidecar = "no sidecar" if no_sidecar else "sidecar ready"
            service = f"Service {namespace}/{name}:{service_port or port}"
            output.answer(f"{name}: workload started, {sidecar}, {service}")
            return 0
        output.say(f"{name} is not ready after {wait} s: see `apirule logs {namespace}/{name}`")
        return EXIT_TIMEOUT

    try:
        return instance.with_client(work)
    except ApiError as error:
        output.say(f"{click.style('error', fg='red')}: {error.message}")
        return 1


@click.command()
@click.argument("name")
@namespace_option
def stop(name: str, namespace: str) -> int:
    """End a workload that `run` started, and remove its Service."""
    from apirule.kube.errors import ApiError, NotFound

    async def work(client: Client) -> int:
        target = ObjectName(namespace, name)
        try:
            await client.delete(DEPLOYMENT, target)
        except NotFound:
            output.say(f"There is no workload {target}.")
            return 1
        with suppress(NotFound):
            await client.delete(core.Service.gvk, target)
        output.answer(f"{name}: stopped")
        return 0

    try:
        return instance.with_client(work)
    except ApiError as error:
        output.say(f"{click.style('error', fg='red')}: {error.message}")
        return 1


def _environment(given: tuple[str, ...]) -> dict[str, str]:
    """Return what a program needs to be found and to start, and what was asked for.

    The rest of the environment stays here: it may hold secrets, and all may read a Deployment.
    """
    own = settings_module.environment()
    chosen = {name: own[name] for name in FOUND_BY if name in own}
    for word in given:
        name, equals, value = word.partition("=")
        if not equals and name not in own:
            raise click.UsageError(f"The variable {name} is not set here; write {name}=VALUE.")
        chosen[name] = value if equals else own[name]
    return chosen


async def _available(client: Client, name: ObjectName) -> None:
    listing = await client.list(
        DEPLOYMENT, name.namespace, field_selector=f"metadata.name={name.name}"
    )
    if any(_is_available(obj) for obj in listing.items):
        return
    async with client.watch(
        DEPLOYMENT,
        name.namespace,
        resource_version=listing.resource_version,
        field_selector=f"metadata.name={name.name}",
    ) as events:
        async for event in events:
            if event.type != "BOOKMARK" and _is_available(event.object):
                return


def _is_available(deployment: Object) -> bool:
    status = deployment.get("status") or {}
    current = status.get("observedGeneration") == deployment["metadata"].get("generation")
    wanted = deployment["spec"].get("replicas", 1)
    counts = (status.get("updatedReplicas"), status.get("availableReplicas"))
    return bool(current and counts == (wanted, wanted))
