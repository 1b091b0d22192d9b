"""Probes: whether a container has started, is ready, and is alive.

A container without a readiness probe counts as ready when each of its ports accepted a connection
once. That is more than Kubernetes asks for, and it spares everybody a 503 right after `apply`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import aiohttp
import anyio
import grpc
import grpc.aio
import msgspec
import structlog
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from apirule.apis.meta import Object
from apirule.local.apiserver.executing import CannotRunError, CannotStartError
from apirule.local.processes.ports import LOOPBACK, Placement
from apirule.mesh.proxy import UNIX

log = structlog.get_logger(__name__)

_FIRST_POLL_S = 0.02
_SLOWEST_POLL_S = 1.0
_POLL_TIMEOUT_S = 2.0
_SERVING = 1

Check = Callable[[], Awaitable[str | None]]
"""Look once; None is success, else what is wrong, in the words of a kubelet."""

Run = Callable[[Sequence[str]], Awaitable[tuple[int, str]]]
"""Run a command beside a container. Gives its exit code, and the end of what it said.

It goes through the supervisor: a fork of this process, with the threads of gRPC in it, can crash.
CannotRunError, or CannotStartError.
"""


class Probe(msgspec.Struct, frozen=True):
    """One probe of a container, with Kubernetes' defaults."""

    check: Check
    initial_delay_s: float = 0.0
    period_s: float = 10.0
    timeout_s: float = 1.0
    successes: int = 1
    failures: int = 3


def read(probe: Object, placement: Placement, container: Object, run: Run) -> Probe:
    """Read a probe of a container."""
    return Probe(
        action(probe, placement, container, run),
        initial_delay_s=max(0.0, float(probe.get("initialDelaySeconds") or 0)),
        # Never less than a second, whatever is written: a probe is no reason to be busy.
        period_s=max(1.0, float(probe.get("periodSeconds") or 10)),
        timeout_s=max(1.0, float(probe.get("timeoutSeconds") or 1)),
        successes=max(1, int(probe.get("successThreshold") or 1)),
        failures=max(1, int(probe.get("failureThreshold") or 3)),
    )


def action(given: Object, placement: Placement, container: Object, run: Run) -> Check:
    """Read what a probe or a hook does."""
    if "httpGet" in given:
        return _http_check(given["httpGet"], placement, container)
    if "tcpSocket" in given:
        return _at(given["tcpSocket"], placement, container, _tcp_check)
    if "grpc" in given:
        service = given["grpc"].get("service") or ""
        return _at(
            given["grpc"], placement, container, lambda address: lambda: _ask(address, service)
        )
    if "sleep" in given:
        return partial(_sleep, float(given["sleep"].get("seconds") or 0))
    return _exec_check((given.get("exec") or {}).get("command") or [], run)


async def _sleep(seconds: float) -> None:
    await anyio.sleep(seconds)


def expected(placement: Placement, container: Object) -> Iterator[tuple[int, str]]:
    """Yield each port of a container with the address where its program is to listen."""
    for port in container.get("ports") or []:
        if address := placement.app(port["containerPort"]):
            yield port["containerPort"], address


async def until_accepting(placement: Placement, container: Object) -> None:
    """Return when every port of the container has accepted a connection."""
    for _, address in expected(placement, container):
        await _until(_tcp_check(address))


async def until_proxy_ready(admin: str) -> None:
    """Return when an Envoy has its configuration and its listeners."""
    await _until(lambda: _get(admin, "/ready"))


async def look(probe: Probe) -> str | None:
    """Look once, for as long as the probe may take."""
    with anyio.move_on_after(probe.timeout_s):
        try:
            return await probe.check()
        except Exception as error:
            # What one Pod asks for can be too strange for any check, and is no reason to end.
            log.exception("probe crashed")
            return f"{type(error).__name__}: {error}"
    return f"no answer within {probe.timeout_s:g}s"


async def _until(check: Check) -> None:
    pause_s = _FIRST_POLL_S
    while True:
        if await look(Probe(check, timeout_s=_POLL_TIMEOUT_S)) is None:
            return
        # There is nothing to wait on: a program does not say that it listens.
        await anyio.sleep(pause_s)
        pause_s = min(pause_s * 1.3, _SLOWEST_POLL_S)


