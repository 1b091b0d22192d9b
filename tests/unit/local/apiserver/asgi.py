"""Requests to an API server without a network: the ASGI exchange, in the event loop of the test."""

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from apirule.local.apiserver.app import ApiServer


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    body: Any = None
    """Bytes as they are, anything else as JSON."""
    content_type: str = "application/json"
    query: str = ""
    accept: str = ""


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    warnings: tuple[str, ...] = ()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def ask(app: ApiServer, request: Request) -> Answer:
    body = request.body if isinstance(request.body, bytes) else json.dumps(request.body).encode()
    waiting = [{"type": "http.request", "body": b"" if request.body is None else body}]
    sent: list[Any] = []

    async def receive() -> Any:
        return waiting.pop() if waiting else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": request.method,
        "path": request.path,
        "raw_path": quote(request.path, safe="/%").encode(),
        "query_string": request.query.encode(),
        "headers": [
            (b"content-type", request.content_type.encode()),
            (b"accept", request.accept.encode()),
        ],
    }
    await app(scope, receive, send)
    start, *parts = sent
    warnings = tuple(value.decode() for name, value in start["headers"] if name == b"warning")
    return Answer(start["status"], b"".join(part.get("body", b"") for part in parts), warnings)
