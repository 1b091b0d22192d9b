"""A thin HTTP client of the Kubernetes API: objects are dicts, kinds are looked up by discovery.

    async with Client(config) as client:
        rule = await client.get(APIRULE, ObjectName("shop", "orders"))

Every method raises ``ApiError`` (or one of its kinds in ``kube.errors``) and nothing else of the
transport.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import aiohttp
import anyio
import anyio.lowlevel
import msgspec
import structlog

from apirule.apis.meta import GroupVersionKind, Object, ObjectRef
from apirule.kube.config import KubeConfig
from apirule.kube.errors import ApiError, NoKindMatch, NotFound, Unauthorized, Unreachable
from apirule.kube.wire import (
    ApiResource,
    Listing,
    PatchType,
    WatchEvent,
    events,
    failure,
    selectors,
    warnings,
    words,
)
from apirule.names import ObjectName

__all__ = ["ApiResource", "Client", "Listing", "PatchType", "WatchEvent"]

log = structlog.get_logger(__name__)

ANSWER_WITHIN_S = 30.0
WATCH_TIMEOUT_S = 300
"""We ask the server to end a watch after this long, so that a half-dead connection is noticed."""

TOKEN_LIFETIME_S = 60.0
"""How long a token file is believed. Kubernetes replaces the file long before the token expires."""

KEEPALIVE_S = 60.0
"""Below the 90 s after which API servers close an idle connection, so that we close first."""

WARNINGS_REMEMBERED = 256
MAX_HEADERS = 4096
"""A server says each warning in a header of its own, and nobody limits how many it may have."""


class Client:
    """One connection pool to one API server. Use it with ``async with``; share it freely."""

    def __init__(
        self,
        config: KubeConfig,
        *,
        field_manager: str = "apirule",
        answer_within_s: float = ANSWER_WITHIN_S,
    ) -> None:
        self.config = config
        self.field_manager = field_manager
        self._answer_within_s = answer_within_s
        self._session: aiohttp.ClientSession | None = None
        self._ssl: ssl.SSLContext | bool = True
        self._resources: dict[tuple[str, str], dict[str, ApiResource]] = {}
        self._token: str | None = config.token
        self._token_until = 0.0
        self._warned: set[str] = set()

    async def __aenter__(self) -> Self:
        self._ssl = self.config.ssl_context() or True
        self._session = aiohttp.ClientSession(
            # A watch holds a connection for good, so there must be no limit.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"Accept": "application/json", "User-Agent": self.field_manager},
            max_headers=MAX_HEADERS,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            # Also when cancelled. Without the goodbyes of TLS, which would outlast us: a watch is
            # ended by the server only after a while. A connection ends in the turn after.
            with anyio.CancelScope(shield=True):
                if self._session.connector is not None:
                    await self._session.connector.close(abort_ssl=True)
                await self._session.close()
                await anyio.lowlevel.checkpoint()

    # ── reading ──────────────────────────────────────────────────────────────────────────────

    async def get(self, gvk: GroupVersionKind, name: ObjectName) -> Object:
        resource = await self.resource(gvk)
        return await self._json("GET", resource.path(*name))

    async def list(
        self,
        gvk: GroupVersionKind,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        page_size: int = 500,
    ) -> Listing:
        """Read all pages. Gone: the list took longer than the server keeps revisions."""
        resource = await self.resource(gvk)
        query = selectors(label_selector, field_selector) | {"limit": str(page_size)}
        items: list[Object] = []
        while True:
            try:
                page = await self._json("GET", resource.path(namespace), query=query)
            except NotFound as error:
                raise self._forget(gvk) from error
            # Items of a list carry no type of their own.
            kind = {"apiVersion": gvk.api_version, "kind": gvk.kind}
            items += [{**kind, **item} for item in page.get("items") or []]
            meta = page.get("metadata") or {}
            if not meta.get("continue"):
                return Listing(items, str(meta.get("resourceVersion") or ""))
            query["continue"] = meta["continue"]

    @asynccontextmanager
    async def watch(
        self,
        gvk: GroupVersionKind,
        namespace: str = "",
        *,
        resource_version: str = "",
        label_selector: str = "",
        field_selector: str = "",
        timeout_s: int = WATCH_TIMEOUT_S,
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        """Open a watch with bookmarks. The iterator ends when the server ends the stream.

        Gone, here or from the iterator: ``resource_version`` is too old; list again.
        """
        resource = await self.resource(gvk)
        query = selectors(label_selector, field_selector) | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(timeout_s),
        }
        if resource_version:
            query["resourceVersion"] = resource_version
        path = resource.path(namespace)
        try:
            with anyio.fail_after(self._answer_within_s):
                response = await self._open("GET", path, query, timeout_s + 30.0)
        except NotFound as error:
            raise self._forget(gvk) from error
        except TimeoutError as error:
            raise Unreachable(f"the watch of {path} was not answered") from error
        try:
            yield events(response)
        finally:
            # An open stream has nothing more to say; a TLS goodbye would keep its socket for 30 s.
            connection = response.connection
            if connection is not None and connection.transport is not None:
                connection.transport.abort()
            response.close()

    # ── writing ──────────────────────────────────────────────────────────────────────────────

    async def create(self, obj: Mapping[str, Any], *, dry_run: bool = False) -> Object:
        gvk, ref = GroupVersionKind.of(obj), ObjectRef.of(obj)
        resource = await self.resource(gvk)
        return await self._json(
            "POST", resource.path(ref.namespace), query=self._writing(dry_run), body=obj
        )

    async def update(
        self, obj: Mapping[str, Any], *, subresource: str = "", dry_run: bool = False
    ) -> Object:
        """Replace an object. Conflict: its ``resourceVersion`` is no longer the newest."""
        gvk, ref = GroupVersionKind.of(obj), ObjectRef.of(obj)
        resource = await self.resource(gvk)
        path = resource.path(ref.namespace, ref.name, subresource)
        return await self._json("PUT", path, query=self._writing(dry_run), body=obj)

    async def patch(
        self,
        gvk: GroupVersionKind,
        name: ObjectName,
        patch: Any,
        *,
        type: PatchType = PatchType.MERGE,  # noqa: A002  # reads best at the call
        subresource: str = "",
        dry_run: bool = False,
    ) -> Object:
        resource = await self.resource(gvk)
        path = resource.path(*name, subresource)
        return await self._json(
            "PATCH", path, query=self._writing(dry_run), body=patch, content_type=type
        )

    async def patch_status(
        self, gvk: GroupVersionKind, name: ObjectName, status: Mapping[str, Any]
    ) -> Object:
        """Merge ``status`` into the object's status; a None value removes the field."""
        return await self.patch(gvk, name, {"status": status}, subresource="status")

    async def apply(
        self,
        obj: Mapping[str, Any],
        *,
        force: bool = True,
        subresource: str = "",
        field_manager: str = "",
        dry_run: bool = False,
        strict: bool = False,
    ) -> Object:
        """Server-side apply. Conflict without ``force``: another manager owns a field.

        With ``strict`` an unknown field is refused; else the server drops it with a warning.
        """
        gvk, ref = GroupVersionKind.of(obj), ObjectRef.of(obj)
        resource = await self.resource(gvk)
        query = self._writing(dry_run) | {"force": "true" if force else "false"}
        if field_manager:
            query["fieldManager"] = field_manager
        if strict:
            query["fieldValidation"] = "Strict"
        path = resource.path(ref.namespace, ref.name, subresource)
        return await self._json("PATCH", path, query=query, body=obj, content_type=PatchType.APPLY)

    async def delete(
        self,
        gvk: GroupVersionKind,
        name: ObjectName,
        *,
        uid: str = "",
        resource_version: str = "",
        propagation: str = "Background",
        grace_period_s: int | None = None,
    ) -> None:
        """Delete an object. NotFound: it is gone. Conflict: it is not the one that was meant."""
        resource = await self.resource(gvk)
        conditions = {"uid": uid, "resourceVersion": resource_version}
        preconditions = {key: value for key, value in conditions.items() if value}
        body: Object = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation,
        }
        if preconditions:
            body["preconditions"] = preconditions
        if grace_period_s is not None:
            body["gracePeriodSeconds"] = grace_period_s
        await self._json("DELETE", resource.path(*name), body=body)

    # ── discovery ────────────────────────────────────────────────────────────────────────────

    async def resource(self, gvk: GroupVersionKind) -> ApiResource:
        """Say where a kind is served. NoKindMatch: it is not."""
        key = (gvk.group, gvk.version)
        known = self._resources.get(key, {}).get(gvk.kind)
        if known is not None:
            return known
        prefix = "/apis" if gvk.group else "/api"
        try:
            answer = await self._json("GET", f"{prefix}/{gvk.api_version}")
        except NotFound:
            answer = {}
        self._resources[key] = {
            entry["kind"]: ApiResource(*key, entry["name"], bool(entry.get("namespaced")))
            for entry in answer.get("resources") or []
            if "/" not in entry["name"]
        }
        found = self._resources[key].get(gvk.kind)
        if found is None:
            raise self._forget(gvk)
        return found

    async def version(self) -> Object:
        return await self._json("GET", "/version")

    async def read_text(
        self, path: str, query: Mapping[str, str] | None = None, *, accept: str = ""
    ) -> str:
        """Read any path as text: a Pod's log, ``/readyz``, or a list in another form."""
        answer = await self._bytes("GET", path, query or {}, None, "", accept=accept)
        return answer.decode(errors="replace")

    def _forget(self, gvk: GroupVersionKind) -> NoKindMatch:
        self._resources.pop((gvk.group, gvk.version), None)
        return NoKindMatch(
            404, f"no kind {gvk.kind} in {gvk.api_version} is served; is its CRD installed?"
        )

    # ── transport ────────────────────────────────────────────────────────────────────────────

    def _writing(self, dry_run: bool) -> dict[str, str]:
        query = {"fieldManager": self.field_manager}
        return query | {"dryRun": "All"} if dry_run else query

    async def _json(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Object:
        data = None if body is None else msgspec.json.encode(body)
        answer = await self._bytes(method, path, query or {}, data, content_type)
        try:
            return msgspec.json.decode(answer, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise ApiError(
                200, f"{method} {path} was answered with something else: {error}"
            ) from error

    async def _bytes(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        data: bytes | None,
        content_type: str,
        *,
        accept: str = "",
    ) -> bytes:
        try:
            with anyio.fail_after(self._answer_within_s):
                response = await self._open(
                    method,
                    path,
                    query,
                    self._answer_within_s,
                    data=data,
                    content_type=content_type,
                    accept=accept,
                )
                async with response:
                    return await response.read()
        except TimeoutError as error:
            text = f"{method} {path}: no answer within {self._answer_within_s:g} s"
            raise Unreachable(text) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{method} {path}: {words(error)}") from error

    async def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        idle_timeout_s: float,
        *,
        data: bytes | None = None,
        content_type: str = "",
        accept: str = "",
    ) -> aiohttp.ClientResponse:
        """Send a request and return the answer with its body unread. ApiError: not a success."""
        if self._session is None:
            raise RuntimeError("the client is not open: use `async with Client(config)`")
        headers = {"Content-Type": content_type} if data is not None else {}
        if accept:
            headers["Accept"] = accept
        token = await self._bearer()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        try:
            response = await self._session.request(
                method,
                self.config.server + path,
                params=query,
                data=data,
                headers=headers,
                ssl=self._ssl,
                server_hostname=self.config.tls_server_name,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=self._answer_within_s, sock_read=idle_timeout_s
                ),
            )
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{method} {path}: {words(error)}") from error
        self._note_warnings(response)
        if 200 <= response.status < 300:  # noqa: PLR2004  # the success range of HTTP
            return response
        refusal = await failure(response)
        if isinstance(refusal, Unauthorized):
            self._token_until = 0.0
        raise refusal

    async def _bearer(self) -> str | None:
        path = self.config.token_file
        if path is not None and anyio.current_time() >= self._token_until:
            try:
                self._token = (await anyio.Path(path).read_text()).strip()
            except OSError as error:
                raise Unreachable(f"the token file {path} cannot be read: {error}") from error
            self._token_until = anyio.current_time() + TOKEN_LIFETIME_S
        return self._token

    def _note_warnings(self, response: aiohttp.ClientResponse) -> None:
        for text in warnings(response.headers.getall("Warning", [])):
            if text not in self._warned and len(self._warned) < WARNINGS_REMEMBERED:
                self._warned.add(text)
                log.warning("api server warned", path=response.url.path, text=text)
