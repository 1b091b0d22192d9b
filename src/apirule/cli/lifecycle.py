"""up and down: start everything under one supervisor, wait until it can be used, stop it."""

from __future__ import annotations

import gc
import sys
import time
from typing import Any

import click

from apirule import settings as settings_module
from apirule.cli import instance, output, starting, surroundings
from apirule.cli.starting import CONTROL_PLANE
from apirule.local.processes.launch import SupervisorConnection
from apirule.problem import SetupError
from apirule.settings import Settings


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
@click.option("--foreground", is_flag=True, help="Stay, and stop everything when ended.")
@click.option("-o", "--output", "form", type=click.Choice(["text", "json"]), default="text")
def up(demo: bool, form: str, foreground: bool, **flags: Any) -> int:
    """Start everything on this machine; return when it can be used.

    With --foreground it stays, for systemd or a container, and stops everything on SIGTERM, Ctrl-C
    or `apirule down`.
    """
    began = time.monotonic()
    settings = settings_module.load(state=instance.state(), **flags)
    folder = settings.folder
    _refuse_second(settings)
    try:
        _check_surroundings(settings, demo=demo)
    except SetupError:
        _refuse_second(settings)  # that one may have taken the ports just now
        raise
    folder.claim(settings)
    with starting.ended_by_signals():
        with starting.launched(folder, foreground=foreground):
            folder.write_settings(settings)
            quiet = form == "json" or output.is_quiet()
            starting.start(folder, _control_plane(settings, demo=demo), quiet=quiet)
            if foreground:
                _report(settings, time.monotonic() - began, demo=demo, form=form)
                return starting.stay(folder)
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
        with SupervisorConnection(folder.run) as supervisor:
            count = len(supervisor.ask("list")["processes"])
        starting.shut_down(folder)
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
    # Hardly anything of what a start imports and makes is garbage; `up` switches it on again.
    gc.disable()
    with settings_module.without_system_cas():
        # Importing it makes two TLS contexts, and reading all CAs for one takes 0.05 s. Nothing
        # here uses them; what would, fails.
        import aiohttp  # noqa: F401 - to be there when others import it
    from apirule.up import run

    return run(instance.current(), demo=demo)


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
    from apirule.local.processes import envoy

    envoy.binary()
    for flag, port in surroundings.ports_of(settings).items():
        if reason := surroundings.why_not_free(port):
            raise SetupError(f"Port {port} {reason}.", f"Choose another: apirule up {flag} N.")
    if demo:
        from importlib.util import find_spec

        if find_spec("httpbin") is None:
            raise SetupError(
                "The demo needs httpbin, which is not installed.",
                "Install it: pip install 'apirule[demo]'",
            )


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
    output.hint(f"\nReady in {seconds:.1f} s. Try:")
    if demo:
        output.hint(f"  curl -ik {address}")
        output.hint(f'  curl -ik {address} -H "Authorization: Bearer $(apirule token get)"')
    output.hint('  eval "$(apirule env)"; kubectl get apirules -A')
