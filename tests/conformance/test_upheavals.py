"""Whatever is changed around a guarded rule, nobody without a token reaches the application.

One instance, three programs, one rule that demands a token. Clients ask without one all the time;
every case turns something upside down, puts it back, and sees the rule answer as it should.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from instance import Instance, running
from ports import free_ports
from tests.conformance.clients import Clients
from tests.conformance.wire import Door

from apirule.local.processes.launch import SupervisorConnection
from apirule.local.workloads.run import objects_for
from apirule.settings import StateFolder

PROGRAMS = ("one", "two", "three")
WITNESS = Path(__file__).parent / "witness.py"
PATIENCE_S = 60.0
REFUSALS = {401, 403, 404, 503}
BARE = """
apiVersion: v1
kind: Pod
metadata:
  name: bare
  namespace: default
  labels: {app: one, sidecar.istio.io/inject: "false"}
spec:
  containers: [{name: httpbin, image: kennethreitz/httpbin, ports: [{containerPort: %d}]}]
"""
SLICE = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: stray, namespace: default, labels: {kubernetes.io/service-name: one}}
addressType: IPv4
ports: [{name: http, port: %d, protocol: TCP}]
endpoints: [{addresses: [127.0.0.1], conditions: {ready: true}}]
"""
Spec = dict[str, object]


