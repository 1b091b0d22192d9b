"""The issuer on a loopback port of its own; the gateway publishes it under its host."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from socket import AF_INET, IPPROTO_TCP, SOCK_STREAM, socket

import anyio
import uvicorn
from anyio.abc import TaskStatus
from starlette.types import ASGIApp

_DRAIN_S = 1


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: those belong to the whole process."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = anyio.Event()

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_issuer(
    app: ASGIApp, *, task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Serve until cancelled; reports the port."""
    # Named so that asyncio turns Nagle off; otherwise every answer waits 40 ms.
    listener = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        # Whoever reaches the port could say that a request came from elsewhere.
        proxy_headers=False,
        timeout_graceful_shutdown=_DRAIN_S,
    )
    server = _Server(config)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [listener])
        await server.ready.wait()
        task_status.started(listener.getsockname()[1])
        try:
            await anyio.sleep_forever()
        finally:
            server.should_exit = True
