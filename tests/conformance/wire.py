"""Requests byte by byte: what curl would correct before it is sent."""

import re
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import Path

TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Reply:
    """Status 0: the connection was closed without an answer."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Door:
    """A TLS port and whom it must be: the gateway as clients see it."""

    port: int
    ca: Path

    def connect(self, name: str, *alpn: str) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(self.ca))
        context.set_alpn_protocols(list(alpn or ("http/1.1",)))
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_S)
        return context.wrap_socket(plain, server_hostname=name)

    def send(self, name: str, request: bytes) -> Reply:
        """Send bytes and read the first answer."""
        with self.connect(name) as connection:
            try:
                connection.sendall(request)
                return _reply(connection, request)
            except (OSError, HTTPException):
                return Reply(0)

    def statuses(self, name: str, requests: bytes) -> list[int]:
        """Send bytes and read until the other side closes; return the status of every answer."""
        received = bytearray()
        with self.connect(name) as connection, suppress(OSError):
            connection.sendall(requests)
            while data := connection.recv(65536):
                received += data
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", received)]


def _reply(connection: socket.socket, request: bytes) -> Reply:
    method = request.split(b" ", 1)[0].decode("latin-1")
    response = HTTPResponse(connection, method=method)
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    if response.status == 101:
        return Reply(101, headers)
    return Reply(response.status, headers, response.read())


# ── HTTP/2, the little of it that a request needs ───────────────────────────────────────────────

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, RESET, SETTINGS, PING, GOAWAY = 1, 3, 4, 6, 7
END_STREAM, END_HEADERS, ACK = 1, 4, 1
_INDEXED = {8: 200, 9: 204, 10: 206, 11: 304, 12: 400, 13: 404, 14: 500}
_DIGITS = {f"{digit:05b}": str(digit) for digit in range(3)} | {
    f"{0b011001 + digit - 3:06b}": str(digit) for digit in range(3, 10)
}


def http2(door: Door, name: str, headers: list[tuple[str, str]]) -> Reply:
    """Send one request of exactly these fields and return the status of the answer."""
    block = header_block(headers)
    with door.connect(name, "h2") as connection:
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
        connection.sendall(frame(HEADERS, END_STREAM | END_HEADERS, 1, block))
        stream = connection.makefile("rb")
        while head := stream.read(9):
            length, kind, number = int.from_bytes(head[:3]), head[3], int.from_bytes(head[5:])
            payload = stream.read(length)
            if kind == HEADERS:
                return Reply(_status(payload))
            if kind == GOAWAY or (kind == RESET and number == 1):
                break
    return Reply(0)


def header_block(headers: list[tuple[str, str]]) -> bytes:
    return b"".join(_literal("\0" + key) + _literal(value) for key, value in headers)


def _literal(text: str) -> bytes:
    """Encode a string as it stands; a leading zero byte says: a new name, not to be remembered."""
    data = text.encode("latin-1")
    mark, data = (b"\0", data[1:]) if data[:1] == b"\0" else (b"", data)
    if len(data) < 127:
        return mark + bytes([len(data)]) + data
    rest, length = len(data) - 127, bytearray([127])
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    return mark + bytes(length) + bytes([rest]) + data


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def _status(block: bytes) -> int:
    """Read `:status`, which comes first: by its index, or as three digits."""
    if block[0] & 0x80:
        return _INDEXED[block[0] & 0x7F]
    length, text = block[1] & 0x7F, block[2:]
    if not block[1] & 0x80:
        return int(text[:length])
    bits = "".join(f"{byte:08b}" for byte in text[:length])
    digits = ""
    while len(digits) < 3:
        size = 5 if bits[:5] in _DIGITS else 6
        digits, bits = digits + _DIGITS[bits[:size]], bits[size:]
    return int(digits)