class World:
    def __init__(self, instance: Instance, folder: Path) -> None:
        self.instance = instance
        self.folder = folder
        self.ports = dict(zip(PROGRAMS, free_ports(len(PROGRAMS)), strict=True))
        self.door = Door(instance.https_port, instance.state / "ca.crt")
        self.host = f"guarded.{instance.domain}"
        self.token = ""
        issuer = f"http://oidc.{instance.domain}:{instance.http_port}"
        self.jwt: Spec = {
            "authentications": [{"issuer": issuer, "jwksUri": f"{issuer}/oauth2/certs"}]
        }

    # What there is

    def start(self) -> None:
        for name, port in self.ports.items():
            argv = [sys.executable, str(WITNESS), str(port), str(self.folder / name)]
            program = objects_for(
                name, "default", port=port, service_port=80, argv=argv, cwd=str(self.folder)
            )
            self.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(program))
        for name in PROGRAMS:
            self.kubectl("rollout", "status", f"deployment/{name}", "--timeout=60s")
        self.token = self.instance.apirule("token", "get").stdout.strip()
        self.lead("one")
        self.is_right()

    def apply(self, name: str, host: str, service: str, access: Spec) -> None:
        rule = {
            "apiVersion": "gateway.kyma-project.io/v2",
            "kind": "APIRule",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "hosts": [host],
                "gateway": "kyma-system/kyma-gateway",
                "service": {"name": service, "port": 80},
                "rules": [{"path": "/*", "methods": ["GET"], **access}],
            },
        }
        self.kubectl("apply", "-f", "-", text=json.dumps(rule))

    def lead(self, service: str, **access: object) -> None:
        self.apply("guarded", self.host, service, access or {"jwt": self.jwt})

    def wait(self, name: str, state: str = "Ready") -> None:
        wanted = f"--for=jsonpath={{.status.state}}={state}"
        self.kubectl("wait", f"apirule/{name}", wanted, f"--timeout={PATIENCE_S:.0f}s")

    def kubectl(self, *words: str, text: str = "", check: bool = True) -> str:
        environment = {**self.instance.environment, "HOME": str(self.instance.state)}
        done = subprocess.run(
            ["kubectl", *words],
            env=environment,
            input=text,
            text=True,
            capture_output=True,
            check=False,
        )
        if check:
            assert done.returncode == 0, done.stderr
        return done.stdout

    def pid(self, wanted: Callable[[str], bool]) -> int:
        with SupervisorConnection(StateFolder(self.instance.state).run) as supervisor:
            found = supervisor.ask("list")["processes"]
        (pid,) = [process["pid"] for process in found if wanted(process["name"])]
        return int(pid)

    # What is asked of it

    def status(self, token: str = "") -> int:
        header = f"Authorization: Bearer {token}\r\n" if token else ""
        request = f"GET /x HTTP/1.1\r\nHost: {self.host}\r\n{header}Connection: close\r\n\r\n"
        try:
            return self.door.send(self.host, request.encode()).status
        except OSError:
            return 0

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"in vain: {what}"
            time.sleep(0.01)

    def is_right(self) -> None:
        def asks_for_a_token() -> bool:
            return (self.status(self.token), self.status()) == (200, 401)

        self.until(asks_for_a_token, "the rule lets a token in, and nobody else")

    def reached(self) -> int:
        """Return how many requests without a token the programs have seen."""
        lines = [
            line
            for name in PROGRAMS
            if (self.folder / name).exists()
            for line in (self.folder / name).read_text().splitlines()
        ]
        requests = [dict(json.loads(line)["headers"]) for line in lines]
        return sum(
            self.host in headers["host"] and "authorization" not in headers for headers in requests
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running() as instance:
        made = World(instance, tmp_path_factory.mktemp("programs"))
        made.start()
        yield made


@pytest.fixture
def hammered(world: World) -> Iterator[World]:
    """The world under load; at the end it is right, and nothing has come through."""
    before = world.reached()
    with Clients(world.door, world.host, "/x") as clients:
        yield world
        world.is_right()
    assert clients.statuses[401] > 0
    assert set(clients.statuses) <= REFUSALS, clients.statuses
    assert world.reached() == before


def test_it_is_led_to_other_services(hammered: World) -> None:
    for service in ("two", "three", "two", "one"):
        hammered.lead(service)
        hammered.wait("guarded")
    for service in ("two", "one", "three", "one"):
        hammered.lead(service)


def test_it_is_led_to_where_a_wildcard_is_open(hammered: World) -> None:
    hammered.apply("wild", f"*.{hammered.instance.domain}", "two", {"noAuth": True})
    hammered.wait("wild")
    try:
        for service in ("two", "one", "two", "one"):
            hammered.lead(service)
            hammered.wait("guarded")
        for service in ("two", "one"):
            hammered.lead(service)
    finally:
        hammered.wait("guarded")
        hammered.kubectl("delete", "apirule", "wild")


def test_its_routes_are_deleted_beside_an_open_wildcard(hammered: World) -> None:
    hammered.apply("wild", f"*.{hammered.instance.domain}", "one", {"noAuth": True})
    hammered.wait("wild")
    hammered.wait("guarded")
    owned = "apirule.gateway.kyma-project.io/name=guarded"
    try:
        for _ in range(3):
            hammered.kubectl("delete", "virtualservice", "-l", owned)
            hammered.is_right()
    finally:
        hammered.kubectl("delete", "apirule", "wild")


def test_its_service_selects_other_pods(hammered: World) -> None:
    for name in ("two", "one", "three", "one"):
        patch = {"spec": {"selector": {"app": name}, "ports": [port(hammered, name)]}}
        hammered.kubectl("patch", "service", "one", "--type=merge", "-p", json.dumps(patch))
        hammered.is_right()


def port(world: World, name: str) -> Spec:
    return {"name": "http", "port": 80, "targetPort": world.ports[name], "protocol": "TCP"}


def test_its_pod_loses_the_label_that_its_policies_look_for(hammered: World) -> None:
    (pod,) = hammered.kubectl("get", "pods", "-l", "app=one", "-o", "name").split()
    hammered.kubectl("label", pod, "app=nobody", "--overwrite")
    hammered.until(lambda: hammered.status(hammered.token) == 503, "nobody is selected")
    hammered.kubectl("label", pod, "app=one", "--overwrite")


@pytest.mark.parametrize(
    "kind", ["authorizationpolicies", "requestauthentications", "virtualservices"]
)
def test_what_was_made_of_it_is_deleted(hammered: World, kind: str) -> None:
    for _ in range(3):
        hammered.kubectl("delete", kind, "--all", "-n", "default")
        hammered.is_right()


def test_its_policies_are_to_be_tried_only(hammered: World) -> None:
    hammered.kubectl("annotate", "authorizationpolicies", "--all", "istio.io/dry-run=true")

    def taken_off() -> bool:
        return "dry-run" not in hammered.kubectl("get", "authorizationpolicies", "-o", "yaml")

    hammered.until(taken_off, "the annotation goes")


def test_its_policies_are_deleted_while_it_has_mistakes(hammered: World) -> None:
    hammered.lead("missing")
    hammered.wait("guarded", "Error")
    hammered.kubectl("delete", "authorizationpolicies", "--all", "-n", "default")
    hammered.is_right()
    hammered.lead("one")
    hammered.wait("guarded")


def test_a_pod_without_a_sidecar_joins_its_service(hammered: World) -> None:
    text = BARE % hammered.ports["one"]
    hammered.kubectl("apply", "-f", "-", text=text)
    try:
        hammered.kubectl("wait", "pod/bare", "--for=condition=Ready", "--timeout=60s")
        hammered.wait("guarded", "Error")
        hammered.is_right()
    finally:
        hammered.kubectl("delete", "pod", "bare")
    hammered.wait("guarded")


def test_somebody_lists_an_endpoint_of_another_kind(hammered: World) -> None:
    hammered.kubectl("apply", "-f", "-", text=SLICE % hammered.ports["two"])
    hammered.is_right()
    hammered.kubectl("delete", "endpointslice", "stray")


def test_the_sidecar_it_is_led_to_is_slow_to_answer(hammered: World) -> None:
    sidecar = hammered.pid(lambda name: name.startswith("default/two-") and name.endswith("proxy"))
    os.kill(sidecar, signal.SIGSTOP)
    try:
        hammered.lead("two")
        hammered.until(lambda: routed_to(hammered, "two"), "the gateway takes the route")
    finally:
        os.kill(sidecar, signal.SIGCONT)
    hammered.is_right()
    hammered.lead("one")
    hammered.wait("guarded")


def routed_to(world: World, service: str) -> bool:
    """Whether the gateway has acknowledged routes to a Service."""
    owned = "apirule.gateway.kyma-project.io/name=guarded"
    text = world.kubectl("get", "virtualservice", "-l", owned, "-o", "json")
    (routes,) = json.loads(text)["items"]
    conditions = routes.get("status", {}).get("conditions", [])
    return f'"{service}.default.svc' in json.dumps(routes["spec"]) and any(
        one["type"] == "Reconciled"
        and one["status"] == "True"
        and one["observedGeneration"] == routes["metadata"]["generation"]
        for one in conditions
    )


@pytest.mark.parametrize("moment", ["update VirtualService", "update AuthorizationPolicy"])
def test_the_control_plane_is_killed_while_it_moves(hammered: World, moment: str) -> None:
    log = hammered.instance.state / "logs" / "control-plane.log"
    for service in ("two", "one", "two", "one"):
        pid = hammered.pid(lambda name: name == "control-plane")
        told = log.read_text().count(moment)
        hammered.lead(service)
        hammered.until(lambda: log.read_text().count(moment) > told, moment)  # noqa: B023 - at once
        os.kill(pid, signal.SIGKILL)
        hammered.is_right()
        hammered.until(lambda: is_ready(hammered), "it is ready again")


def is_ready(world: World) -> bool:
    wanted = "jsonpath={.status.state}{.status.observedGeneration}/{.metadata.generation}"
    said = world.kubectl("get", "apirule", "guarded", "-o", wanted, check=False)
    state, _, generation = said.partition("/")
    return bool(generation) and state == f"Ready{generation}"
