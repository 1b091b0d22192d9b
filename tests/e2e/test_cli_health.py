"""doctor and status: what runs is looked at, and what does not answer is named in a few seconds."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from instance import Instance
from ports import free_ports

from apirule.local.processes.launch import SupervisorConnection
from apirule.settings import StateFolder

UNREACHABLE = """\
apiVersion: gateway.kyma-project.io/v2
kind: APIRule
metadata: {name: unreachable}
spec:
  hosts: [unreachable.kyma.localhost]
  gateway: kyma-system/kyma-gateway
  service: {name: httpbin, port: 8000}
  rules:
    - path: /*
      methods: [GET]
      jwt: {authentications: [{issuer: "http://127.0.0.1:1", jwksUri: "http://127.0.0.1:1/keys"}]}
"""


def doctor(instance: Instance) -> tuple[int, dict[str, dict[str, Any]]]:
    done = instance.apirule("doctor", "-o", "json", check=False)
    return done.returncode, {one["text"]: one for one in json.loads(done.stdout)}


@contextmanager
def stopped(instance: Instance) -> Iterator[None]:
    """The control plane hangs."""
    with SupervisorConnection(StateFolder(instance.state).run) as supervisor:
        processes = supervisor.ask("list")["processes"]
    pid = next(int(p["pid"]) for p in processes if p["name"] == "control-plane")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_healthy_instance_is_found_healthy(instance: Instance) -> None:
    code, found = doctor(instance)

    assert (code, [one for one in found.values() if one["verdict"] == "FAIL"]) == (0, [])
    for text in (
        f"port {instance.https_port} is apirule's",
        "kubectl context 'apirule' is this instance",
        "the gateway answers",
    ):
        assert found[text]["verdict"] == "ok"
    issuer = f"http://oidc.kyma.localhost:{instance.http_port}/oauth2/certs"
    for beginning in ("the control plane answers: ", f"the key set {issuer} has "):
        assert any(text.startswith(beginning) for text in found)
    assert any(text.endswith("Envoys of Pods ready") for text in found)


def test_a_control_plane_that_hangs_is_named(instance: Instance) -> None:
    # Each for itself: no longer than it takes to be noticed.
    with stopped(instance):
        code, found = doctor(instance)
    with stopped(instance):
        status = instance.apirule("status", "-o", "json", check=False)
    with stopped(instance):
        listing = instance.apirule("get", "apirules", check=False)

    hangs = "the control plane does not answer: The API server does not answer."
    assert (code, found[hangs]["verdict"]) == (1, "FAIL")
    assert status.returncode == 1
    assert json.loads(status.stdout)["components"][0]["state"] == "NotReady"
    assert listing.returncode == 3
    assert listing.stderr.startswith("error: The API server does not answer.")


def test_a_key_set_that_cannot_be_had_is_named(instance: Instance, tmp_path: Path) -> None:
    file = tmp_path / "rule.yaml"
    file.write_text(UNREACHABLE)
    instance.apirule("apply", "-f", str(file))

    code, found = doctor(instance)
    instance.apirule("delete", "-f", str(file))

    named = [text for text in found if "http://127.0.0.1:1/keys cannot be had" in text]
    assert (code, len(named)) == (1, 1)


def test_a_program_on_a_plain_port_is_named(instance: Instance) -> None:
    (port,) = free_ports(1)
    server = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    instance.apirule("run", "plain", "--port", str(port), "--", *server)

    code, found = doctor(instance)
    status = instance.apirule("status").stdout
    instance.apirule("stop", "plain")

    named = [text for text in found if f"listens on plain 127.0.0.1:{port}" in text]
    assert (code, len(named)) == (0, 1)
    assert named[0].startswith("Pod default/plain-")
    line = next(line for line in status.splitlines() if line.startswith("default/plain"))
    assert f"127.0.0.1:{port}" in line


def test_a_program_that_other_machines_can_call_is_named(instance: Instance) -> None:
    (port,) = free_ports(1)
    server = [sys.executable, "-m", "http.server", str(port), "--bind", "0.0.0.0"]  # noqa: S104 - what it is about
    instance.apirule("run", "open", "--port", str(port), "--", *server)

    code, found = doctor(instance)
    instance.apirule("stop", "open")

    named = [text for text in found if f"listens on 0.0.0.0:{port}: other machines" in text]
    assert (code, len(named)) == (0, 1)
    assert named[0].startswith("Pod default/open-")


def test_status_says_which_process_is_which(instance: Instance) -> None:
    components = {one["name"]: one for one in instance.status()["components"]}
    pids = {process.pid for process in instance.processes()}

    gateway = next(one for name, one in components.items() if "ingressgateway" in name)
    httpbin = next(one for name, one in components.items() if name.startswith("default/httpbin"))
    version, _, pid = gateway["detail"].partition(", pid ")
    assert version.startswith("envoy 1.")
    assert int(pid.partition(",")[0]) in pids
    assert httpbin["detail"].startswith("sidecar pid ")
