"""up and down: start everything under one supervisor, wait until it can be used, stop it."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from apirule import settings as settings_module
from apirule.cli import instance, output
from apirule.local.processes.launch import SupervisorConnection, launch
from apirule.problem import SetupError
from apirule.settings import Settings

CONTROL_PLANE = "control-plane"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
LAST_LINES = 5
EXIT_START = 3
EXIT_TIMEOUT = 5


@click.command()
@click.option("--demo", is_flag=True, help="Also a workload httpbin and an APIRule for it.")
@click.option("--domain", help="Hosts are *.DOMAIN; default kyma.localhost.")
@click.option("--https-port", type=click.IntRange(1, 65535), help="Default 8443.")
@click.option("--http-port", type=click.IntRange(1, 65535), help="Default 8080.")
@click.option("--api-port", type=click.IntRange(1, 65535), help="Default 6443.")
@click.option(
    "--missing-token-status",
    type=click.Choice(["401", "403"]),
    help="Answer to a request without token: 401 (default), or 403 as Istio's.",
)
@click.option(
    "--host-with-port",
    type=click.Choice(["ignored", "refused"]),
    help="A port or last dot in Host: ignored (default), or refused as Istio's policies do.",
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
@click.option("--log-format", type=click.Choice(["console", "json"]))
@click.option("-o", "--output", "form", type=click.Choice(["text", "json"]), default="text")
def up(demo: bool, form: str, **flags: Any) -> int:
    """Start everything on this machine; return when it can be used."""
    began = time.monotonic()
    settings = settings_module.load(state=instance.state(), **flags)
    folder = settings.folder
    _refuse_second(settings)
    _check_surroundings(settings, demo=demo)
    folder.claim(settings)
    try:
        folder.write_settings(settings)
        with _interrupts_later():
            launch(folder.root, folder.run)
        with SupervisorConnection(folder.run, timeout_s=START_TIMEOUT_S) as supervisor:
            supervisor.ask("subscribe")
            with SupervisorConnection(folder.run) as starter:
                starter.ask("start", process=_control_plane(settings, demo=demo))
            quiet = form == "json" or output.is_quiet()
            outcome = _follow(supervisor, settings, quiet=quiet)
    except BaseException:
        # Nothing half started is left behind, whatever went wrong.
        _shut_down(settings)
        raise
    if outcome != 0:
        _shut_down(settings)
        return outcome
    _report(settings, time.monotonic() - began, demo=demo, form=form)
    return 0


@click.command()
@click.option("--purge", is_flag=True, help="Also delete objects, keys and logs.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask, on a terminal, before --purge.")
def down(purge: bool, yes: bool) -> int:
    """Stop everything. Data is kept unless --purge."""
    settings = instance.current()
    folder = settings.folder
    if purge and not yes and folder.root.exists() and sys.stdin.isatty():
        click.confirm(f"Delete objects, keys and logs in {folder.root}?", abort=True, err=True)
    try:
        with SupervisorConnection(folder.run, timeout_s=STOP_TIMEOUT_S) as supervisor:
            count = len(supervisor.ask("list")["processes"])
        _shut_down(settings)
        output.answer(f"stopped {count} process{'es' if count != 1 else ''}")
    except SetupError:
        if not purge:
            output.answer("apirule was not running")
    if purge and folder.root.exists():
        left = folder.purge()
        output.answer(f"deleted {'what apirule made in ' * bool(left)}{folder.root}")
        if left:
            output.say(f"What is left there is not apirule's: {', '.join(left)}")
    return 0


@click.command()
@click.option("--demo", is_flag=True)
def control_plane(demo: bool) -> int:
    """Run API server, controllers, engine and issuer; the supervisor calls this."""
    from apirule.up import run

    return run(instance.current(), demo=demo)


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Hold back Ctrl-C while something starts that nobody could end yet."""
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def _control_plane(settings: Settings, *, demo: bool) -> dict[str, Any]:
    root = str(settings.folder.root)
    argv = [sys.executable, "-m", "apirule", "--state", root, CONTROL_PLANE]
    return {
        "name": CONTROL_PLANE,
        "kind": CONTROL_PLANE,
        "argv": [*argv, "--demo"] if demo else argv,
        "env": settings_module.environment(),
        "cwd": "/",
        "log": str(settings.folder.logs / f"{CONTROL_PLANE}.log"),
        "restart": "always",
    }