def _tcp_check(address: str) -> Check:
    async def check() -> str | None:
        try:
            if address.startswith(UNIX):
                stream = await anyio.connect_unix(address.removeprefix(UNIX))
                await stream.aclose()
            else:
                host, _, port = address.rpartition(":")
                tcp = await anyio.connect_tcp(host, int(port))
                await tcp.aclose()
        except OSError as error:
            return _dialled(address, error)
        return None

    return check


def _dialled(address: str, error: OSError) -> str:
    # anyio raises one that only wraps the real one.
    cause = error.__cause__ if error.errno is None else error
    why = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error)
    return f"dial {address}: {why.lower()}"


def _http_check(action: Object, placement: Placement, container: Object) -> Check:
    scheme = str(action.get("scheme") or "HTTP").lower()
    headers = {entry["name"]: entry["value"] for entry in action.get("httpHeaders") or []}
    path = "/" + str(action.get("path") or "/").lstrip("/")

    def check(address: str) -> Check:
        return lambda: _get(address, path, scheme=scheme, headers=headers)

    return _at(action, placement, container, check)


async def _get(
    address: str, path: str, *, scheme: str = "http", headers: Mapping[str, str] | None = None
) -> str | None:
    connector: aiohttp.BaseConnector
    if address.startswith(UNIX):
        connector = aiohttp.UnixConnector(address.removeprefix(UNIX), force_close=True)
        address = "localhost"
    else:
        connector = aiohttp.TCPConnector(force_close=True)
    try:
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(
                f"{scheme}://{address}{path}",
                headers={"User-Agent": "kube-probe/apirule", **(headers or {})},
                # A probe asks whether somebody is there, not who.
                ssl=False,
                allow_redirects=False,
            ) as response,
        ):
            if 200 <= response.status < 400:  # noqa: PLR2004 - what Kubernetes calls success
                return None
            return f"HTTP probe failed with statuscode: {response.status}"
    except aiohttp.ClientConnectorError as error:
        return f'Get "{scheme}://{address}{path}": {_dialled(address, error.os_error)}'
    except (aiohttp.ClientError, OSError) as error:
        return f'Get "{scheme}://{address}{path}": {str(error) or type(error).__name__}'


async def _ask(address: str, service: str) -> str | None:
    """Ask by gRPC's health protocol."""
    options = (
        # A connection of its own each time, and no way around by an http_proxy.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    )
    async with grpc.aio.insecure_channel(address, options) as channel:
        # Request and answer have one field each, a string and a number; so have these two.
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=Int32Value.FromString,
        )
        try:
            answer = await check(StringValue(value=service))
        except grpc.aio.AioRpcError as error:
            return f"rpc error: code = {error.code().name} desc = {error.details()}"
    if answer.value == _SERVING:
        return None
    words = dict(enumerate(("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")))
    return f"service unhealthy (responded with {words.get(answer.value, answer.value)})"


def _exec_check(command: Sequence[str], run: Run) -> Check:
    async def check() -> str | None:
        if not command:
            return "it has no command"
        try:
            code, said = await run(command)
        except (CannotRunError, CannotStartError) as error:
            return str(error)
        return (said or f"command {list(command)} exited with {code}") if code else None

    return check


def _at(
    action: Object, placement: Placement, container: Object, check: Callable[[str], Check]
) -> Check:
    """Return a check of the place that an action names; one that fails if there is none."""
    port: Any = action.get("port")
    address = _address(port, action.get("host") or LOOPBACK, placement, container)
    if address is not None:
        return check(address)

    async def fail() -> str:
        return (
            f'no port of container {container["name"]} is named "{port}": give it to one of its '
            "`ports`, or probe a number"
        )

    return fail


def _address(port: Any, host: str, placement: Placement, container: Object) -> str | None:
    """Return where a port of the container is, or a number of this machine. None: unknown name."""
    for declared in container.get("ports") or []:
        if port in (declared["containerPort"], declared.get("name")):
            found = placement.app(declared["containerPort"])
            if found is not None:
                return found
    return f"{host}:{port}" if str(port).isdecimal() else None
