"""run and stop: a program as a workload behind its own Envoy."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import click

from apirule import settings as settings_module
from apirule.apis import core
from apirule.apis.meta import GroupVersionKind, Object, ObjectRef
from apirule.cli import completion, instance, output
from apirule.local.processes.launch import SupervisorConnection
from apirule.local.workloads.run import labels_of, made_by_run, objects_for
from apirule.names import ObjectName
from apirule.problem import SetupError

if TYPE_CHECKING:
    from apirule.kube.client import Client

DEPLOYMENT = GroupVersionKind("apps", "v1", "Deployment")
EXIT_TIMEOUT = 5
CONTROL_PLANE = "control-plane"
GATEWAY = ObjectName("istio-system", "istio-ingressgateway")
RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
"""As `kubectl rollout restart` writes it."""
FOUND_BY = ("PATH", "HOME", "LANG", "LC_ALL", "VIRTUAL_ENV", "PYTHONPATH")

namespace_option = click.option("-n", "--namespace", default="default", show_default=True)


class ServicePort(click.ParamType[tuple[int, int | None]]):
    """``N`` or ``N:P``: the port of the Service, and where it leads."""

    name = "port"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int | None]:
        port, colon, target = str(value).partition(":")
        numbers = [port, target] if colon else [port]
        if not all(one.isdecimal() and 0 < int(one) < 1 << 16 for one in numbers):
            self.fail(f"'{value}' is no port; write 80 or 80:9000", param, ctx)
        return int(port), int(target) if colon else None


@click.command()
@click.argument("name")
@click.option("--port", type=click.IntRange(1, 65535), required=True, help="Where it listens.")
@click.option("--service", type=ServicePort(), metavar="N[:P]", help="Port of the Service.")
@click.option("--no-sidecar", is_flag=True, help="Without Envoy: neither mTLS nor policies.")
@click.option("-e", "--env", "given", multiple=True, metavar="NAME[=VALUE]", help="Environment.")
@click.option("--wait", default=60.0, show_default=True, help="Seconds to wait; 0: do not.")
@namespace_option
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD…")
def run(
    name: str,
    port: int,
    service: tuple[int, int | None] | None,
    no_sidecar: bool,
    given: tuple[str, ...],
    wait: float,
    namespace: str,
    argv: tuple[str, ...],
) -> int:
    """Start a program that listens on 127.0.0.1:PORT, and register its Service.

    --service 80:9000 gives the Service port 80, which leads to port 9000; by default both are PORT.
    """
    service_port, target = service or (port, None)
    if target not in (None, port):
        raise click.UsageError(f"--service leads to {target}, but the program listens on {port}.")
    try:
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
    except SetupError as error:
        raise click.UsageError(f"{error.message} {error.fix}") from error

    async def work(client: Client) -> int:
        if strangers := await _strangers(client, objects):
            for obj in strangers:
                output.error(
                    f"There is a {obj['kind']} {namespace}/{name} already, and not by `run`.",
                    "Choose another name, or delete it first: "
                    f"{_delete(obj['kind'], ObjectName(namespace, name))}",
                )
            return 1
        for obj in objects:
            await client.apply(obj)
        if not wait:
            return 0
        if code := await _until_ready(client, ObjectName(namespace, name), wait):
            end = f"apirule stop {name}{_where(namespace)}"
            output.hint(f"It is started again and again; end it: {end}")
            return code
        sidecar = "no sidecar" if no_sidecar else "sidecar ready"
        service = f"Service {namespace}/{name}:{service_port}"
        output.answer(f"{name}: workload started, {sidecar}, {service}")
        return 0

    return instance.with_client(work)


@click.command()
@click.argument("name", shell_complete=completion.workloads)
@click.option("--wait", default=60.0, show_default=True, help="Seconds to wait; 0: do not.")
@namespace_option
def stop(name: str, wait: float, namespace: str) -> int:
    """End a workload that `run` started, and remove its Service. Others are left alone.

    Ended means that nothing of it runs any more: its port is free.
    """
    from apirule.cli import waiting
    from apirule.kube.errors import NotFound

    async def work(client: Client) -> int:
        target = ObjectName(namespace, name)
        try:
            workload = await client.get(DEPLOYMENT, target)
        except NotFound:
            output.error(f"There is no workload {target}.", "See them: apirule get deployments")
            return 1
        if not made_by_run(workload):
            output.error(
                f"Deployment {target} was not made by `run`.",
                f"If you mean it: {_delete('Deployment', target)}",
            )
            return 1
        for gvk in (DEPLOYMENT, core.Service.gvk):
            with suppress(NotFound):
                found = await client.get(gvk, target)
                if made_by_run(found):
                    await client.delete(gvk, target, uid=found["metadata"]["uid"])
        if not wait:
            output.answer(f"{name}: is being stopped")
            return 0
        own = ",".join(f"{k}={v}" for k, v in labels_of(name).items())
        with anyio.move_on_after(wait):
            for pod in (await client.list(core.Pod.gvk, namespace, label_selector=own)).items:
                ended = ObjectRef.of(pod).object_name
                await waiting.until(client, core.Pod.gvk, ended, lambda obj: obj is None)
            output.answer(f"{name}: stopped")
            return 0
        see = f"It is still being ended: kubectl describe pods -l app={name} -n {namespace}"
        output.error(f"{name} has not ended after {wait:g} s.", see)
        return EXIT_TIMEOUT

    return instance.with_client(work)


@click.command()
@click.argument("name", shell_complete=completion.workloads)
@click.option("--wait", default=60.0, show_default=True, help="Seconds to wait; 0: do not.")
@namespace_option
def restart(name: str, wait: float, namespace: str) -> int:
    """Replace a workload's Pod by a fresh one, or start a component anew.

    Components are control-plane and gateway; requests go on meanwhile where they can.
    """
    if name == CONTROL_PLANE:
        return _restart_control_plane(wait)
    target = GATEWAY if name == "gateway" else ObjectName(namespace, name)

    async def work(client: Client) -> int:
        from apirule.kube.errors import NotFound

        at = datetime.now(UTC).isoformat()  # noqa: TID251 - this command is where the clock is read
        meta = {"annotations": {RESTARTED_AT: at}}
        try:
            await client.patch(DEPLOYMENT, target, {"spec": {"template": {"metadata": meta}}})
        except NotFound:
            output.error(f"There is no workload {target}.", "See them: apirule get deployments -A")
            return 1
        if not wait:
            return 0
        if code := await _until_ready(client, target, wait):
            return code
        output.answer(f"{name}: restarted")
        return 0

    return instance.with_client(work)


async def _strangers(client: Client, objects: list[Object]) -> list[Object]:
    """Return what stands under the names of the objects and was made by somebody else."""
    from apirule.kube.errors import NotFound

    found = []
    for obj in objects:
        with suppress(NotFound):
            found.append(await client.get(GroupVersionKind.of(obj), ObjectRef.of(obj).object_name))
    return [obj for obj in found if not made_by_run(obj)]


def _delete(kind: str, name: ObjectName) -> str:
    return f"apirule delete {kind.lower()} {name.name}{_where(name.namespace)}"


def _where(namespace: str) -> str:
    return "" if namespace == "default" else f" -n {namespace}"


def _restart_control_plane(wait_s: float) -> int:
    run = instance.current().folder.run
    patience = SupervisorConnection(run, timeout_s=max(wait_s, 1.0))
    with SupervisorConnection(run) as asking, patience as watching:
        watching.ask("subscribe")
        asking.ask("restart", name=CONTROL_PLANE)
        if wait_s and not _is_up_again(watching):
            output.error(f"{CONTROL_PLANE} is not ready.", "See `apirule logs`.")
            return EXIT_TIMEOUT
    output.answer(f"{CONTROL_PLANE}: restarted")
    return 0


def _is_up_again(supervisor: SupervisorConnection) -> bool:
    try:
        for event in supervisor.events():
            state = event.get("progress", {}).get("state")
            if state in ("ready", "failed"):
                return bool(state == "ready")
    except TimeoutError:
        pass
    return False


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


async def _until_ready(client: Client, name: ObjectName, wait_s: float) -> int:
    """Wait until a workload is ready. Returns the exit code; what keeps it from that is said."""
    from apirule.cli import hindrances

    found = await hindrances.until_ready(client, name, _is_available, within_s=wait_s)
    if found is None:
        return 0
    see = f"See `apirule logs {name}` and `kubectl describe pods -n {name.namespace}`."
    output.error(f"{name.name}: {found.text.removesuffix('.')}.", see)
    return 1 if found.lasting else EXIT_TIMEOUT


def _is_available(deployment: Object) -> bool:
    status = deployment.get("status") or {}
    current = status.get("observedGeneration") == deployment["metadata"].get("generation")
    wanted = deployment["spec"].get("replicas", 1)
    counts = (status.get("updatedReplicas"), status.get("availableReplicas"))
    return bool(current and counts == (wanted, wanted))
