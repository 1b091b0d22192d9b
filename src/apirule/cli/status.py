"""status and logs: what runs, where, how it is, and what it wrote."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from apirule.apis import core
from apirule.apis.gateway import v2
from apirule.apis.meta import Object
from apirule.cli import instance, output
from apirule.local.processes.launch import SupervisorConnection
from apirule.local.processes.protocol import Message
from apirule.settings import Settings

if TYPE_CHECKING:
    from apirule.kube.client import Client

CONTROL_PLANE = "control-plane"
GATEWAY_NAMESPACE = "istio-system"


class Component(NamedTuple):
    name: str
    state: str
    address: str
    detail: str


@click.command()
@click.option("-o", "--output", "form", type=click.Choice(["table", "json"]), default="table")
def status(form: str) -> int:
    """Show components, addresses and health. Exit code 1: something is not Ready."""
    settings = instance.current()
    with SupervisorConnection(settings.folder.run) as supervisor:
        processes = supervisor.ask("list")["processes"]
    pods, rules, reachable = _objects()
    components = list(_components(settings, processes, pods, rules, reachable=reachable))
    if form == "json":
        output.answer_json(
            {
                "components": [component._asdict() for component in components],
                "gateway": f"https://*.{settings.domain}:{settings.https_port}",
                "issuer": settings.issuer_url,
                "demo": _demo_address(settings, rules),
                "rssBytes": sum(_rss_bytes(process["pid"]) for process in processes),
            }
        )
    else:
        output.answer(output.table(("NAME", "STATE", "ADDRESS", "DETAIL"), components))
    return int(any(component.state != "Ready" for component in components))


def _objects() -> tuple[list[Object], list[Object], bool]:
    from apirule.kube.errors import ApiError

    async def work(client: Client) -> tuple[list[Object], list[Object]]:
        pods = await client.list(core.Pod.gvk)
        rules = await client.list(v2.APIRule.gvk)
        return pods.items, rules.items

    try:
        return *instance.with_client(work), True
    except ApiError:
        return [], [], False


def _components(
    settings: Settings,
    processes: list[Message],
    pods: list[Object],
    rules: list[Object],
    *,
    reachable: bool,
) -> Iterator[Component]:
    control = next((p for p in processes if p["name"] == CONTROL_PLANE), None)
    alive = control is not None and control["state"] == "running"
    pid = f"pid {control['pid']}" if control and alive else "not running"
    yield Component(
        "api-server",
        "Ready" if reachable else "NotReady",
        f"https://127.0.0.1:{settings.api_port}",
        f"{pid}, {output.plural(len(pods), 'Pod')}" if reachable else pid,
    )
    if not reachable:
        return
    states = Counter(rule.get("status", {}).get("state") or "Processing" for rule in rules)
    told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    detail = output.plural(len(rules), "APIRule") + (f": {told}" if told else "")
    yield Component("controller", "Ready", "", detail)
    yield Component("issuer", "Ready", settings.issuer_url, "")
    for pod in sorted(
        pods,
        key=lambda pod: (
            pod["metadata"]["namespace"] != GATEWAY_NAMESPACE,
            pod["metadata"]["namespace"],
        ),
    ):
        yield _pod_component(settings, pod)


def _pod_component(settings: Settings, pod: Object) -> Component:
    meta, state = pod["metadata"], pod.get("status") or {}
    conditions = {c["type"]: c["status"] for c in state.get("conditions") or []}
    ready = conditions.get("Ready") == "True"
    containers = state.get("containerStatuses") or []
    restarts = sum(container.get("restartCount", 0) for container in containers)
    waiting = [
        c["state"]["waiting"]["reason"] for c in containers if "waiting" in c.get("state", {})
    ]
    names = [container["name"] for container in pod["spec"]["containers"]]
    is_gateway = names == ["istio-proxy"]
    address = f"https://*.{settings.domain}:{settings.https_port}" if is_gateway else ""
    details = [
        *(["sidecar, mTLS"] if "istio-proxy" in names and not is_gateway else []),
        *(["no sidecar"] if "istio-proxy" not in names else []),
        *([output.plural(restarts, "restart")] if restarts else []),
        *waiting,
    ]
    return Component(
        f"{meta['namespace']}/{meta['name']}",
        "Ready"
        if ready
        else state.get("phase", "Pending")
        if not ready and waiting == []
        else "NotReady",
        address,
        ", ".join(details),
    )


def _demo_address(settings: Settings, rules: list[Object]) -> str | None:
    names = {(rule["metadata"]["namespace"], rule["metadata"]["name"]) for rule in rules}
    if ("default", "httpbin") not in names:
        return None
    return f"https://httpbin.{settings.domain}:{settings.https_port}/headers"


def _rss_bytes(pid: int) -> int:
    """Return the resident memory of a process and its children, where /proc tells it."""
    try:
        fields = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    own = next((int(line.split()[1]) for line in fields.splitlines() if "VmRSS" in line), 0) * 1024
    children = Path(f"/proc/{pid}/task/{pid}/children")
    if not children.exists():
        return own
    return own + sum(_rss_bytes(int(child)) for child in children.read_text().split())


@click.command()
@click.argument("component", required=False, default=CONTROL_PLANE)
@click.option("-c", "--container", help="Container of a Pod; default: its first.")
@click.option("-f", "--follow", is_flag=True)
@click.option("--tail", type=int, default=-1, help="Only the last lines.")
@click.option("--denied", is_flag=True, help="Only requests that were refused, with the reason.")
def logs(component: str, container: str | None, follow: bool, tail: int, denied: bool) -> int:
    """Print what a component wrote: control-plane, supervisor, gateway, or NAMESPACE/POD."""
    settings = instance.current()
    path = _log_file(settings, component, container)
    lines = _lines(path, follow=follow)
    if tail >= 0 and not follow:
        lines = iter(list(lines)[-tail:] if tail else [])
    for line in lines:
        if denied and not _is_denial(line):
            continue
        sys.stdout.write(line)
        sys.stdout.flush()
    return 0


def _log_file(settings: Settings, component: str, container: str | None) -> Path:
    folder = settings.folder
    plain = folder.logs / f"{component}.log"
    if plain.exists():
        return plain
    namespace, slash, name = component.partition("/")
    if not slash:
        namespace, name = (
            ("istio-system", "istio-ingressgateway")
            if component == "gateway"
            else ("default", component)
        )
    for pod in sorted(folder.pods.glob(f"{namespace}_{name}*"), reverse=True):
        found = sorted(pod.glob(f"{container or '*'}.log"))
        apps = [log for log in found if log.stem != "istio-proxy"] or found
        if apps:
            return apps[0]
    known = sorted(log.stem for log in folder.logs.glob("*.log"))
    pods = sorted(pod.name.replace("_", "/", 1) for pod in folder.pods.glob("*"))
    raise click.UsageError(
        f"There is no log of '{component}'. There are: {', '.join([*known, 'gateway', *pods])}"
    )


def _lines(path: Path, *, follow: bool) -> Iterator[str]:
    if not follow:
        yield from path.read_text(errors="replace").splitlines(keepends=True)
        return
    import subprocess

    command = ["tail", "-n", "+1", "-F", str(path)]
    with subprocess.Popen(  # noqa: S603 - a path of our own state folder
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace"
    ) as process:
        try:
            yield from process.stdout or ()
        finally:
            process.terminate()


def _is_denial(line: str) -> bool:
    try:
        entry: Any = json.loads(line)
    except ValueError:
        return False
    code = entry.get("status") or entry.get("response_code") or 0
    return isinstance(entry, dict) and int(code) in (401, 403, 404)
