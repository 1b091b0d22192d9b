"""docs/reference/cli.md is made from the commands; ``pytest --update-golden`` writes it."""

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from apirule.cli import SECTIONS, cli

PAGE = Path(__file__).parents[3] / "docs/reference/cli.md"
HEAD = """\
# Command line

`apirule COMMAND --help` says the same. stdout carries the answer, stderr everything else, so that
commands can be piped; `-o json` is stable, tables are for people.

| exit code | meaning |
|---|---|
| 0 | done; no findings |
| 1 | failed; an error found (`validate`, `doctor`); not Ready (`status`); a difference (`diff`) |
| 2 | wrong usage; a file that cannot be read |
| 3 | nothing runs here, or the surroundings lack something |
| 4 | credentials are needed, or were refused |
| 5 | time ran out while waiting |
| 130 | interrupted |

`curl` ends with the code of curl: 22 for an HTTP status of 400 and more with `--fail`.

`NO_COLOR` and `FORCE_COLOR` are obeyed. Settings can also come from variables and a file: see
[settings](settings.md).
"""


def page() -> str:
    root = click.Context(cli, info_name="apirule")
    lines = [HEAD, "## For every command", "", *_options(cli, root), ""]
    for title, names in SECTIONS.items():
        lines += [f"## {title}", ""]
        for name in names:
            command = cli.get_command(root, name)
            assert command is not None
            lines += _command(command, click.Context(command, info_name=name, parent=root))
    return "\n".join(lines).rstrip() + "\n"


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    words = [piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]"]
    yield f"### `{' '.join([context.command_path, *words])}`"
    yield ""
    yield (command.help or "").replace("\n    ", "\n").strip()
    yield ""
    yield from _options(command, context)
    yield ""
    if isinstance(command, click.Group):
        for name, sub in command.commands.items():
            yield from _command(sub, click.Context(sub, info_name=name, parent=context))


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    records = [
        param.get_help_record(context)
        for param in command.params
        if isinstance(param, click.Option)
    ]
    for record in records:
        if record is not None:
            yield f"- `{record[0]}`: {record[1]}" if record[1] else f"- `{record[0]}`"


def test_the_reference_is_what_the_commands_say(pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("--update-golden"):
        PAGE.write_text(page())

    assert PAGE.read_text() == page()
