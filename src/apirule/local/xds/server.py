"""The gRPC server Envoy talks to: configuration (delta ADS) and access log on one unix socket.

There is no TLS and no token on it. The socket stands in a folder only its owner may enter, and
whoever may enter it could read the keys that are handed out here from this process anyway.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import grpc
import grpc.aio
import structlog
from anyio.abc import TaskStatus
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

from apirule.local.xds.accesslog import DenialLog
from apirule.local.xds.fleet import Connection, Fleet
from apirule.problem import SetupError

log = structlog.get_logger()

UNIX_PATH_MAX = 107
OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", -1),
    # A proxy that hangs is found out and no longer waited for.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.so_reuseport", 0),
)


class XdsServer:
    """Serves a fleet. ``run`` returns when it is cancelled; streams end, and proxies come back."""

    def __init__(self, socket: Path, fleet: Fleet, denials: DenialLog) -> None:
        self._socket = socket
        self._configuration = _Configuration(fleet)
        self._access_log = _AccessLog(denials)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        # gRPC deletes the path it has bound when it gets round to closing it, which may be after
        # the next server has bound the same one. So each binds a name of its own and moves it.
        own = self._socket.with_name(f"{self._socket.name}.{secrets.token_hex(3)}")
        if len(str(own).encode()) > UNIX_PATH_MAX:
            raise SetupError(
                f"The path {own} of a socket is longer than {UNIX_PATH_MAX} bytes.",
                "Choose a state folder with a shorter path.",
            )
        server = grpc.aio.server(options=OPTIONS)
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(self._configuration, server)
        als_pb2_grpc.add_AccessLogServiceServicer_to_server(self._access_log, server)
        try:
            server.add_insecure_port(f"unix:{own}")
            await server.start()
            own.chmod(0o600)
            own.replace(self._socket)
        except (OSError, RuntimeError) as error:
            raise SetupError(
                f"The socket {self._socket} cannot be opened: {error}.",
                "See that its folder exists and is yours.",
            ) from error
        try:
            log.debug("xds server started", socket=str(self._socket))
            task_status.started()
            await server.wait_for_termination()
        finally:
            with anyio.CancelScope(shield=True):
                await server.stop(grace=None)


class _Configuration(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]  # untyped
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def DeltaAggregatedResources(  # noqa: N802 - the name in the service definition
        self,
        requests: AsyncIterator[discovery_pb2.DeltaDiscoveryRequest],
        context: grpc.aio.ServicerContext[
            discovery_pb2.DeltaDiscoveryRequest, discovery_pb2.DeltaDiscoveryResponse
        ],
    ) -> None:
        first = await anext(requests, None)
        if first is None:
            return
        if not first.node.id:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first request names no node")
        with self._fleet.connection(first.node.id) as connection:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_write, connection, context)
                self._fleet.receive(connection, first)
                async for request in requests:
                    self._fleet.receive(connection, request)
                tasks.cancel_scope.cancel()


async def _write(
    connection: Connection,
    context: grpc.aio.ServicerContext[
        discovery_pb2.DeltaDiscoveryRequest, discovery_pb2.DeltaDiscoveryResponse
    ],
) -> None:
    async for response in connection.outbox:
        await context.write(response)


class _AccessLog(als_pb2_grpc.AccessLogServiceServicer):  # type: ignore[misc]  # untyped
    def __init__(self, denials: DenialLog) -> None:
        self._denials = denials

    async def StreamAccessLogs(  # noqa: N802 - the name in the service definition
        self,
        messages: AsyncIterator[als_pb2.StreamAccessLogsMessage],
        _context: object,
    ) -> als_pb2.StreamAccessLogsResponse:
        node_id = ""
        async for message in messages:
            # Only the first message of a stream says who speaks.
            node_id = message.identifier.node.id or node_id
            self._denials.take(node_id, message)
        return als_pb2.StreamAccessLogsResponse()
