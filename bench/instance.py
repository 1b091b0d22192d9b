"""A running instance of its own for a benchmark: free ports, a state folder that goes with it."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ports import free_ports


@dataclass(frozen=True)
class Process:
    """One process of an instance. ``rss`` and ``pss`` in bytes; pss shares what is shared."""

    pid: int
    role: str
    rss: int
    pss: int


_ROLES = (
    ("control-plane", "control plane"),
    ("processes.supervisor", "supervisor"),
    ("istio-ingressgateway", "gateway Envoy"),
    ("_bin/envoy", "sidecar Envoy"),
    ("processes.httpbin", "app"),
)
"""A part of the command line, and what it means; the first that is found counts."""


@dataclass(frozen=True)
class Instance:
    state: Path
    https_port: int
    http_port: int
    api_port: int
    domain: str = field(default="kyma.localhost", init=False)

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "APIRULE_STATE": str(self.state), "KUBECONFIG": str(self.kubeconfig)}

    def apirule(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "apirule", *words],
            env=self.environment,
            text=True,
            capture_output=True,
            check=check,
        )

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.apirule("status", "-o", "json").stdout)
        return found

    def processes(self) -> list[Process]:
        """Return every process whose command line names the state folder."""
        found = []
        for folder in Path("/proc").iterdir():
            if not folder.name.isdecimal():
                continue
            try:
                command = (folder / "cmdline").read_text().replace("\0", " ")
                if str(self.state) not in command or "bench/" in command:
                    continue
                memory = (folder / "smaps_rollup").read_text()
            except OSError:
                continue  # it has just ended
            role = next((name for part, name in _ROLES if part in command), "other")
            sizes = {
                line.split(":")[0]: int(line.split()[1]) * 1024
                for line in memory.splitlines()
                if line.startswith(("Rss:", "Pss:"))
            }
            found.append(Process(int(folder.name), role, sizes["Rss"], sizes["Pss"]))
        return sorted(found, key=lambda process: (process.role, process.pid))


@contextmanager
def running(*flags: str) -> Iterator[Instance]:
    """Start an instance with ``apirule up`` and the flags; end and purge it afterwards."""
    with tempfile.TemporaryDirectory(prefix="apirule-") as folder:
        instance = Instance(Path(folder), *free_ports(3))
        ports = [
            *("--https-port", str(instance.https_port)),
            *("--http-port", str(instance.http_port)),
            *("--api-port", str(instance.api_port)),
        ]
        try:
            instance.apirule("up", *ports, *flags)
            yield instance
        finally:
            instance.apirule("down", "--purge", check=False)
