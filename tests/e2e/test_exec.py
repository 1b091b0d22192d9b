"""Commands in Pods as users give them: exec and cp, through the real kubectl."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from instance import Instance
from tests.e2e.gateway import kubectl as run_kubectl
from tests.families import below
from tests.shells.kubectls import Kubectl, label, programs

from apirule.local.processes.launch import SupervisorConnection

SPEAKS_WEBSOCKETS = [p for p in programs() if tuple(map(int, label(p).split("."))) >= (1, 30)]
OLDER = [p for p in programs() if p not in SPEAKS_WEBSOCKETS]
URL = "http://{}.default.svc.cluster.local:8000/headers"
OPEN = """
apiVersion: v1
kind: Service
metadata: {name: open, namespace: default}
spec: {selector: {app: open}, ports: [{name: http, port: 8000, targetPort: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: open, namespace: default}
spec:
  selector: {matchLabels: {app: open}}
  template:
    metadata: {labels: {app: open}}
    spec: {containers: [{name: open, image: kennethreitz/httpbin}]}
"""


@pytest.fixture
def kubectl(instance: Instance) -> Kubectl:
    """The newest kubectl there is."""
    return Kubectl(programs()[-1], instance.kubeconfig, instance.state)


@pytest.mark.parametrize("program", SPEAKS_WEBSOCKETS, ids=label)
def test_each_kubectl_that_speaks_websockets_runs_commands(
    instance: Instance, program: Path
) -> None:
    kubectl = Kubectl(program, instance.kubeconfig, instance.state)

    done = kubectl.run("exec", "deploy/httpbin", "--", "sh", "-c", "echo out; echo err >&2; exit 7")

    assert (done.returncode, done.stdout) == (7, "out\n")
    # Nor does it say which of the containers it chose: the annotation of the Pod does.
    assert done.stderr == "err\ncommand terminated with exit code 7\n"


@pytest.mark.parametrize("program", OLDER, ids=label)
def test_an_older_kubectl_is_told_which_one_to_use(instance: Instance, program: Path) -> None:
    kubectl = Kubectl(program, instance.kubeconfig, instance.state)

    done = kubectl.run("exec", "deploy/httpbin", "--", "true")

    assert done.returncode == 1
    assert "kubectl 1.30 or newer" in done.stderr


def test_a_guarded_service_refuses_a_workload_without_a_token(kubectl: Kubectl) -> None:
    assert status_of(kubectl, URL.format("httpbin")) == "403"


def test_an_open_service_sees_the_identity_of_the_caller(
    instance: Instance, kubectl: Kubectl
) -> None:
    run_kubectl(instance, "apply", "-f", "-", text=OPEN)
    run_kubectl(instance, "rollout", "status", "deploy/open", "--timeout=30s")

    assert status_of(kubectl, URL.format("open"), "--retry", "5", "--retry-all-errors") == "200"
    said = kubectl("exec", "deploy/httpbin", "--", "curl", "-s", URL.format("open"))

    seen = json.loads(said)["headers"]["X-Forwarded-Client-Cert"]
    assert "URI=spiffe://cluster.local/ns/default/sa/" in seen


def test_a_pipe_goes_in_and_comes_out_whole(kubectl: Kubectl) -> None:
    text = "".join(f"line {number}\n" for number in range(200_000))

    assert kubectl("exec", "-i", "deploy/httpbin", "--", "cat", stdin=text) == text


def test_without_i_a_command_has_no_input(kubectl: Kubectl) -> None:
    assert kubectl("exec", "deploy/httpbin", "--", "cat", stdin="ignored") == ""


def test_a_command_that_ignores_its_input_ends_all_the_same(kubectl: Kubectl) -> None:
    done = kubectl.run("exec", "-i", "deploy/httpbin", "--", "true", stdin="x" * 5_000_000)

    assert done.returncode == 0, done.stderr


def test_the_environment_is_that_of_the_program(kubectl: Kubectl) -> None:
    said = kubectl("exec", "deploy/httpbin", "--", "sh", "-c", "echo $HOSTNAME $http_proxy; pwd")

    names, folder = said.splitlines()
    assert names.startswith("httpbin-")
    assert "http://127.0.0.1:" in names
    assert folder.endswith("/work")


def test_a_command_that_does_not_exist_says_so(kubectl: Kubectl) -> None:
    done = kubectl.run("exec", "deploy/httpbin", "--", "no-such-program")

    assert done.returncode == 128
    assert 'cannot execute "no-such-program": No such file or directory' in done.stderr


def test_a_terminal_has_the_size_of_the_users_and_passes_the_exit_code(kubectl: Kubectl) -> None:
    # The size comes in a message of its own, a moment after the command has started.
    sized = "while [ \"$(stty size)\" = '0 0' ]; do sleep 0.01; done; stty size"
    command = f"test -t 0 && test -t 1 && {sized} && echo $TERM; read answer; exit $answer"
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 31, 117, 0, 0))

    with subprocess.Popen(
        [kubectl.program, "exec", "-it", "deploy/httpbin", "--", "sh", "-c", command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=kubectl.environment(),
        start_new_session=True,
    ) as running:
        os.close(theirs)
        said = read_until(ours, b"xterm")
        os.write(ours, b"9\n")
        read_until(ours, b"exit code 9")
        code = running.wait(30)
    os.close(ours)

    assert b"31 117" in said
    assert code == 9


def test_what_a_command_started_ends_with_its_client(instance: Instance, kubectl: Kubectl) -> None:
    with subprocess.Popen(
        [
            *(kubectl.program, "exec", "deploy/httpbin", "--", "sh", "-c"),
            "sleep 1000 & env -i setsid sleep 1000 & echo ready; wait",
        ],
        stdout=subprocess.PIPE,
        env=kubectl.environment(),
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        (session,) = sessions(instance)
        before = [session["pid"], *below(session["pid"])]
        assert len(before) == 3
        running.kill()

    eventually(lambda: not sessions(instance), "the session ends")
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before), "all end")


def test_a_command_ends_with_its_pod(instance: Instance, kubectl: Kubectl) -> None:
    kubectl("run", "brief", "--image=curlimages/curl", "--restart=Never")
    kubectl("wait", "pod/brief", "--for=condition=Ready", "--timeout=30s")

    with subprocess.Popen(
        [kubectl.program, "exec", "brief", "--", "sh", "-c", "echo ready; sleep 1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=kubectl.environment(),
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        kubectl("delete", "pod", "brief", "--grace-period=1")
        code = running.wait(30)

    assert code == 137
    assert not sessions(instance)


def test_cp_copies_both_ways(instance: Instance, kubectl: Kubectl) -> None:
    pod = kubectl("get", "pod", "-l", "app=httpbin", "-o", "jsonpath={.items[0].metadata.name}")
    (instance.state / "sent").write_text("there and back\n")

    kubectl("cp", "sent", f"{pod}:{instance.state}/there")
    kubectl("cp", f"{pod}:{instance.state}/there", "back")

    assert (instance.state / "back").read_text() == "there and back\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("attach", "deploy/httpbin"), "kubectl logs -f"),
        (("port-forward", "deploy/httpbin", "0:80"), "host of an APIRule"),
        (("debug", "POD", "--image=busybox"), "kubectl exec"),
    ],
    ids=["attach", "port-forward", "debug"],
)
def test_what_is_not_offered_says_what_to_use_instead(
    kubectl: Kubectl, words: tuple[str, ...], says: str
) -> None:
    pod = kubectl("get", "pod", "-l", "app=httpbin", "-o", "jsonpath={.items[0].metadata.name}")

    done = kubectl.run(*(pod if word == "POD" else word for word in words))

    assert done.returncode == 1
    assert says in done.stderr


def test_proxy_passes_requests_on(kubectl: Kubectl) -> None:
    with subprocess.Popen(
        [kubectl.program, "proxy", "--port=0"],
        stdout=subprocess.PIPE,
        text=True,
        env=kubectl.environment(),
    ) as proxy:
        assert proxy.stdout is not None
        address = proxy.stdout.readline().split()[-1]
        url = f"http://{address}/apis/gateway.kyma-project.io/v2/apirules"
        said = subprocess.run(["curl", "-sS", url], capture_output=True, text=True, check=True)
        proxy.terminate()

    assert json.loads(said.stdout)["kind"] == "APIRuleList"


def status_of(kubectl: Kubectl, url: str, *options: str) -> str:
    curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *options, url]
    return kubectl("exec", "deploy/httpbin", "--", *curl)


def sessions(instance: Instance) -> list[dict[str, int]]:
    with SupervisorConnection(instance.state / "run") as supervisor:
        found = supervisor.ask("list")["processes"]
    return [process for process in found if process["kind"] == "session"]


def read_until(terminal: int, wanted: bytes) -> bytes:
    said = b""
    while wanted not in said:
        try:
            received = os.read(terminal, 4096)
        except OSError:  # the other end was closed
            received = b""
        assert received, said
        said += received
    return said


def eventually(met: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not met():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.02)
