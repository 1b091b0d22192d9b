"""Pods under a whole running machine: what only happens beside everything else."""

import http.client
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from instance import Instance, running
from ports import free_ports
from tests.e2e.gateway import ask, kubectl, token
from tests.shells.kubectls import Kubectl, programs

PATIENCE_S = 30.0
PROBED = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: probed, namespace: default}
spec:
  replicas: 4
  selector: {matchLabels: {app: probed}}
  template:
    metadata: {labels: {app: probed, sidecar.istio.io/inject: "false"}}
    spec:
      containers:
        - name: app
          image: example/app
          command: [sleep, "1000"]
          livenessProbe: &probe
            exec: {command: [sh, -c, echo probed >> probes]}
            periodSeconds: 1
            failureThreshold: 1
            timeoutSeconds: 10
          readinessProbe: *probe
"""


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, "in vain"
        time.sleep(0.05)


def test_commands_of_probes_fail_only_by_themselves(instance: Instance) -> None:
    kubectl(instance, "apply", "-f", "-", text=PROBED)
    kubectl(instance, "rollout", "status", "deploy/probed", "--timeout=30s")

    def probed() -> bool:
        files = instance.state.glob("pods/default_probed-*/work/probes")
        return sum(len(file.read_text().split()) for file in files) > 60

    until(probed)

    events = json.loads(kubectl(instance, "get", "events", "-o", "json").stdout)["items"]
    ours = [e for e in events if e["involvedObject"]["name"].startswith("probed-")]
    failed = [e["message"] for e in ours if e["type"] == "Warning"]
    kubectl(instance, "delete", "deploy", "probed")
    assert failed == []


def test_the_first_request_after_a_start_is_answered_as_any_other() -> None:
    with running("--demo") as machine:
        flags = [
            *("--https-port", str(machine.https_port)),
            *("--http-port", str(machine.http_port)),
            *("--api-port", str(machine.api_port)),
        ]
        first, second = [], []
        for _ in range(3):
            machine.apirule("down")
            machine.apirule("up", *flags)
            first.append(ask(machine, "httpbin").status)
            second.append(ask(machine, "httpbin", token=token(machine)).status)

    assert first == [401] * 3
    assert second == [200] * 3


def test_a_pod_that_only_makes_one_call_succeeds_and_ends(instance: Instance) -> None:
    url = "http://httpbin.default.svc.cluster.local:8000/headers"
    words = ("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", url)
    kubectl(instance, "run", "once", "--image=curlimages/curl", "--restart=Never", "--", *words)

    done = "jsonpath={.status.phase}=Succeeded"
    kubectl(instance, "wait", "pod/once", f"--for={done}", "--timeout=30s")

    # Its proxy was there, and httpbin refuses who brings no token.
    assert kubectl(instance, "logs", "once").stdout == "403"
    ended = "jsonpath={.status.containerStatuses[?(@.name=='istio-proxy')].state.terminated.reason}"
    kubectl(instance, "wait", "pod/once", f"--for={ended}=Completed", "--timeout=30s")
    kubectl(instance, "delete", "pod", "once")


MOUNTED = """
apiVersion: v1
kind: ConfigMap
metadata: {name: words, namespace: default}
data: {greeting: hello}
---
apiVersion: v1
kind: Pod
metadata: {name: mounted, namespace: default}
spec:
  containers:
    - name: app
      image: example/app
      command: [sh, -c, cat /etc/app/greeting; exec sleep 1000]
      volumeMounts: [{name: words, mountPath: /etc/app}]
  volumes: [{name: words, configMap: {name: words}}]
"""


def test_kubectl_exec_finds_the_files_of_a_pod(instance: Instance) -> None:
    kubectl(instance, "apply", "-f", "-", text=MOUNTED)
    kubectl(instance, "wait", "pod/mounted", "--for=condition=Ready", "--timeout=30s")
    newest = Kubectl(programs()[-1], instance.kubeconfig, instance.state)

    said = newest("exec", "mounted", "--", "cat", "/etc/app/greeting")

    assert said == "hello"
    kubectl(instance, "delete", "pod/mounted", "configmap/words")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("no-such-program",), 'it does not start: cannot execute "no-such-program"'),
        (("sh", "-c", "sleep 1000"), ""),
    ],
    ids=["a program that is missing", "a port that another program has"],
)
def test_run_says_at_once_what_will_not_pass_by_itself(
    instance: Instance, words: tuple[str, ...], why: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = free_ports(1)[0] if why else taken.getsockname()[1]

        done = instance.apirule("run", "wrong", "--port", str(port), "--", *words, check=False)

    instance.apirule("stop", "wrong")
    assert done.returncode == 1
    assert (why or f"Another program of this machine listens on port {port}") in done.stderr
    assert done.stderr.endswith("end it: apirule stop wrong\n")


def test_run_says_what_is_wrong_when_time_is_up(instance: Instance) -> None:
    port, other = map(str, free_ports(2))
    serve = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", other)

    def told() -> bool:
        return "NotListening" in kubectl(instance, "get", "events").stdout

    # Begun before: how long a program may take to listen is a matter of the machine.
    begun = instance.apirule("run", "deaf", "--port", port, "--wait", "0", "--", *serve)
    until(told)
    done = instance.apirule("run", "deaf", "--port", port, "--wait", "1", "--", *serve, check=False)

    instance.apirule("stop", "deaf")
    assert (begun.returncode, done.returncode) == (0, 5)
    assert "deaf: it is not ready after 1 s: NotListening: Container deaf listens on" in done.stderr


def test_no_request_fails_while_a_workload_is_replaced(instance: Instance) -> None:
    good = token(instance)
    with requests(instance, good) as answers:
        for _ in range(3):
            kubectl(instance, "rollout", "restart", "deploy/httpbin")
            kubectl(instance, "rollout", "status", "deploy/httpbin", "--timeout=60s")
        until(lambda: len(pods_of(instance, "httpbin")) == 1)

    assert len(answers) > 20
    assert [answer for answer in answers if answer != 200] == []


@contextmanager
def requests(instance: Instance, good: str) -> Iterator[list[int | str]]:
    """Ask again and again, on new connections and on one that stays. Gives the answers."""
    answers: list[int | str] = []
    over = threading.Event()

    def each_anew() -> None:
        while not over.is_set():
            answer = ask(instance, "httpbin", token=good)
            answers.append(answer.status or answer.body)

    def on_one_connection() -> None:
        context = ssl.create_default_context(cafile=str(instance.state / "ca.crt"))
        host = f"httpbin.{instance.domain}"
        connection = http.client.HTTPSConnection(host, instance.https_port)
        while not over.is_set():
            if connection.sock is None:
                # Not every resolver knows names below localhost.
                plain = socket.create_connection(("127.0.0.1", instance.https_port))
                connection.sock = context.wrap_socket(plain, server_hostname=host)
            connection.request("GET", "/headers", headers={"Authorization": f"Bearer {good}"})
            with connection.getresponse() as response:
                response.read()
                answers.append(response.status)
        connection.close()

    threads = [threading.Thread(target=ask_on) for ask_on in (each_anew, on_one_connection)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()


def pods_of(instance: Instance, app: str) -> list[str]:
    return kubectl(instance, "get", "pods", "-l", f"app={app}", "-o", "name").stdout.split()
