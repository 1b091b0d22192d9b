"""What goes over the wire: where kinds are served, lists, watch events, failures."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Iterator
from enum import StrEnum
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import msgspec

from apirule.apis.meta import Object
from apirule.kube.errors import ApiError, Unreachable, error_of


class PatchType(StrEnum):
    MERGE = "application/merge-patch+json"
    JSON = "application/json-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    APPLY = "application/apply-patch+yaml"


class ApiResource(NamedTuple):
    """Where a kind is served."""

    group: str
    version: str
    plural: str
    namespaced: bool

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        parts += [quote(part, safe="") for part in (name, subresource) if part]
        return "/".join(parts)


class Listing(NamedTuple):
    """A whole list, all pages, and the revision from which to watch."""

    items: list[Object]
    resource_version: str


class WatchEvent(NamedTuple):
    """``type`` is ADDED, MODIFIED, DELETED or BOOKMARK; errors are raised instead."""

    type: str
    object: Object


def words(error: Exception) -> str:
    """Several aiohttp errors have no text; their name says what happened."""
    return str(error) or type(error).__name__


def selectors(label_selector: str, field_selector: str) -> dict[str, str]:
    query = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {key: value for key, value in query.items() if value}


_WARNING = re.compile(r'\s*\d{3} \S+ "(?P<text>(?:[^"\\]|\\.)*)"(?: "[^"]*")?\s*(?:,|$)')
"""One value of a Warning header (RFC 7234, 5.5): code, agent, quoted text, perhaps a date."""


def warnings(headers: Iterable[str]) -> Iterator[str]:
    """Yield the texts of Warning headers; one that is of another form as it is."""
    for header in headers:
        value, end = _as_text(header), 0
        while (found := _WARNING.match(value, end)) is not None and found.end() > end:
            yield re.sub(r"\\(.)", r"\1", found["text"])
            end = found.end()
        if value[end:].strip():
            yield value[end:].strip()


def _as_text(header: str) -> str:
    """Read a header as UTF-8, which Kubernetes sends, else as Latin-1, which HTTP had."""
    data = header.encode("utf-8", "surrogateescape")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


async def failure(response: aiohttp.ClientResponse) -> ApiError:
    async with response:
        text = await response.read()
    try:
        body = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError:
        body = {"message": text.decode(errors="replace").strip()[:500]}
    retry_after = response.headers.get("Retry-After", "")
    return error_of(
        response.status, body, retry_after_s=float(retry_after) if retry_after.isdigit() else None
    )


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[WatchEvent]:
    # Split at newlines here, because one object may be larger than aiohttp's longest line.
    rest = b""
    try:
        async for chunk in response.content.iter_any():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    yield _event(line)
    except (aiohttp.ClientError, OSError) as error:
        raise Unreachable(f"the watch broke: {words(error)}") from error


def _event(line: bytes) -> WatchEvent:
    try:
        event = msgspec.json.decode(line, type=_WatchLine)
    except msgspec.MsgspecError as error:
        raise ApiError(200, f"the watch sent something that is not an event: {error}") from error
    if event.type == "ERROR":
        raise error_of(int(event.object.get("code") or 500), event.object)
    return WatchEvent(event.type, event.object)


class _WatchLine(msgspec.Struct):
    type: str
    object: dict[str, Any]
