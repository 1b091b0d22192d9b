"""Groups of commands that say what an unknown word may have meant."""

from __future__ import annotations

from collections.abc import Iterable

import click


class Group(click.Group):
    """A group whose refusal of an unknown command names the nearest one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(unknown(args[0], self.commands))
        return super().resolve_command(ctx, args)


def unknown(name: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"No such command '{name}'." + (f" Did you mean '{near[0]}'?" if near else "")
