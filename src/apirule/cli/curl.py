"""curl: the real one, told our CA, our addresses and a token.

The token goes to hosts of this instance only, and never by the command line, which every process
of the machine can read.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import click

from apirule.cli import denials, instance, issuing, output, rules
from apirule.cli.issuing import Wish
from apirule.problem import SetupError
from apirule.settings import Settings

REFUSALS = (401, 403, 404)
REASON_WITHIN_S = 3.0
"""Proxies write their log every 0.2 s."""
ENOUGH_BYTES = 1 << 16
"""Of the end of a log: what was written in that time."""
PROXY_LOG = "istio-proxy.log"
POLL_S = 0.05
_STATUS = re.compile(rb"^HTTP/[\d.]+ (\d{3})", re.MULTILINE)


class Target(NamedTuple):
    """An address among the arguments."""

    scheme: str
    host: str
    port: int | None
    path: str


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": True})
@click.option("--as", "user", metavar="USER", help="Send a token of this user of the issuer.")
@click.option("--token", "given", metavar="T", help="Send this token, wherever it goes.")
@click.option("--no-token", is_flag=True, help="Send none.")
@click.option("--scope", help="Ask the issuer for this scope.")
@click.option("--print", "only_print", is_flag=True, help="Print the command, do not run it.")
@click.argument(
    "arguments",
    metavar="URL [CURL'S OPTIONS…]",
    nargs=-1,
    type=click.UNPROCESSED,
    required=True,
)
def curl(
    user: str | None,
    given: str | None,
    no_token: bool,
    scope: str | None,
    only_print: bool,
    arguments: tuple[str, ...],
) -> int:
    """Run curl with the local CA and a token: apirule curl URL [curl's own options].

    A token of the issuer goes to hosts of this instance only. A refusal by a proxy is explained.
    """
    if sum((user is not None, given is not None, no_token)) > 1:
        raise click.UsageError("--as, --token and --no-token exclude each other.")
    if (given is not None or no_token) and scope:
        raise click.UsageError("--scope is for a token of the issuer.")
    program = shutil.which("curl")
    if program is None:
        raise SetupError("curl is not on PATH.", "Install it: apt-get install curl")
    settings = instance.started()
    targets = list(_targets(arguments))
    command = [program, *_options(settings, targets)]
    at_home = bool(targets) and all(_is_ours(target, settings) for target in targets)
    wants_token = not no_token and (given is not None or at_home)
    if (user or scope) and not wants_token:
        output.warn(f"no token is sent: that is no host under {settings.domain}; --token sends one")
    if only_print:
        printed = _printed(user, scope, given) if wants_token else ""
        output.answer(f"{shlex.join(command)}{printed} {shlex.join(arguments)}")
        return 0
    token = given or ""
    if wants_token and given is None:
        token = str(issuing.grant(settings, Wish(user=user, scope=scope))["access_token"])
    return _run(command, token, arguments, settings, targets)


def _run(
    command: list[str],
    token: str,
    arguments: tuple[str, ...],
    settings: Settings,
    targets: list[Target],
) -> int:
    """Run curl and explain a refusal. Returns curl's exit code."""
    headers = os.memfd_create("headers")
    passed = [headers]
    explains = targets and not {"-D", "--dump-header"} & {*arguments}
    command = [*command, *(["--dump-header", f"/dev/fd/{headers}"] if explains else [])]
    if token:
        secret = os.memfd_create("token")
        os.write(secret, f"Authorization: Bearer {token}\n".encode())
        os.lseek(secret, 0, os.SEEK_SET)
        passed.append(secret)
        command += ["--header", f"@/dev/fd/{secret}"]
    since = datetime.now(UTC).isoformat(timespec="milliseconds")  # noqa: TID251 - as logs have it
    try:
        done = subprocess.run(  # noqa: S603 - the user's own words
            [*command, *arguments], pass_fds=passed, check=False
        )
        statuses = _STATUS.findall(os.pread(headers, 1 << 20, 0))
    finally:
        for descriptor in passed:
            os.close(descriptor)
    if statuses and int(statuses[-1]) in REFUSALS:
        _explain(settings, targets[-1], since.replace("+00:00", "Z"))
    return done.returncode


def _explain(settings: Settings, target: Target, since: str) -> None:
    """Say why a proxy refused the request; say nothing where the program did."""
    deadline = time.monotonic() + REASON_WITHIN_S
    while time.monotonic() < deadline:
        for log in settings.folder.pods.glob(f"*/{PROXY_LOG}"):
            for line in _newest_lines(log):
                entry = denials.read_any(line)
                if entry is None or not denials.is_about(
                    entry, host=target.host, path=target.path, since=since
                ):
                    continue
                if denials.is_refusal(entry):
                    why = denials.reason(entry, rules.known(settings))
                    output.hint(f"{_new_line()}why: {why} (see apirule logs --denied)")
                    return
                if str(entry.get("cluster", "")).startswith("inbound"):
                    return  # the last proxy on the way let it through
        time.sleep(POLL_S)


def _new_line() -> str:
    """Return a line break where the answer, most often without one, stands on the same terminal."""
    return "\n" if sys.stdout.isatty() and sys.stderr.isatty() else ""


def _newest_lines(log: Path) -> Iterator[str]:
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - ENOUGH_BYTES))
        yield from reversed(file.read().decode(errors="replace").splitlines())


def _printed(user: str | None, scope: str | None, given: str | None) -> str:
    """Return the header of a printed command; a token of the issuer is asked for when it runs."""
    if given is not None:
        return f" -H {shlex.quote(f'Authorization: Bearer {given}')}"
    words = ["apirule", "token", "get"]
    words += ["--user", user] if user else []
    words += ["--scope", scope] if scope else []
    return f' -H "Authorization: Bearer $({output.with_state(shlex.join(words))})"'


def _targets(arguments: tuple[str, ...]) -> Iterator[Target]:
    """Yield the addresses among the arguments; curl takes one without a scheme for http."""
    before = ""
    for argument in arguments:
        is_value = before.startswith("-") and before != "--url"
        before = argument
        text = argument if "://" in argument else f"http://{argument}"
        if "://" not in argument and (is_value or argument.startswith("-") or "." not in argument):
            continue
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            continue
        if parts.scheme in ("http", "https") and parts.hostname:
            yield Target(parts.scheme, parts.hostname, port, parts.path or "/")


def _is_ours(target: Target, settings: Settings) -> bool:
    return target.host == settings.domain or target.host.endswith(f".{settings.domain}")


def _options(settings: Settings, targets: list[Target]) -> list[str]:
    """Return the CA, and for hosts that the resolver may not know the address of the gateway."""
    options = ["--cacert", str(settings.folder.ca_certificate)]
    for target in dict.fromkeys(targets):
        if not _is_ours(target, settings):
            continue
        default = settings.https_port if target.scheme == "https" else settings.http_port
        port = target.port or {"https": 443, "http": 80}[target.scheme]
        options += [
            "--connect-to",
            f"{target.host}:{port}:127.0.0.1:{target.port or default}",
        ]
    return options
