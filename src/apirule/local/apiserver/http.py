"""One HTTP exchange over ASGI: the request as values, the answer as bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec
from starlette.types import Receive, Scope, Send

from apirule.local.apiserver import errors

BODY_LIMIT_BYTES = 3 * 1024 * 1024
"""The same as etcd's default request size allows a real API server."""

JSON = "application/json"

encode = msgspec.json.Encoder().encode

_MOST_WARNINGS = 64
"""Some clients refuse an answer with more than about a hundred headers."""
_MOST_WARNING_CHARACTERS = 4096
"""All warnings together, as with a real API server."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_NUMBER = re.compile(r"[-+]?[0-9]+")
_DIGITS = 18
_FALSE = frozenset(("", "0", "false", "False", "FALSE", "f", "F"))


class MediaType(msgspec.Struct, frozen=True):
    """``application/json;as=Table;g=meta.k8s.io;v=v1``: clients order the parameters freely."""

    name: str
    parameters: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> MediaType:
        name, *rest = text.split(";")
        pairs = (part.partition("=") for part in rest)
        parameters = {key.strip().lower(): value.strip() for key, _, value in pairs}
        return cls(name.strip().lower(), parameters)


class Request:
    """A request whose body has not been read yet."""

    __slots__ = ("headers", "method", "path", "query", "receive", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self.method: str = scope["method"]
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        # Split before decoding: an escaped slash is part of a name, not a separator.
        self.path = tuple(unquote(part) for part in raw.decode("latin-1").split("/") if part)
        self.query: dict[str, str] = {}
        for key, value in parse_qsl(
            scope["query_string"].decode("latin-1"), keep_blank_values=True
        ):
            self.query.setdefault(key, value)
        self.headers: dict[str, str] = {
            key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]
        }

    def flag(self, name: str) -> bool:
        """Tell whether a query parameter is set; anything but a way to say false is true."""
        return name in self.query and self.query[name] not in _FALSE

    def number(self, name: str) -> int | None:
        text = self.query.get(name, "")
        if not text:
            return None
        if not _NUMBER.fullmatch(text):
            raise errors.bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax')
        if len(text) > _DIGITS:
            raise errors.bad_request(f'strconv.ParseInt: parsing "{text}": value out of range')
        return int(text)

    @property
    def content_type(self) -> MediaType:
        return MediaType.parse(self.headers.get("content-type", JSON))

    @property
    def accepts(self) -> list[MediaType]:
        text = self.headers.get("accept") or JSON
        return [MediaType.parse(part) for part in text.split(",")]

    @property
    def field_manager(self) -> str:
        named = self.query.get("fieldManager", "")
        agent = self.headers.get("user-agent", "").partition("/")[0]
        # Kubernetes cuts names to the length that fits into its own records.
        return (named or agent or "unknown")[:128]

    async def body(self) -> bytes:
        """Read the whole body. StatusError 413: it is larger than we store."""
        chunks = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > BODY_LIMIT_BYTES:
                raise errors.too_large(BODY_LIMIT_BYTES)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete."""


class Response(msgspec.Struct):
    """An answer that is known in full."""

    body: bytes
    status: int = 200
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def json(cls, value: Any, status: int = 200) -> Response:
        return cls(encode(value), int(status))

    @classmethod
    def text(cls, value: str, status: int = 200) -> Response:
        return cls(value.encode(), status, "text/plain; charset=utf-8")

    @classmethod
    def refusal(cls, error: errors.StatusError) -> Response:
        return cls(encode(error.as_object()), int(error.code), JSON, tuple(error.headers.items()))

    async def send(self, send: Send, warnings: Iterable[str] = ()) -> None:
        headers = [
            (b"content-type", self.content_type.encode()),
            (b"content-length", str(len(self.body)).encode()),
            (b"cache-control", b"no-cache, private"),
            *((key.encode(), value.encode("latin-1", "replace")) for key, value in self.headers),
            *warning_headers(warnings),
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def warning_headers(texts: Iterable[str]) -> Iterator[tuple[bytes, bytes]]:
    """Yield a header for each text; what is too much for a client is counted in a last one."""
    unique = list(dict.fromkeys(texts))
    size = 0
    for index, text in enumerate(unique):
        size += len(text)
        if index == _MOST_WARNINGS or size > _MOST_WARNING_CHARACTERS:
            yield b"warning", warning_header(f"{len(unique) - index} more warnings")
            return
        yield b"warning", warning_header(text)


def warning_header(text: str) -> bytes:
    """Return a Warning header field (RFC 7234, 5.5) that kubectl prints as ``Warning: text``."""
    one_line = " ".join(_CONTROL.sub(" ", text).split())
    quoted = one_line.replace("\\", "\\\\").replace('"', '\\"')
    return f'299 - "{quoted}"'.encode(errors="replace")


async def start_stream(send: Send, content_type: str, warnings: Iterable[str] = ()) -> None:
    headers = [
        (b"content-type", content_type.encode()),
        (b"cache-control", b"no-cache, private"),
        *warning_headers(warnings),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    # Clients wait for the header before they believe that a watch is open.
    await send({"type": "http.response.body", "body": b"", "more_body": True})


async def disconnected(receive: Receive) -> None:
    """Return when the client has gone. For streams, whose body has been read or is empty."""
    while (await receive())["type"] != "http.disconnect":
        pass
