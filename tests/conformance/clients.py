"""Clients that ask without a token, over and over, on open and on fresh connections."""

import threading
from collections import Counter
from http.client import HTTPException, HTTPResponse

from tests.conformance.wire import Door

KEPT, FRESH = 200, 1
"""How many requests a connection is used for."""


class Clients:
    """``statuses`` counts the answers; it may be read while they ask."""

    def __init__(self, door: Door, name: str, path: str) -> None:
        self.statuses: Counter[int] = Counter()
        self._door = door
        self._name = name
        self._request = f"GET {path} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._ask, args=(count,)) for count in (KEPT, KEPT, FRESH)
        ]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, count: int) -> None:
        while not self._stopping.is_set():
            try:
                with self._door.connect(self._name) as connection:
                    for _ in range(count):
                        connection.sendall(self._request)
                        response = HTTPResponse(connection)
                        response.begin()
                        response.read()
                        with self._lock:
                            self.statuses[response.status] += 1
                        if self._stopping.is_set():
                            return
            except (OSError, HTTPException):
                # The other side may close a connection between two requests, or be away.
                continue
