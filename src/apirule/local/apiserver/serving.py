"""The API server on a port: uvicorn inside our event loop, TLS with client certificates only.

The certificate of the client is the authentication. TLS ends a connection that shows one of another
CA; a request on a connection that showed none is refused before the API server hears of it. uvicorn
would wait for open watches on its way out; here the end of the task ends them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from asyncio import BaseTransport, Transport
from collections.abc import Iterator
from pathlib import Path
from socket import AF_INET, AF_INET6, IPPROTO_TCP, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET, socket
from typing import Any

import anyio
import msgspec
import uvicorn
from anyio.abc import TaskStatus
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from apirule.local.apiserver import errors, refusals
from apirule.local.apiserver.app import ApiServer
from apirule.local.apiserver.executing import MESSAGE_LIMIT_BYTES
from apirule.local.apiserver.http import Response
from apirule.problem import SetupError

_NOBODY = (
    "Unauthorized: show a client certificate of this server's CA. `apirule kubeconfig` prints a"
    " kubeconfig that has one, for kubectl --kubeconfig and for KUBECONFIG"
)

_KEEP_ALIVE_S = 90
_DRAIN_S = 1


class TlsFiles(msgspec.Struct, frozen=True):
    """PEM files: what the server shows, and the CA its clients must be signed by."""

    certificate: Path
    key: Path
    client_ca: Path


async def serve(
    app: ApiServer,
    *,
    host: str,
    port: int,
    tls: TlsFiles,
    task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; reports the port. SetupError: it is taken, or the files do not fit."""
    listener = _listen(host, port)
    try:
        server = _Server(_config(app, tls))
    except (ssl.SSLError, OSError) as error:
        listener.close()
        raise SetupError(
            f"The certificate of the API server cannot be used: {error}.",
            f"Delete {tls.certificate.parent} to have certificates made anew.",
        ) from error
    async with anyio.create_task_group() as tasks:
        await tasks.start(app.run)
        ended = anyio.Event()

        async def run_server() -> None:
            # Shielded: uvicorn is told to stop, it is not torn out of its exchanges.
            with anyio.CancelScope(shield=True):
                await server.serve([listener])
            ended.set()

        tasks.start_soon(run_server)
        try:
            await server.ready.wait()
            task_status.started(listener.getsockname()[1])
            await anyio.sleep_forever()
        finally:
            app.end_watches()
            server.should_exit = True
            with anyio.CancelScope(shield=True):
                await ended.wait()
            listener.close()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: those belong to the whole process."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = anyio.Event()

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Give running requests a moment, then cut what is left.

        An idle client need not answer the end of TLS, and uvicorn would wait for it.
        """
        for connection in tuple(self.server_state.connections):
            connection.shutdown()
        running = tuple(self.server_state.tasks)
        if running:
            await asyncio.wait(running, timeout=_DRAIN_S)
        for connection in tuple(self.server_state.connections):
            transport: Any = connection.transport
            transport.abort()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(HttpToolsProtocol):
    """Passes the subject of the client's certificate on to the application."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.app_state = {**self.app_state, **_peer(transport)}

    def _should_upgrade(self) -> bool:
        # RFC 6455, 4.1: anything but a GET is no handshake, whatever it says.
        return self.scope["method"] == "GET" and super()._should_upgrade()


class _WebSocketProtocol(WebSocketsSansIOProtocol):
    """The same for a connection that has become a WebSocket."""

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self.app_state = {**self.app_state, **_peer(transport)}

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            # A refusal is an answer, too; otherwise it would be logged as a missing one.
            self.handshake_complete = True


class _Guard:
    """Lets through only requests whose connection showed a certificate that TLS has verified."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "peer_user" in (scope.get("state") or {}):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await Response.refusal(errors.unauthorized(_NOBODY)).send(send)
        elif scope["type"] == "websocket":
            await refusals.refuse_websocket(errors.unauthorized(_NOBODY), receive, send)


def _peer(transport: BaseTransport) -> dict[str, Any]:
    """Return who is at the other end; nothing if there was no certificate."""
    tls = transport.get_extra_info("ssl_object")
    # Empty, too, for a certificate that was not verified.
    certificate = tls.getpeercert() if tls is not None else None
    if not certificate:
        return {}
    user, groups = _subject(certificate)
    return {"peer_user": user, "peer_groups": groups}


def _subject(certificate: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    parts = [pair for name in certificate.get("subject", ()) for pair in name]
    names = [value for key, value in parts if key == "commonName"]
    groups = tuple(value for key, value in parts if key == "organizationName")
    return (names[0] if names else "", groups)


def _config(app: ApiServer, tls: TlsFiles) -> uvicorn.Config:
    config = uvicorn.Config(
        _Guard(app),
        http=_Protocol,
        # Other upgrades arrive as plain requests, which get a Status that says what to do instead.
        ws=_WebSocketProtocol,
        ws_max_size=MESSAGE_LIMIT_BYTES,
        ws_per_message_deflate=False,
        # A client whose input has to wait is not read from, so its answers to pings are not seen;
        # that a connection is gone shows in sending one.
        ws_ping_timeout=None,
        lifespan="off",
        log_config=None,
        # It warns of every upgrade request; we answer those.
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_DRAIN_S,
        ssl_certfile=tls.certificate,
        ssl_keyfile=tls.key,
        ssl_ca_certs=str(tls.client_ca),
        # Optional for TLS alone, which could not say what is missing; see _Guard.
        ssl_cert_reqs=ssl.CERT_OPTIONAL,
    )
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    return config


def _listen(host: str, port: int) -> socket:
    # asyncio switches Nagle's algorithm off only for a socket that says it is TCP; with it, each
    # answer would wait 40 ms for an acknowledgement.
    listener = socket(AF_INET6 if ":" in host else AF_INET, SOCK_STREAM, IPPROTO_TCP)
    listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise SetupError(
            f"The API server cannot listen on {host}:{port}: {error.strerror}.",
            "Stop what listens there, or choose another port.",
        ) from error
    return listener
