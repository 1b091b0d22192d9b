"""Which instance a command means, and what must be running for it."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from apirule import settings as settings_module
from apirule.cli import output
from apirule.problem import SetupError

if TYPE_CHECKING:
    from apirule.kube.client import Client
    from apirule.kube.config import KubeConfig
    from apirule.settings import Settings

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
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
        "It may be starting again: see `apirule logs`. If it hangs: apirule restart control-plane",
    )


def cluster_options(command: F) -> F:
    """Let a command name another cluster than the instance, as kubectl's commands do."""
    for option in (
        click.option(
            "--kubeconfig",
            metavar="FILE",
            expose_value=False,
            callback=_remember,
            help="Of another cluster.",
        ),
        click.option(
            "--context",
            metavar="NAME",
            expose_value=False,
            callback=_remember,
            help="Of that file, or of the one that kubectl reads.",
        ),
    ):
        command = option(command)
    return command


def with_client(work: Callable[[Client], Awaitable[T]]) -> T:
    """Run ``work`` with a client of the cluster that is meant. SetupError: it does not answer."""
    import anyio
    import structlog

    from apirule.kube.client import ANSWER_WITHIN_S as PATIENCE_S
    from apirule.kube.client import Client
    from apirule.kube.config import KubeConfig
    from apirule.kube.errors import Unreachable

    structlog.configure(processors=[_only_warnings])
    other = _other_cluster()
    settings = current() if other else started()
    config = other or KubeConfig.load(settings.folder.kubeconfig)
    patience_s = PATIENCE_S if other else ANSWER_WITHIN_S

    async def run() -> T:
        async with Client(config, answer_within_s=patience_s) as client:
            return await work(client)

    try:
        return anyio.run(run)
    except Unreachable as error:
        if other is None:
            raise not_answering(settings) from error
        raise SetupError(
            f"The API server {config.server} does not answer: {error.message}.",
            "Look at --kubeconfig and --context.",
        ) from error


def is_elsewhere() -> bool:
    """Whether the command is about another cluster than the instance."""
    meta = click.get_current_context().meta
    return bool(meta.get("apirule.kubeconfig") or meta.get("apirule.context"))


def _remember(context: click.Context, option: click.Parameter, value: str | None) -> None:
    context.meta[f"apirule.{option.name}"] = value


def _other_cluster() -> KubeConfig | None:
    """Return the cluster that --kubeconfig and --context name; None: the instance is meant."""
    from apirule.cli import kubeconfigs
    from apirule.kube.config import KubeConfig

    if not is_elsewhere():
        return None
    meta = click.get_current_context().meta
    file, context = meta.get("apirule.kubeconfig"), meta.get("apirule.context")
    path = Path(file) if file else kubeconfigs.target(settings_module.environment())
    return KubeConfig.load(path, context=context)


def _only_warnings(_: Any, __: str, event: Any) -> str:
    """Say what the API server warns of as kubectl does; drop the rest."""
    import structlog

    if event["event"] == "api server warned":
        output.warn(event["text"])
    raise structlog.DropEvent
