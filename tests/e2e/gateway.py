"""Requests to the gateway of an instance, each on a connection of its own unless told otherwise."""

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from instance import Instance

PATIENCE_S = 30.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""

    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    instance: Instance,
    host: str,
    path: str = "/headers",
    *options: str,
    token: str | None = None,
    scheme: str = "https",
) -> Answer:
    """Ask with the real curl. Status 0: no answer (refused, reset, TLS failed)."""
    port = instance.https_port if scheme == "https" else instance.http_port
    command = ["curl", "-sS", "-i", "--path-as-is", "--max-time", "30", "--http1.1"]
    command += ["--cacert", str(instance.state / "ca.crt"), *options]
    if token is not None:
        command += ["-H", f"Authorization: Bearer {token}"]
    done = subprocess.run(
        [*command, f"{scheme}://{host}.{instance.domain}:{port}{path}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        return Answer(0, body=done.stderr)
    head, _, body = done.stdout.replace("\r\n", "\n").partition("\n\n")
    lines = head.split("\n")
    pairs = (line.partition(": ") for line in lines[1:])
    return Answer(int(lines[0].split()[1]), {k.lower(): v for k, _, v in pairs}, body)


def until(condition: Callable[[], bool], what: str = "it comes about") -> None:
    """Ask over and over, until the condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.01)


def token(instance: Instance, *options: str) -> str:
    return instance.apirule("token", "get", *options).stdout.strip()


def kubectl(
    instance: Instance, *words: str, text: str | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    environment = {**instance.environment, "HOME": str(instance.state)}
    return subprocess.run(
        ["kubectl", *words],
        env=environment,
        input=text,
        text=True,
        capture_output=True,
        check=check,
    )
