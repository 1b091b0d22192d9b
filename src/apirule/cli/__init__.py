"""The commands. Each is imported when it runs, so that ``--help`` stays fast.

stdout carries the answer, stderr everything else. Exit codes: 0 done; 1 failed, or findings;
2 wrong usage; 3 the surroundings lack something; 4 credentials; 5 time ran out; 22 as curl's;
130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import click

from apirule.cli import groups, mishaps


class Entry(NamedTuple):
    module: str
    summary: str


SECTIONS: Mapping[str, Mapping[str, Entry]] = {
    "This machine": {
        "up": Entry("lifecycle", "Start everything on this machine; return when ready."),
        "down": Entry("lifecycle", "Stop it; --purge also deletes data and keys."),
        "status": Entry("status", "Components, addresses, health."),
        "logs": Entry("logs", "What a component, a workload or its sidecar wrote."),
        "doctor": Entry("doctor", "Check the surroundings; each finding with its fix."),
    },
    "Workloads": {
        "run": Entry("workloads", "Start a program as a workload behind a sidecar."),
        "stop": Entry("workloads", "End a workload that `run` started."),
        "restart": Entry("workloads", "Restart a workload, or a component."),
    },
    "Objects": {
        "apply": Entry("objects", "Create or change objects from manifests."),
        "get": Entry("listing", "List objects, or print one."),
        "describe": Entry("changes", "Print an object without bookkeeping, and its events."),
        "delete": Entry("objects", "Delete objects."),
        "diff": Entry("changes", "Print what `apply` would change."),
        "wait": Entry("waiting", "Wait until an object is as it is wanted."),
        "validate": Entry("offline", "Find every mistake of manifests before they are applied."),
        "render": Entry("offline", "Print what a manifest becomes: Istio resources or Envoy's."),
    },
    "Access": {
        "token": Entry("token", "Get, inspect and forge tokens of the development issuer."),
        "curl": Entry("curl", "The real curl with our CA, addresses and a token."),
        "env": Entry("environment", "Print `export` lines for tutorials and kubectl."),
        "kubeconfig": Entry("environment", "Print the kubeconfig."),
    },
    "About": {
        "version": Entry("environment", "Print the versions."),
        "completion": Entry("environment", "Print the completion script of a shell."),
    },
}
TRACEBACKS = 2
"""So many -v ask for tracebacks."""

HIDDEN = {"control-plane": Entry("lifecycle", "What the supervisor runs.")}
COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


class LazyGroup(click.Group):
    """A group that knows its commands by name and one line, and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name) or HIDDEN.get(cmd_name)
        if entry is None:
            return None
        module = importlib.import_module(f"apirule.cli.{entry.module}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and args[0] not in HIDDEN:
            ctx.fail(groups.unknown(args[0], COMMANDS))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.summary) for name, entry in commands.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--state", metavar="DIR", help="The state folder: another folder, another instance.")
@click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    help="Colours; NO_COLOR and FORCE_COLOR are obeyed.",
)
@click.option("-q", "--quiet", is_flag=True, help="Say only answers and errors.")
@click.option("-v", "--verbose", count=True, help="Twice: tracebacks.")
@click.pass_context
def cli(ctx: click.Context, /, color: str, verbose: int, **_: object) -> None:
    """Expose a Service and secure it with JWT from one small resource.

    Start with: apirule up --demo
    """
    ctx.color = _wants_color(color)
    # `main` hands in a dict: errors are told after the context has ended, and as it asked for.
    ctx.ensure_object(dict).update(context=ctx, tracebacks=verbose >= TRACEBACKS)


def _wants_color(choice: str) -> bool | None:
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR"):  # noqa: TID251 - a convention of terminals, not a setting
        return False
    if os.environ.get("FORCE_COLOR"):  # noqa: TID251 - likewise
        return True
    return None


def main(args: list[str] | None = None) -> None:
    """Run a command and end the process with its exit code."""
    wishes: dict[str, Any] = {}
    try:
        outcome: Any = cli.main(args=args, prog_name="apirule", standalone_mode=False, obj=wishes)
        sys.stdout.flush()
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        # The reader has had enough; what is left in the buffer has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        context = wishes.get("context") or click.Context(cli, color=_wants_color("auto"))
        with context.scope(cleanup=False):
            code = mishaps.tell(error, traceback=bool(wishes.get("tracebacks")))
        sys.exit(code)
    sys.exit(outcome if isinstance(outcome, int) else 0)
