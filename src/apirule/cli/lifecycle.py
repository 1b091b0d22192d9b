"""up and down: start everything under one supervisor, wait until it can be used, stop it."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import click

from apirule import settings as settings_module
from apirule.cli import output
from apirule.local.processes.launch import SupervisorConnection, launch
from apirule.problem import SetupError
from apirule.settings import Settings

CONTROL_PLANE = "control-plane"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
LAST_LINES = 5
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
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
@click.option("--log-format", type=click.Choice(["console", "json"]))
@click.option("-o", "--output", "form", type=click.Choice(["text", "json"]), default="text")
@click.pass_context
def up(ctx: click.Context, /, demo: bool, form: str, **flags: Any) -> int:
    """Start everything on this machine; return when it can be used."""
    began = time.monotonic()
    settings = settings_module.load(state=ctx.find_root().obj["state"], **flags)
    folder = settings.folder
    folder.create()
    _refuse_second(settings)
    _check_surroundings(settings, demo=demo)
    folder.write_settings(settings)
    launch(folder.root, folder.run)
    try:
        with SupervisorConnection(folder.run, timeout_s=START_TIMEOUT_S) as supervisor:
            supervisor.ask("subscribe")
            with SupervisorConnection(folder.run) as starter:
                starter.ask("start", process=_control_plane(settings, demo=demo))
            outcome = _follow(supervisor, settings, quiet=form == "json")
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
@click.pass_context
def down(ctx: click.Context, purge: bool) -> int:
    """Stop everything. Data is kept unless --purge."""
    settings = settings_module.of_instance(ctx.find_root().obj["state"])
    folder = settings.folder
    try:
        with SupervisorConnection(folder.run, timeout_s=STOP_TIMEOUT_S) as supervisor:
            count = len(supervisor.ask("list")["processes"])
        _shut_down(settings)
        output.answer(f"stopped {count} process{'es' if count != 1 else ''}")
    except SetupError:
        if not purge:
            output.answer("apirule was not running")
    if purge and folder.root.exists():
        _purge(settings)
        output.answer(f"deleted {folder.root}")
    return 0


@click.command()
@click.option("--demo", is_flag=True)
@click.pass_context
def control_plane(ctx: click.Context, demo: bool) -> int:
    """Run API server, controllers, engine and issuer; the supervisor calls this."""
    from apirule.up import run

    settings = settings_module.of_instance(ctx.find_root().obj["state"])
    return run(settings, demo=demo)


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
    from apirule.cli.doctor import is_free
    from apirule.local.processes import envoy

    envoy.binary()
    ports = {
        "--https-port": settings.https_port,
        "--http-port": settings.http_port,
        "--api-port": settings.api_port,
    }
    for flag, port in ports.items():
        if not is_free(port):
            raise SetupError(
                f"Port {port} is taken by another program or not allowed for this user.",
                f"Choose another: apirule up {flag} N, or stop that program.",
            )
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
                return 1
            if event["event"] != "progress":
                continue
            progress = event["progress"]
            if progress.get("state") == "ready":
                return 0
            if progress.get("state") == "failed":
                output.step(progress["step"], progress["detail"], ok=False)
                _print_failure(progress["step"], settings)
                return 1
            if not quiet:
                output.step(progress["step"], progress["detail"], progress.get("seconds"))
    except TimeoutError:
        _print_failure(f"nothing happened for {START_TIMEOUT_S:.0f} s", settings)
        return EXIT_TIMEOUT
    _print_failure("the supervisor ended", settings)
    return 1


def _print_failure(what: str, settings: Settings) -> None:
    log = settings.folder.logs / f"{CONTROL_PLANE}.log"
    output.say(f"{click.style('error', fg='red')}: apirule did not start: {what}.")
    for line in log.read_text(errors="replace").splitlines()[-LAST_LINES:] if log.exists() else ():
        output.say(f"    {line}")
    output.say(f"{click.style('fix', fg='green')}:   apirule doctor; the whole log is {log}")


def _shut_down(settings: Settings) -> None:
    try:
        with SupervisorConnection(settings.folder.run, timeout_s=STOP_TIMEOUT_S) as supervisor:
            supervisor.ask("shutdown")
            for _ in supervisor.events():
                pass  # the events end when the supervisor does
    except SetupError:
        return


def _purge(settings: Settings) -> None:
    """Delete the state folder, if it is one: a wrong --state must not cost anybody's home."""
    folder = settings.folder
    if not folder.settings.exists() and any(folder.root.iterdir()):
        raise SetupError(
            f"{folder.root} is not a state folder of apirule.", "Delete it yourself if you mean it."
        )
    shutil.rmtree(folder.root)
    if Path(folder.run).exists():
        shutil.rmtree(folder.run)


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
    output.say(f"\nReady in {seconds:.1f} s. Try:")
    if demo:
        output.say(f"  curl -ik {address}")
        output.say(f'  curl -ik {address} -H "Authorization: Bearer $(apirule token get)"')
    output.say('  eval "$(apirule env)"; kubectl get apirules -A')
