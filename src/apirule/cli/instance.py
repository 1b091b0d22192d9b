"""Which instance a command means, and what must be running for it."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from apirule import settings as settings_module
from apirule.cli import output
from apirule.problem import SetupError

if TYPE_CHECKING:
    from apirule.kube.client import Client
    from apirule.settings import Settings

T = TypeVar("T")
START_IT = "Start it: apirule up"
ANSWER_WITHIN_S = 5.0
"""On one machine an API server that takes longer hangs."""


def state() -> str | None:
    """Return what ``--state`` says; None: it was not given."""
    found: str | None = click.get_current_context().find_root().params.get("state")
    return found


def current() -> Settings:
    """Return the settings of the instance that ``--state`` (or its default) names."""
    return settings_module.of_instance(state())


def started() -> Settings:
    """Return the settings of an instance that was started. SetupError: it never was."""
    settings = current()
    if not settings.folder.kubeconfig.exists():
        raise not_running()
    return settings


def is_running(settings: Settings) -> bool:
    """Say whether a supervisor answers; a killed one leaves its socket behind."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(settings.folder.supervisor_socket))
        except OSError:
            return False
    return True


def not_running() -> SetupError:
    return SetupError("apirule is not running.", START_IT)


def not_answering(settings: Settings) -> SetupError:
    """Tell a stopped instance from one whose API server is down."""
    if not is_running(settings):
        return not_running()
    return SetupError(
        "The API server does not answer.",
        "It may be starting again: see `apirule status` and `apirule logs`.",
    )


def with_client(work: Callable[[Client], Awaitable[T]]) -> T:
    """Run ``work`` with a client of the instance's API server. SetupError: it does not run."""
    import anyio
    import structlog

    from apirule.kube.client import Client
    from apirule.kube.config import KubeConfig
    from apirule.kube.errors import Unreachable

    settings = started()
    structlog.configure(processors=[_only_warnings])

    async def run() -> T:
        config = KubeConfig.load(settings.folder.kubeconfig)
        async with Client(config, answer_within_s=ANSWER_WITHIN_S) as client:
            return await work(client)

    try:
        return anyio.run(run)
    except Unreachable as error:
        raise not_answering(settings) from error


def _only_warnings(_: Any, __: str, event: Any) -> str:
    """Say what the API server warns of as kubectl does; drop the rest."""
    import structlog

    if event["event"] == "api server warned":
        output.warn(event["text"])
    raise structlog.DropEvent
