"""run, stop and restart: what they make, and that they keep their hands off everything else."""

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from instance import Instance, running
from ports import free_ports

THEIRS = """\
apiVersion: v1
kind: Service
metadata: {name: theirs}
spec:
  selector: {app: theirs}
  ports: [{port: 80}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: theirs}
spec:
  replicas: 0
  selector: {matchLabels: {app: theirs}}
  template:
    metadata: {labels: {app: theirs}}
    spec:
      containers: [{name: main, image: example, command: ["true"]}]
"""


@pytest.fixture
def theirs(instance: Instance, tmp_path: Path) -> Iterator[None]:
    """A Deployment and a Service that somebody wrote."""
    file = tmp_path / "theirs.yaml"
    file.write_text(THEIRS)
    instance.apirule("apply", "-f", str(file))
    yield
    instance.apirule("delete", "-f", str(file))


def spec(instance: Instance, kind: str, name: str) -> object:
    return yaml.safe_load(instance.apirule("get", kind, name, "-o", "yaml").stdout)["spec"]


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize(
    "words", [("run", "theirs", "--port", "9", "--", "true"), ("stop", "theirs")], ids=" ".join
)
def test_what_others_made_is_neither_changed_nor_ended(
    instance: Instance, words: tuple[str, ...]
) -> None:
    before = [spec(instance, kind, "theirs") for kind in ("deployment", "service")]

    done = instance.apirule(*words, check=False)

    assert done.returncode == 1
    assert "apirule delete deployment theirs" in done.stderr
    assert [spec(instance, kind, "theirs") for kind in ("deployment", "service")] == before


def test_a_service_of_others_is_not_taken_over(instance: Instance, tmp_path: Path) -> None:
    file = tmp_path / "service.yaml"
    file.write_text(THEIRS.partition("---")[0].replace("theirs", "front"))
    instance.apirule("apply", "-f", str(file))

    done = instance.apirule("run", "front", "--port", "9", "--", "true", check=False)
    made = instance.apirule("get", "deployment", "front", check=False)
    instance.apirule("delete", "service", "front")

    assert done.returncode == 1
    assert "apirule delete service front" in done.stderr
    assert 'deployments.apps "front" not found' in made.stderr


def test_the_same_name_again_replaces_what_run_made(instance: Instance) -> None:
    (port,) = free_ports(1)
    server = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    instance.apirule("run", "twice", "--port", str(port), "--", *server)

    words = ("--port", str(port), "--service", f"80:{port}", "-e", "A=b", "--", *server)
    again = instance.apirule("run", "twice", *words)
    shown = json.loads(instance.apirule("get", "deployment", "twice", "-o", "json").stdout)
    stopped = instance.apirule("stop", "twice")

    assert again.stdout == "twice: workload started, sidecar ready, Service default/twice:80\n"
    container = shown["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "A", "value": "b"} in container["env"]
    assert stopped.stdout == "twice: stopped\n"
    assert instance.apirule("get", "service", "twice", check=False).returncode == 1


def test_a_port_is_free_once_its_workload_is_stopped(instance: Instance) -> None:
    """Whatever time the program takes to end."""
    (port,) = free_ports(1)
    slow = "import signal,time;signal.signal(15,lambda *_:(time.sleep(3),exit()));"
    server = f"{slow}import http.server as h;h.test(port={port},bind='127.0.0.1')"
    run = ("run", "slow", "--port", str(port), "--", sys.executable, "-c", server)
    instance.apirule(*run)

    again = instance.apirule(*run[:4], "-e", "A=b", *run[4:])
    stopped = instance.apirule("stop", "slow")

    with socket.create_server(("127.0.0.1", port)):
        assert again.stdout.startswith("slow: workload started")
        assert stopped.stdout == "slow: stopped\n"


def test_a_program_runs_as_the_readme_says() -> None:
    """Also: an instance beside the one that all other tests use."""
    (port,) = free_ports(1)
    server = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    with running() as beside:
        run = beside.apirule("run", "orders", "--port", str(port), "--", *server)
        again = beside.apirule("restart", "orders")
        gateway = beside.apirule("restart", "gateway")
        control = beside.apirule("restart", "control-plane")
        stopped = beside.apirule("stop", "orders")

    assert run.stdout == (
        f"orders: workload started, sidecar ready, Service default/orders:{port}\n"
    )
    assert again.stdout == "orders: restarted\n"
    assert gateway.stdout == "gateway: restarted\n"
    assert control.stdout == "control-plane: restarted\n"
    assert stopped.stdout == "orders: stopped\n"
