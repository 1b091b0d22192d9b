"""What the shell offers after a half-written word. The instance is asked; no answer, no offer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import click

from apirule.cli import instance

if TYPE_CHECKING:
    from apirule.kube.client import Client

PATIENCE_S = 5.0
KINDS = ("apirules", "deployments", "gateways", "namespaces", "pods", "services")
"""What is offered as a kind without asking; any kind the server has is accepted."""


def words(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Offer kinds; after a kind, the names of its objects."""
    from apirule.cli.discovery import find_kind

    before, namespace = ctx.params.get("words") or (), ctx.params.get("namespace") or "default"
    if not before:
        return [kind for kind in KINDS if kind.startswith(incomplete)]

    async def work(client: Client) -> list[str]:
        resource = await find_kind(client, str(before[0]))
        answer = json.loads(await client.read_text(resource.path(namespace)))
        return [item["metadata"]["name"] for item in answer["items"]]

    return [name for name in _ask(ctx, work) if name.startswith(incomplete)]


def workloads(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Offer the workloads of a namespace."""
    namespace = ctx.params.get("namespace") or "default"

    async def work(client: Client) -> list[str]:
        path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
        items = json.loads(await client.read_text(path))["items"]
        return [item["metadata"]["name"] for item in items]

    return [name for name in _ask(ctx, work) if name.startswith(incomplete)]


def components(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Offer what has a log."""
    try:
        with ctx.scope(cleanup=False):
            folder = instance.current().folder
        pods = [pod.name.replace("_", "/", 1) for pod in folder.pods.glob("*")]
    except Exception:  # whatever it is, a shell that completes must not show it
        pods = []
    known = ["control-plane", "supervisor", "gateway", *sorted(pods)]
    return [name for name in known if name.startswith(incomplete)]


def _ask(ctx: click.Context, work: Callable[[Client], Awaitable[list[str]]]) -> list[str]:
    import anyio

    async def soon(client: Client) -> list[str]:
        with anyio.move_on_after(PATIENCE_S):
            return await work(client)
        return []

    try:
        with ctx.scope(cleanup=False):
            return instance.with_client(soon)
    except Exception:  # whatever it is, a shell that completes must not show it
        return []
