"""doctor: look at the surroundings, and say for each finding how to mend it."""

from __future__ import annotations

import importlib.util
import re
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import NamedTuple

import click

from apirule import settings as settings_module
from apirule.cli import instance, output
from apirule.problem import SetupError
from apirule.settings import Settings

FEW_FILES = 1024
"""A gateway holds two descriptors a connection; below this a small load test fails."""


ENVOY_VERSION = re.compile(r"version: [^/]*/([^/]+)/")
"""Of ``PATH/envoy  version: COMMIT/NUMBER/…``; the path has slashes too."""


class Verdict(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


class Finding(NamedTuple):
    verdict: Verdict
    text: str
    fix: str = ""


COLORS = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


@click.command()
@click.option("-o", "--output", "form", type=click.Choice(["text", "json"]), default="text")
def doctor(form: str) -> int:
    """Check everything `apirule up` depends on. Exit code 1: something fails."""
    settings = instance.current()
    findings = [finding for check in CHECKS for finding in check(settings)]
    if form == "json":
        output.answer_json([finding._asdict() for finding in findings])
    else:
        for finding in findings:
            mark = click.style(f"{finding.verdict:<4}", fg=COLORS[finding.verdict])
            fix = f"   fix: {output.with_state(finding.fix)}" if finding.fix else ""
            output.answer(f"{mark}  {finding.text}{fix}")
    return int(any(finding.verdict is Verdict.FAIL for finding in findings))


def _envoy(_: Settings) -> Iterator[Finding]:
    from apirule.local.processes import envoy

    try:
        binary = envoy.binary()
        done = subprocess.run(  # noqa: S603 - the binary of our own dependency
            [binary, "--version"], capture_output=True, text=True, timeout=20, check=True
        )
    except SetupError as error:
        yield Finding(Verdict.FAIL, error.message, error.fix)
    except (OSError, subprocess.SubprocessError) as error:
        yield Finding(
            Verdict.FAIL,
            f"Envoy does not start: {error}",
            "It needs Linux with glibc >= 2.31 (x86_64, aarch64) or macOS: see its wheels on PyPI.",
        )
    else:
        found = ENVOY_VERSION.search(done.stdout)
        number = found[1] if found else done.stdout.strip()
        yield Finding(Verdict.OK, f"Envoy {number} starts")


def _ports(settings: Settings) -> Iterator[Finding]:
    running = instance.is_running(settings)
    for flag, port in _ports_of(settings).items():
        reason = why_not_free(port)
        if not reason:
            text = "is free" if not running else "is not open, although apirule runs"
            verdict = Verdict.OK if not running else Verdict.FAIL
            fix = "" if not running else "apirule logs gateway"
            yield Finding(verdict, f"port {port} {text}", fix)
        elif running:
            yield Finding(Verdict.OK, f"port {port} is apirule's")
        else:
            yield Finding(
                Verdict.FAIL,
                f"port {port} {reason}",
                f"apirule up --{flag} N",
            )


def _names(settings: Settings) -> Iterator[Finding]:
    curl = shutil.which("curl")
    if curl is None:
        yield Finding(Verdict.WARN, "curl is not on PATH", "apt-get install curl")
        return
    host = f"doctor.{settings.domain}"
    done = subprocess.run(  # noqa: S603 - loopback only
        [curl, "-s", "-o", "/dev/null", "--max-time", "2", f"http://{host}:9/"],
        check=False,
    )
    could_not_resolve = 6
    if done.returncode == could_not_resolve:
        fix = f"add '127.0.0.1 {host}' to /etc/hosts for each host, or use apirule curl"
        yield Finding(Verdict.WARN, f"*.{settings.domain} does not resolve in curl", fix)
    else:
        yield Finding(Verdict.OK, f"*.{settings.domain} resolves in curl")


def _kubectl(settings: Settings) -> Iterator[Finding]:
    if shutil.which("kubectl") is None:
        yield Finding(
            Verdict.WARN,
            "kubectl is not on PATH",
            "install kubectl >= 1.27; `apirule apply` and `apirule get` do without",
        )
        return
    current = settings_module.environment().get("KUBECONFIG", "")
    if current == str(settings.folder.kubeconfig):
        yield Finding(Verdict.OK, "kubectl talks to this instance")
    else:
        yield Finding(Verdict.WARN, "kubectl talks to another cluster", 'eval "$(apirule env)"')


def _demo(_: Settings) -> Iterator[Finding]:
    if importlib.util.find_spec("httpbin") is None:
        yield Finding(
            Verdict.WARN,
            "the demo workload httpbin is not installed",
            "pip install 'apirule[demo]'",
        )
    else:
        yield Finding(Verdict.OK, "the demo workload httpbin is installed")


def _limits(_: Settings) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FEW_FILES:
        yield Finding(Verdict.WARN, f"only {soft} open files allowed", f"ulimit -n {hard}")
    else:
        yield Finding(Verdict.OK, f"{soft} open files allowed")


def _python(_: Settings) -> Iterator[Finding]:
    number = ".".join(str(part) for part in sys.version_info[:3])
    yield Finding(Verdict.OK, f"Python {number}")


def _state(settings: Settings) -> Iterator[Finding]:
    root = settings.folder.root
    if not root.exists():
        yield Finding(Verdict.OK, f"state folder {root} will be made")
    elif root.stat().st_mode & 0o077:
        yield Finding(Verdict.FAIL, f"others can read {root}", f"chmod 700 {root}")
    else:
        yield Finding(Verdict.OK, f"state folder {root}")


CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _python,
    _envoy,
    _ports,
    _names,
    _kubectl,
    _demo,
    _limits,
    _state,
)


def why_not_free(port: int) -> str:
    """Say why a program of ours could not listen on a loopback port now; empty: it could."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            return "needs privileges that this user has not"
        except OSError:
            return "is taken by another program"
    return ""


def _ports_of(settings: Settings) -> dict[str, int]:
    return {
        "https-port": settings.https_port,
        "http-port": settings.http_port,
        "api-port": settings.api_port,
    }
