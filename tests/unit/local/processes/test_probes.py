from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import grpc
import grpc.aio
import pytest

from apirule.local.apiserver.executing import CannotStartError
from apirule.local.processes import probes
from apirule.local.processes.ports import Place, Placement
from apirule.local.processes.prober import Prober, Subject
from apirule.local.processes.probes import Probe

PLACEMENT = Placement((Place(80, "127.0.0.1:9"),))
CONTAINER = {"name": "app", "ports": [{"containerPort": 80, "name": "web"}]}


async def run(command: Sequence[str]) -> tuple[int, str]:
    if command == ["missing"]:
        raise CannotStartError('cannot execute "missing": No such file or directory', 128)
    return (1, "not yet") if command == ["says"] else (int(command != ["true"]), "")


def read(**probe: Any) -> Probe:
    return probes.read(probe, PLACEMENT, CONTAINER, run)


def test_a_probe_has_the_defaults_of_kubernetes() -> None:
    found = read(tcpSocket={"port": 80})

    assert (found.initial_delay_s, found.period_s, found.timeout_s) == (0, 10, 1)
    assert (found.successes, found.failures) == (1, 3)


def test_numbers_that_make_no_sense_keep_nobody_busy() -> None:
    found = read(
        tcpSocket={"port": 80},
        initialDelaySeconds=-5,
        periodSeconds=-1,
        timeoutSeconds=-1,
        successThreshold=-1,
        failureThreshold=-1,
    )

    assert (found.initial_delay_s, found.period_s, found.timeout_s) == (0, 1, 1)
    assert (found.successes, found.failures) == (1, 1)


@pytest.mark.parametrize(
    ("probe", "wrong"),
    [
        ({"tcpSocket": {"port": "web"}}, "dial 127.0.0.1:9: "),
        ({"tcpSocket": {"port": 80}}, "dial 127.0.0.1:9: "),
        ({"tcpSocket": {"port": "7"}}, "dial 127.0.0.1:7: "),
        ({"tcpSocket": {"port": "http"}}, 'no port of container app is named "http"'),
        ({"httpGet": {"port": "http"}}, 'no port of container app is named "http"'),
        ({"httpGet": {"port": -1}}, 'no port of container app is named "-1"'),
        ({"httpGet": {}}, 'no port of container app is named "None"'),
    ],
    ids=[
        "a name",
        "a number",
        "a number as text",
        "an unknown name",
        "an unknown name for http",
        "a negative number",
        "nothing",
    ],
)
async def test_a_probe_goes_where_the_port_is_or_says_that_there_is_none(
    probe: dict[str, Any], wrong: str
) -> None:
    assert wrong in (await probes.look(read(**probe)) or "")


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        (["true"], None),
        (["false"], "command ['false'] exited with 1"),
        (["says"], "not yet"),
        (["missing"], 'cannot execute "missing": No such file or directory'),
        ([], "it has no command"),
    ],
)
async def test_a_command_says_by_its_exit_code_whether_all_is_well(
    command: list[str], wrong: str | None
) -> None:
    assert await probes.look(read(exec={"command": command})) == wrong


async def test_a_check_that_crashes_is_a_failed_probe() -> None:
    async def crash() -> str | None:
        raise KeyError("x")

    assert await probes.look(Probe(crash)) == "KeyError: 'x'"


async def test_one_container_that_cannot_be_probed_does_not_end_the_probing_of_others() -> None:
    told: list[tuple[str, str]] = []
    reported = anyio.Event()

    async def report(reason: str, message: str) -> None:
        told.append((reason, message))
        reported.set()

    async def fail() -> None:
        raise AssertionError("nobody asked for it")

    def subject(**more: Any) -> Subject:
        return Subject({"name": "app"} | more, 0, Placement(()), run, lambda: None, report, fail)

    strange = {"tcpSocket": {"port": 80}, "periodSeconds": "often"}
    async with anyio.create_task_group() as tasks:
        prober = Prober(tasks)
        bad = prober.watch("bad", 1.0, subject(readinessProbe=strange))
        with anyio.fail_after(10):
            await reported.wait()
        good = prober.watch("good", 1.0, subject())
        with anyio.fail_after(10):
            while not good.ready:
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()

    assert not bad.ready
    assert told[0][0] == "ProbeError"
    assert "often" in told[0][1]


@pytest.mark.parametrize(
    ("asked", "wrong"),
    [
        ({}, None),
        ({"service": "orders"}, None),
        ({"service": "closed"}, "service unhealthy (responded with NOT_SERVING)"),
        ({"service": "none"}, "rpc error: code = NOT_FOUND desc = unknown service"),
    ],
    ids=["the server", "a service", "a service that is closed", "a service nobody knows"],
)
async def test_a_server_is_asked_by_the_health_protocol_of_grpc(
    asked: dict[str, str], wrong: str | None
) -> None:
    async with grpc_server({"": 1, "orders": 1, "closed": 2}) as port:
        assert await probes.look(read(grpc={"port": port, **asked}, timeoutSeconds=10)) == wrong


async def test_a_server_without_the_health_protocol_or_none_at_all_is_not_well() -> None:
    async with grpc_server(None) as port:
        assert "UNIMPLEMENTED" in (
            await probes.look(read(grpc={"port": port}, timeoutSeconds=10)) or ""
        )
    assert "UNAVAILABLE" in (await probes.look(read(grpc={"port": port}, timeoutSeconds=10)) or "")


@asynccontextmanager
async def grpc_server(health: dict[str, int] | None) -> AsyncIterator[int]:
    """Serve the health protocol, written by hand: its messages have one field each."""

    async def check(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        service = request[2:].decode()
        if service not in (health or {}):
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return bytes((8, (health or {})[service]))

    server = grpc.aio.server()
    if health is not None:
        handlers = {"Check": grpc.unary_unary_rpc_method_handler(check)}
        handler = grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers)
        server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)
