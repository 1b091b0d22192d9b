"""logs: what a component, a workload or its sidecar wrote, and why requests were refused."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

import click

from apirule.cli import completion, denials, instance
from apirule.problem import SetupError
from apirule.settings import Settings, StateFolder

CONTROL_PLANE = "control-plane"
PARTS = ("api-server", "controller", "xds", "issuer")
"""Parts of the control plane: one process, one log."""
PROXY = "istio-proxy"
GATEWAY = "istio-system/istio-ingressgateway"
OLDER = ".1"
"""What the supervisor calls the older half of a log; see ``local.processes.child``."""
POLL_S = 0.2


class Log(NamedTuple):
    owner: str
    path: Path


class Line(NamedTuple):
    owner: str
    text: str


class Tail:
    """Reads what is there and, asked again, what was added, also across a rotation."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._file: TextIO | None = None
        self._inode = 0
        self._rest = ""

    def read(self) -> Iterator[Line]:
        """Yield the complete lines that are new."""
        while True:
            yield from self._complete()
            if not self._reopen():
                return

    def rest(self) -> Iterator[Line]:
        """Yield a last line that is not ended yet."""
        if self._rest:
            yield Line(self._log.owner, f"{self._rest}\n")
            self._rest = ""

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _complete(self) -> Iterator[Line]:
        text = self._rest + (self._file.read() if self._file is not None else "")
        *lines, self._rest = text.split("\n")
        for line in lines:
            yield Line(self._log.owner, f"{line}\n")

    def _reopen(self) -> bool:
        """Open the file that has the name now; False when that is the open one."""
        try:
            inode = self._log.path.stat().st_ino
            if inode == self._inode:
                return False
            new = self._log.path.open(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return False
        self.close()
        self._file, self._inode = new, inode
        return True


@click.command()
@click.argument("component", required=False, shell_complete=completion.components)
@click.option("-c", "--container", help="Container of a Pod, such as istio-proxy (its sidecar).")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes; ends with Ctrl-C.")
@click.option("--tail", type=click.IntRange(0), help="Only so many of the last lines.")
@click.option("--previous", is_flag=True, help="Of the run before the last restart.")
@click.option(
    "--denied",
    is_flag=True,
    help="Refused requests, each with the reason: what the rule asks for, what the token has.",
)
def logs(
    component: str | None,
    container: str | None,
    follow: bool,
    tail: int | None,
    previous: bool,
    denied: bool,
) -> int:
    """Print a log: control-plane (default), supervisor, gateway, or [NAMESPACE/]WORKLOAD.

    With --denied and no name: of the gateway and of all sidecars.
    """
    if follow and previous:
        raise click.UsageError("The run before has ended: --previous leaves nothing to --follow.")
    settings = instance.current()
    folder = _folder(settings)
    found = _proxies(folder, component) if denied else [_log(folder, component, container)]
    if previous:
        found = [Log(log.owner, Path(f"{log.path}.previous")) for log in found]
    tails = [Tail(log) for log in found]
    lines = [line for log in found for line in _older(log)]
    lines += [line for one in tails for line in (*one.read(), *([] if follow else one.rest()))]
    shown = _refused(settings, lines) if denied else [line.text for line in lines]
    _write(shown if tail is None else shown[len(shown) - min(tail, len(shown)) :])
    while follow:
        new = [line for one in tails for line in one.read()]
        _write(_refused(settings, new) if denied else [line.text for line in new])
        if not new:
            time.sleep(POLL_S)
    return 0


def _refused(settings: Settings, lines: list[Line]) -> list[str]:
    """Return the refusals among the lines, each explained by the APIRules as they are now."""
    entries = [(denials.read(line.text), line.owner) for line in lines]
    refused = [(entry, owner) for entry, owner in entries if entry is not None]
    refused.sort(key=lambda pair: str(pair[0].get("time", "")))
    if not refused:
        return []
    from apirule.cli import rules

    known = rules.known(settings)
    return [f"{denials.in_words(entry, owner, known)}\n" for entry, owner in refused]


def _write(lines: list[str]) -> None:
    sys.stdout.writelines(lines)
    sys.stdout.flush()


def _older(log: Log) -> Iterator[Line]:
    path = Path(f"{log.path}{OLDER}")
    if path.exists():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            yield Line(log.owner, f"{text}\n")


def _folder(settings: Settings) -> StateFolder:
    folder = settings.folder
    if not folder.logs.exists():
        raise SetupError(
            f"There are no logs in {folder.root}: nothing was started there.", instance.START_IT
        )
    return folder


def _log(folder: StateFolder, component: str | None, container: str | None) -> Log:
    component = CONTROL_PLANE if component in (None, *PARTS) else component
    plain = {path.stem: path for path in folder.logs.glob("*.log")}
    if component in plain and container is None:
        return Log(str(component), plain[str(component)])
    pod = _pod(folder, str(component))
    containers = {path.stem: path for path in sorted(pod.glob("*.log"))}
    if container is None:
        container = next((name for name in containers if name != PROXY), PROXY)
    if container not in containers:
        raise click.UsageError(
            f"{_owner(pod)} has no log of a container '{container}'; "
            f"it has {', '.join(containers) or 'none'}."
        )
    return Log(_owner(pod), containers[container])


def _proxies(folder: StateFolder, component: str | None) -> list[Log]:
    """Return the logs of the proxies that may have refused something."""
    pods = sorted(folder.pods.glob("*")) if component is None else [_pod(folder, component)]
    found = [Log(_owner(pod), pod / f"{PROXY}.log") for pod in pods]
    found = [log for log in found if log.path.exists()]
    if component is not None and not found:
        raise click.UsageError(f"{component} has no sidecar: nothing refuses requests there.")
    return found


def _pod(folder: StateFolder, word: str) -> Path:
    """Find a Pod's folder by ``[NAMESPACE/]NAME``, or by the name of what made it; the newest."""
    word = GATEWAY if word == "gateway" else word
    namespace, slash, name = word.partition("/")
    wanted = f"{namespace}_{name}" if slash else f"default_{word}"
    pods = list(folder.pods.glob("*"))
    found = [pod for pod in pods if pod.name == wanted or pod.name.startswith(f"{wanted}-")]
    if not found:
        known = sorted({path.stem for path in folder.logs.glob("*.log")})
        raise click.UsageError(
            f"There is no log of '{word}'. "
            f"There are: {', '.join([*known, 'gateway', *sorted(map(_owner, pods))])}."
        )
    exact = [pod for pod in found if pod.name == wanted]
    return max(exact or found, key=lambda pod: pod.stat().st_mtime)


def _owner(pod: Path) -> str:
    return pod.name.replace("_", "/", 1)
