"""The witness behind its sidecar, the rules before it, and what it takes to send a try."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from instance import Instance
from ports import free_ports
from tests.conformance.cases import Try
from tests.conformance.minting import Mint
from tests.conformance.wire import Door, Reply, http2

from apirule.local.workloads.run import objects_for

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Lab:
    instance: Instance
    seen: Path
    """What the witness has written down."""
    mint: Mint
    door: Door

    def requests(self) -> list[dict[str, Any]]:
        lines = self.seen.read_text().splitlines() if self.seen.exists() else []
        return [json.loads(line) for line in lines]

    def name(self, label: str) -> str:
        return f"{label}.{self.instance.domain}"

    def send(self, attempt: Try) -> Reply:
        name = self.name(attempt.to)
        token = "" if attempt.token is None else self.mint.token(attempt.token)

        many = "".join(f"X-{n}: y\r\n" for n in range(120))

        def filled(text: str) -> str:
            text = text.replace("{many}", many).replace("{long}", "x" * 70_000)
            text = text.replace("{token}", token).replace("{host}", name)
            return text.replace("{HOST}", name.upper()).replace("{port}", str(self.door.port))

        if attempt.h2 is not None:
            return http2(self.door, name, [(key, filled(value)) for key, value in attempt.h2])
        if attempt.raw is not None:
            return self.door.send(name, filled(attempt.raw).encode("latin-1"))
        lines = [f"{attempt.method} {attempt.target} {attempt.version}", f"Host: {attempt.host}"]
        bearer = "Bearer {token}" if attempt.token is not None else None
        authorization = bearer if attempt.authorization is None else attempt.authorization
        if authorization is not None:
            lines.append(f"Authorization: {authorization}")
        lines += attempt.headers
        if attempt.body:
            lines.append(f"Content-Length: {len(attempt.body)}")
        text = "\r\n".join([*lines, "", attempt.body])
        return self.door.send(name, filled(text).encode("latin-1"))


@contextmanager
def opened(instance: Instance, folder: Path) -> Iterator[Lab]:
    """Start the witness and apply the rules; stop and delete them afterwards."""
    seen, port = folder / "seen", free_ports(1)[0]
    program = [sys.executable, str(HERE / "witness.py"), str(port), str(seen)]
    witness = yaml.safe_dump_all(
        objects_for("witness", "default", port=port, service_port=8000, argv=program, cwd=str(HERE))
    )
    issuer = f"http://oidc.{instance.domain}:{instance.http_port}"
    rules = (HERE / "rules.yaml").read_text().replace("ISSUER", issuer)
    names = [f"apirule/{rule['metadata']['name']}" for rule in yaml.safe_load_all(rules)]
    try:
        kubectl(instance, "apply", "-f", "-", text=witness)
        kubectl(instance, "rollout", "status", "deployment/witness", "--timeout=60s")
        kubectl(instance, "apply", "-f", "-", text=rules)
        ready = "--for=jsonpath={.status.state}=Ready"
        kubectl(instance, "wait", *names, ready, "--timeout=60s")
        door = Door(instance.https_port, instance.state / "ca.crt")
        yield Lab(instance, seen, Mint(instance.state / "issuer", issuer), door)
    finally:
        kubectl(instance, "delete", "--ignore-not-found", "-f", "-", text=rules)
        kubectl(instance, "delete", "--ignore-not-found", "-f", "-", text=witness)


def kubectl(instance: Instance, *words: str, text: str = "") -> None:
    environment = {**instance.environment, "HOME": str(instance.state)}
    subprocess.run(
        ["kubectl", *words], env=environment, input=text, text=True, capture_output=True, check=True
    )
