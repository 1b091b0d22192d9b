"""All proxies: which are connected, what each shall hold, and what each has taken.

A proxy is known by its node ID, ``namespace/pod``. Its target may be there before it connects and
stays when it leaves, so a proxy that comes back is answered at once. A proxy without a target (no
such Pod, or not yet) is left waiting: Envoy opens no listener until it is answered.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from math import inf

import anyio
import msgspec
import structlog
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from apirule.local.xds.ads import DeltaStream, Refusal, Responses
from apirule.local.xds.bundle import Bundle
from apirule.local.xds.words import plain

log = structlog.get_logger()


class Standing(msgspec.Struct, frozen=True):
    """How far one proxy is."""

    connected: bool
    settled: bool
    """It has answered everything it was sent."""
    synced: bool
    """It holds exactly its target."""
    refusals: tuple[Refusal, ...] = ()
    lacking: frozenset[str] = frozenset()
    """Route tables that it has not got."""


ABSENT = Standing(connected=False, settled=False, synced=False)


class Connection:
    """One open stream. ``outbox`` is what the server has to write to it."""

    def __init__(self, node_id: str, refusals: tuple[Refusal, ...] = ()) -> None:
        self.node_id = node_id
        self.stream = DeltaStream(refusals)
        self._inbox, self.outbox = anyio.create_memory_object_stream[DeltaDiscoveryResponse](inf)

    def send(self, responses: list[DeltaDiscoveryResponse]) -> None:
        for response in responses:
            self._inbox.send_nowait(response)

    def close(self) -> None:
        self._inbox.close()
        self.outbox.close()


class Fleet:
    """``on_change`` is called whenever the standing of a proxy may have changed."""

    def __init__(self, on_change: Callable[[str], None] = lambda _: None) -> None:
        self._on_change = on_change
        self._targets: dict[str, Bundle] = {}
        self._connections: defaultdict[str, list[Connection]] = defaultdict(list)
        self._refusals: dict[str, tuple[Refusal, ...]] = {}
        """Of each proxy's last stream: a new one must not ask again (see ``ads``)."""
        self._standings: dict[str, Standing] = {}
        """Worked out when somebody asks, and valid until something happens to the proxy."""
        self._news = anyio.Event()

    # The engine's side

    def assign(self, node_id: str, target: Bundle) -> None:
        """Say what a proxy shall hold, now and whenever it connects."""
        self._targets[node_id] = target
        self._to_each(node_id, lambda stream: stream.assign(target))

    def drop(self, node_id: str) -> None:
        """Forget a proxy whose Pod is gone. It is told nothing more, and nothing is taken away."""
        for kept in (self._targets, self._refusals, self._standings):
            kept.pop(node_id, None)

    def retry(self, node_id: str) -> None:
        """Send again what a proxy refused."""
        self._to_each(node_id, DeltaStream.retry)

    def _to_each(self, node_id: str, act: Callable[[DeltaStream], Responses]) -> None:
        for connection in self._connections.get(node_id, ()):
            connection.send(act(connection.stream))
        self._standings.pop(node_id, None)

    def standing(self, node_id: str) -> Standing:
        known = self._standings.get(node_id)
        if known is None:
            known = self._standings[node_id] = self._looked_up(node_id)
        return known

    def _looked_up(self, node_id: str) -> Standing:
        connections = self._connections.get(node_id)
        if not connections:
            return ABSENT
        streams = [connection.stream for connection in connections]
        return Standing(
            connected=True,
            settled=all(stream.settled for stream in streams),
            synced=all(stream.synced for stream in streams),
            refusals=tuple(dict.fromkeys(r for stream in streams for r in stream.refusals)),
            lacking=frozenset().union(*(stream.lacking for stream in streams)),
        )

    def connected(self) -> frozenset[str]:
        return frozenset(self._connections)

    async def settle(
        self, node_ids: Collection[str], *, within_s: float, expected: Collection[str] = ()
    ) -> None:
        """Wait until these proxies have answered what they were sent; not longer than the time.

        A proxy that is not connected is only waited for if it is also ``expected``. Those that hold
        back for clusters that do not become warm are released at the end.
        """
        with anyio.move_on_after(within_s):
            while any(self._is_awaited(node_id, expected) for node_id in node_ids):
                self._news = anyio.Event()
                await self._news.wait()
            return
        for node_id in node_ids:
            self._to_each(node_id, DeltaStream.release)

    def _is_awaited(self, node_id: str, expected: Collection[str]) -> bool:
        standing = self.standing(node_id)
        return not standing.settled if standing.connected else node_id in expected

    # The server's side

    @contextmanager
    def connection(self, node_id: str) -> Iterator[Connection]:
        connection = Connection(node_id, self._refusals.get(node_id, ()))
        self._connections[node_id].append(connection)
        if node_id in self._targets:
            connection.send(connection.stream.assign(self._targets[node_id]))
        self._standings.pop(node_id, None)
        log.debug("proxy connected", node=node_id)
        try:
            yield connection
        finally:
            remaining = self._connections[node_id]
            remaining.remove(connection)
            if not remaining:
                del self._connections[node_id]
            connection.close()
            log.debug("proxy disconnected", node=node_id)
            self._changed(node_id)

    def receive(self, connection: Connection, request: DeltaDiscoveryRequest) -> None:
        if request.HasField("error_detail"):
            text = plain(request.error_detail.message)
            known = {refusal.message for refusal in self._refusals.get(connection.node_id, ())}
            # What is tried again from time to time is not told again each time.
            (log.debug if text in known else log.warning)(
                "configuration refused",
                node=connection.node_id,
                kind=request.type_url.rpartition(".")[2],
                nonce=request.response_nonce,
                error=text,
            )
        connection.send(connection.stream.receive(request))
        self._refusals[connection.node_id] = connection.stream.refusals
        self._changed(connection.node_id)

    def _changed(self, node_id: str) -> None:
        self._standings.pop(node_id, None)
        self._news.set()
        self._on_change(node_id)
