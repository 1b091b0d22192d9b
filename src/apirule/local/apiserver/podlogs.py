"""Logs of Pods: the files that the processes write, whole, from the end, or as they grow."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Protocol

import anyio
import msgspec
from starlette.types import Receive, Send

from apirule.apis.meta import Object
from apirule.local.apiserver import errors
from apirule.local.apiserver.http import Request, disconnected, start_stream

_CHUNK_BYTES = 64 * 1024
# A growing file announces nothing we can wait for portably; this is what tail -F does, too.
_LOOK_EVERY_S = 0.2


class LogSource(Protocol):
    """Where the output of containers is kept."""

    def open(self, namespace: str, pod: str, container: str, *, previous: bool) -> Path | None:
        """Return the log file of a container. None: it has not written one."""


class NoLogs:
    """There are no processes, hence no logs."""

    def open(self, namespace: str, pod: str, container: str, *, previous: bool) -> Path | None:
        return None


class LogRequest(msgspec.Struct, frozen=True):
    namespace: str
    pod: str
    container: str
    follow: bool
    previous: bool
    tail_lines: int | None
    limit_bytes: int | None
    since: datetime | None
    warnings: tuple[str, ...]


def read_log_request(request: Request, pod: Object, now: datetime) -> LogRequest:
    """StatusError 400: no such container, or there are several and none is named."""
    metadata = pod["metadata"]
    seconds = request.number("sinceSeconds")
    since = now - timedelta(seconds=seconds) if seconds is not None else None
    moment = request.query.get("sinceTime")
    if moment:
        try:
            since = datetime.fromisoformat(moment)
        except ValueError:
            raise errors.bad_request(f"sinceTime: {moment!r} is not an RFC 3339 time") from None
    return LogRequest(
        namespace=metadata["namespace"],
        pod=metadata["name"],
        container=container_of(request, pod),
        follow=request.flag("follow"),
        previous=request.flag("previous"),
        tail_lines=request.number("tailLines"),
        limit_bytes=request.number("limitBytes"),
        since=since,
        warnings=tuple(_warnings(request, since)),
    )


def _warnings(request: Request, since: datetime | None) -> Iterator[str]:
    """Yield what cannot be had; making up times would be worse."""
    if request.flag("timestamps"):
        yield "timestamps has no effect: lines of local programs carry no times"
    if since is not None:
        yield (
            "since leaves out logs that were last written before it, but no lines of others: lines"
            " of local programs carry no times"
        )


def find(asked: LogRequest, source: LogSource) -> Path:
    """Return the file. StatusError 400: nothing has been written yet."""
    path = source.open(asked.namespace, asked.pod, asked.container, previous=asked.previous)
    if path is None or not path.exists():
        kind = "previous terminated container" if asked.previous else "container"
        why = "not found" if asked.previous else "is waiting to start"
        raise errors.bad_request(
            f'{kind} "{asked.container}" in pod "{asked.pod}" {why}; its Events say why:'
            f" kubectl describe pod {asked.pod} -n {asked.namespace}"
        )
    return path


async def stream(
    path: Path, asked: LogRequest, *, gone: Callable[[], bool], receive: Receive, send: Send
) -> None:
    """Send the log. ``gone`` tells that the Pod has ended, which ends a follow."""
    await start_stream(send, "text/plain; charset=utf-8", asked.warnings)
    async with anyio.create_task_group() as tasks:

        async def until_disconnected() -> None:
            await disconnected(receive)
            tasks.cancel_scope.cancel()

        tasks.start_soon(until_disconnected)
        async for chunk in _chunks(path, asked, gone):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        tasks.cancel_scope.cancel()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _chunks(path: Path, asked: LogRequest, gone: Callable[[], bool]) -> AsyncIterator[bytes]:
    left = asked.limit_bytes
    log = await anyio.to_thread.run_sync(_Log, path)
    try:
        old = asked.since is not None and log.written_at() < asked.since
        await anyio.to_thread.run_sync(log.seek, 0 if old else asked.tail_lines)
        while left is None or left > 0:
            ended = gone()
            # Looked for before the read: what is read to its end after that can be left.
            aside = asked.follow and await anyio.to_thread.run_sync(log.was_put_aside)
            chunk = await anyio.to_thread.run_sync(log.read)
            if chunk:
                chunk = chunk if left is None else chunk[:left]
                left = None if left is None else left - len(chunk)
                yield chunk
            elif aside:
                await anyio.to_thread.run_sync(log.move_on)
            elif not asked.follow or ended:
                return
            else:
                await anyio.sleep(_LOOK_EVERY_S)
    finally:
        log.close()


class _Log:
    """An open log file, which may be put aside while it is read: it was full, or its run ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("rb")

    def close(self) -> None:
        self._file.close()

    def read(self) -> bytes:
        return self._file.read(_CHUNK_BYTES)

    def written_at(self) -> datetime:
        """Return when it was last written. Lines carry no times, the file does."""
        return datetime.fromtimestamp(self._stat().st_mtime, UTC)

    def seek(self, tail_lines: int | None) -> None:
        """Go to the first of the last lines."""
        _seek(self._file, tail_lines)

    def was_put_aside(self) -> bool:
        return self._newer() is not None

    def move_on(self) -> None:
        """Go on with what was written next. Ask again when that is put aside at this moment."""
        newer = self._newer()
        if newer is None:
            return
        path, found = newer
        try:
            file: BinaryIO = path.open("rb")
        except FileNotFoundError:
            return
        if os.path.samestat(os.fstat(file.fileno()), found):
            self._file, file = file, self._file
        file.close()

    def _newer(self) -> tuple[Path, os.stat_result] | None:
        own = self._stat()
        names = (self._path.with_name(f"{self._path.name}.1"), self._path)
        present = [(path, found) for path in names if (found := _stat(path)) is not None]
        same = [os.path.samestat(own, found) for _, found in present]
        if any(same):
            newer = present[same.index(True) + 1 :]
        else:
            # The older half of a run that ended is there for a moment longer than the run.
            newer = [one for one in present if one[1].st_mtime_ns >= own.st_mtime_ns]
        return newer[0] if newer else None

    def _stat(self) -> os.stat_result:
        return os.fstat(self._file.fileno())


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _seek(file: BinaryIO, tail_lines: int | None) -> None:
    """Put the file at the first of its last lines."""
    if tail_lines is None:
        return
    position = file.seek(0, os.SEEK_END)
    if tail_lines <= 0:
        return
    end = position
    wanted = tail_lines
    while position > 0:
        size = min(_CHUNK_BYTES, position)
        position -= size
        file.seek(position)
        block = file.read(size)
        at = len(block)
        if position + size == end and block.endswith(b"\n"):
            at -= 1
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            wanted -= 1
            if wanted == 0:
                file.seek(position + at + 1)
                return
    file.seek(0)


def container_of(request: Request, pod: Object) -> str:
    """Return the container that is asked for, or meant. StatusError 400: none, or one of many."""
    spec = pod.get("spec") or {}
    names = [c["name"] for key in ("containers", "initContainers") for c in spec.get(key) or ()]
    asked = request.query.get("container", "")
    pod_name = pod["metadata"]["name"]
    if asked:
        if asked not in names:
            raise errors.bad_request(f"container {asked} is not valid for pod {pod_name}")
        return asked
    default = (pod["metadata"].get("annotations") or {}).get(
        "kubectl.kubernetes.io/default-container"
    )
    own = [name for name in names if name != "istio-proxy"]
    if default in names:
        return str(default)
    if len(own) == 1:
        return str(own[0])
    if len(names) == 1:
        return str(names[0])
    listed = " ".join(names)
    raise errors.bad_request(
        f"a container name must be specified for pod {pod_name}, choose one of: [{listed}]"
    )
