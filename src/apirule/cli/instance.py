"""Which instance a command means, and what must be running for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import click

from apirule import settings as settings_module
from apirule.problem import SetupError

if TYPE_CHECKING:
    from apirule.kube.client import Client
    from apirule.settings import Settings

T = TypeVar("T")
START_IT = "Start it: apirule up"


def current() -> Settings:
    """Return the settings of the instance that ``--state`` (or its default) names."""
    state = (click.get_current_context().find_root().obj or {}).get("state")
    return settings_module.of_instance(state)


def not_running() -> SetupError:
    return SetupError("apirule is not running.", START_IT)


def with_client(work: Callable[[Client], Awaitable[T]]) -> T:
    """Run ``work`` with a client of the instance's API server. SetupError: it does not run."""
    import anyio

    from apirule.kube.client import Client
    from apirule.kube.config import KubeConfig

    folder = current().folder
    if not folder.kubeconfig.exists():
        raise not_running()

    async def run() -> T:
        async with Client(KubeConfig.load(folder.kubeconfig)) as client:
            return await work(client)

    try:
        return anyio.run(run)
    except OSError as error:
        raise not_running() from error
