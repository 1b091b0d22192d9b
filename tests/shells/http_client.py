"""A plain HTTP client for tests that look at single requests and answers."""

import http.client
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    warnings: list[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Sends one request at a time over one connection."""

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, context=context, timeout=20
        )

    def close(self) -> None:
        self._connection.close()

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        **headers: str,
    ) -> Answer:
        """Send text and bytes as they are, anything else as JSON."""
        if body is not None and not isinstance(body, (str, bytes)):
            body = json.dumps(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(
            method, path, body=body, headers={"Content-Type": content_type, **named}
        )
        response = self._connection.getresponse()
        return Answer(
            response.status,
            dict(response.getheaders()),
            response.headers.get_all("Warning") or [],
            response.read(),
        )

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, **headers)

    def post(self, path: str, body: Any) -> Answer:
        return self.send("POST", path, body)

    def put(self, path: str, body: Any) -> Answer:
        return self.send("PUT", path, body)

    def merge(self, path: str, body: Any) -> Answer:
        return self.send("PATCH", path, body, content_type="application/merge-patch+json")

    def apply(self, path: str, body: Any) -> Answer:
        return self.send("PATCH", path, body, content_type="application/apply-patch+yaml")

    def delete(self, path: str, body: Any = None) -> Answer:
        return self.send("DELETE", path, body)

    @contextmanager
    def watch(self, path: str, **headers: str) -> Iterator[Iterator[Any]]:
        """Open a watch and give its events, as they arrive."""
        self._connection.request("GET", path, headers=headers)
        response = self._connection.getresponse()
        assert response.status == 200, response.read()
        try:
            yield (json.loads(line) for line in response)
        finally:
            self._connection.close()

    def follow(self, path: str) -> Iterator[str]:
        """Open a stream of text and give its lines, as they arrive."""
        self._connection.request("GET", path)
        response = self._connection.getresponse()
        assert response.status == 200, response.read()
        return (line.decode() for line in response)