def _refuse_second(settings: Settings) -> None:
    try:
        with SupervisorConnection(settings.folder.run):
            pass
    except SetupError:
        return
    raise SetupError(
        f"apirule is already running (state folder {settings.folder.root}).",
        "See it with `apirule status`, end it with `apirule down`; --state DIR starts another one.",
    )


def _check_surroundings(settings: Settings, *, demo: bool) -> None:
    from apirule.cli.doctor import why_not_free
    from apirule.local.processes import envoy

    envoy.binary()
    ports = {
        "--https-port": settings.https_port,
        "--http-port": settings.http_port,
        "--api-port": settings.api_port,
    }
    for flag, port in ports.items():
        if reason := why_not_free(port):
            raise SetupError(f"Port {port} {reason}.", f"Choose another: apirule up {flag} N.")
    if demo:
        from importlib.util import find_spec

        if find_spec("httpbin") is None:
            raise SetupError(
                "The demo needs httpbin, which is not installed.",
                "Install it: pip install 'apirule[demo]'",
            )


def _follow(supervisor: SupervisorConnection, settings: Settings, *, quiet: bool) -> int:
    """Print the steps as they finish. Returns 0 when ready, else the exit code."""
    try:
        for event in supervisor.events():
            if event["event"] == "exited" and event["process"]["name"] == CONTROL_PLANE:
                _print_failure("the control plane ended", settings)
                return EXIT_START
            if event["event"] != "progress":
                continue
            progress = event["progress"]
            if progress.get("state") == "ready":
                return 0
            if progress.get("state") == "failed":
                output.step(progress["step"], progress["detail"], ok=False)
                _print_failure(f"{progress['step'] or 'its control plane'} failed", settings)
                return EXIT_START
            if not quiet:
                output.step(progress["step"], progress["detail"], progress.get("seconds"))
    except TimeoutError:
        _print_failure(f"nothing happened for {START_TIMEOUT_S:.0f} s", settings)
        return EXIT_TIMEOUT
    _print_failure("the supervisor ended", settings)
    return EXIT_START


def _print_failure(what: str, settings: Settings) -> None:
    log = settings.folder.logs / f"{CONTROL_PLANE}.log"
    output.error(f"apirule did not start: {what}.", f"apirule doctor; the whole log is {log}")
    for line in log.read_text(errors="replace").splitlines()[-LAST_LINES:] if log.exists() else ():
        output.say(f"    {line}")


def _shut_down(settings: Settings) -> None:
    try:
        with SupervisorConnection(settings.folder.run, timeout_s=STOP_TIMEOUT_S) as supervisor:
            supervisor.ask("shutdown")
            for _ in supervisor.events():
                pass  # the events end when the supervisor does
    except SetupError:
        pass  # there is none
    # Whoever was killed could not remove its own.
    for path in settings.folder.run.rglob("*.sock*"):
        path.unlink(missing_ok=True)


def _report(settings: Settings, seconds: float, *, demo: bool, form: str) -> None:
    address = f"https://httpbin.{settings.domain}:{settings.https_port}/headers"
    if form == "json":
        output.answer_json(
            {
                "seconds": round(seconds, 2),
                "gateway": f"https://*.{settings.domain}:{settings.https_port}",
                "issuer": settings.issuer_url,
                "kubeconfig": str(settings.folder.kubeconfig),
                "caCertificate": str(settings.folder.ca_certificate),
                "demo": address if demo else None,
            }
        )
        return
    state = instance.state()
    own = "apirule" if state is None else f"apirule --state {shlex.quote(state)}"
    output.hint(f"\nReady in {seconds:.1f} s. Try:")
    if demo:
        output.hint(f"  curl -ik {address}")
        output.hint(f'  curl -ik {address} -H "Authorization: Bearer $({own} token get)"')
    output.hint(f'  eval "$({own} env)"; kubectl get apirules -A')
