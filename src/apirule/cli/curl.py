"""curl: the real one, told our CA, our addresses and a token."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from urllib.parse import urlsplit

import click

from apirule.cli import instance, output, token
from apirule.problem import SetupError
from apirule.settings import Settings


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": True})
@click.option("--token", "given", metavar="T", help="Send this token.")
@click.option("--no-token", is_flag=True, help="Send none.")
@click.option("--scope", help="Ask the issuer for this scope.")
@click.option("--print", "only_print", is_flag=True, help="Print the command, do not run it.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, required=True)
def curl(
    given: str | None,
    no_token: bool,
    scope: str | None,
    only_print: bool,
    arguments: tuple[str, ...],
) -> int:
    """Run curl with the local CA and a token: apirule curl URL [curl's own options]."""
    program = shutil.which("curl")
    if program is None:
        raise SetupError("curl is not on PATH.", "Install it: apt-get install curl")
    settings = instance.current()
    command = [program, *_options(settings, arguments)]
    if not no_token:
        command += ["-H", f"Authorization: Bearer {given or token.fetch(settings, scope=scope)}"]
    command += arguments
    if only_print:
        output.answer(shlex.join(command))
        return 0
    return subprocess.run(command, check=False).returncode  # noqa: S603 - the user's own words


def _options(settings: Settings, arguments: tuple[str, ...]) -> list[str]:
    """Return the CA, and for hosts that the resolver does not know the address of the gateway."""
    options = ["--cacert", str(settings.folder.ca_certificate)]
    for argument in arguments:
        parts = urlsplit(argument)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            continue
        if parts.hostname.endswith(f".{settings.domain}"):
            default = settings.https_port if parts.scheme == "https" else settings.http_port
            port = parts.port or {"https": 443, "http": 80}[parts.scheme]
            options += [
                "--connect-to",
                f"{parts.hostname}:{port}:127.0.0.1:{parts.port or default}",
            ]
    return options
