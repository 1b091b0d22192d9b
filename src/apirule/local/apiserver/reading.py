"""Reading: which form the client wants its answer in, single objects, and lists in pages.

All pages of a list show the store as it was at the first one: the token names that revision, and
the history gives the objects back as they were then.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import msgspec

from apirule.apis.meta import Object
from apirule.local.apiserver import errors, tables
from apirule.local.apiserver.http import JSON, Request, Response, encode
from apirule.local.apiserver.kinds import Kind
from apirule.local.apiserver.list_options import check_list
from apirule.local.apiserver.objects import Objects
from apirule.local.apiserver.selectors import Selection, parse_fields, parse_labels
from apirule.local.store import Expired, Record
from apirule.names import ObjectName

_META_GROUP = "meta.k8s.io"
_META_VERSIONS = ("v1", "v1beta1")
_ANYTHING = frozenset((JSON, "*/*", "application/*", ""))


class Form(msgspec.Struct, frozen=True):
    """How objects are to look: whole, as rows of a Table, or metadata only."""

    shape: str = ""
    """``Table``, ``PartialObjectMetadata`` (lists too), or empty for whole objects."""
    version: str = "v1"
    include: str = "Metadata"

    @property
    def content_type(self) -> str:
        return JSON


def negotiate(request: Request) -> Form:
    """Choose the first form that the client accepts and we can give. StatusError 406."""
    include = request.query.get("includeObject") or "Metadata"
    for accepted in request.accepts:
        if accepted.name not in _ANYTHING:
            continue
        shape = accepted.parameters.get("as", "")
        if not shape:
            return Form()
        version = accepted.parameters.get("v", "v1")
        if accepted.parameters.get("g") != _META_GROUP or version not in _META_VERSIONS:
            continue
        if shape == "Table":
            return Form("Table", version, include)
        if shape in ("PartialObjectMetadata", "PartialObjectMetadataList"):
            return Form("PartialObjectMetadata", version)
    raise errors.StatusError(
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json,"
        " application/json;as=Table;v=v1;g=meta.k8s.io,"
        " application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
    )


def selection_of(request: Request, kind: Kind) -> Selection:
    labels = parse_labels(request.query.get("labelSelector", ""))
    fields = parse_fields(request.query.get("fieldSelector", ""), kind.info)
    return Selection(labels, fields)


class Reader(msgspec.Struct, frozen=True):
    """Answers to GET, without watches."""

    objects: Objects
    clock: Callable[[], datetime]

    def one(self, kind: Kind, name: ObjectName, form: Form) -> Response:
        record = self.objects.record(kind, name)
        if not form.shape:
            return Response(self.objects.view(kind, record))
        return Response.json(self.shaped(kind, record, form))

    def scale(self, obj: Object, form: Form) -> Response:
        """Return a Scale, which is no object of its own."""
        return Response.json(self._shape(obj, tables.SCALE, form) if form.shape else obj)

    def shaped(
        self, kind: Kind, record: Record, form: Form, *, with_definitions: bool = True
    ) -> Object:
        """Return one object as a Table or as its metadata."""
        obj = self.objects.as_version(kind, record.decode())
        printed = tables.columns_of(kind)
        return self._shape(obj, printed, form, with_definitions=with_definitions)

    def _shape(
        self, obj: Object, printed: tables.Columns, form: Form, *, with_definitions: bool = True
    ) -> Object:
        if form.shape == "PartialObjectMetadata":
            return tables.partial(obj, form.version)
        return tables.table(
            printed,
            (obj,),
            self.clock(),
            metadata={"resourceVersion": obj["metadata"]["resourceVersion"]},
            include=form.include,
            version=form.version,
            with_definitions=with_definitions,
        )

    def many(self, kind: Kind, namespace: str, request: Request, form: Form) -> Response:
        page = self._page(kind, namespace, request)
        metadata: dict[str, Any] = {"resourceVersion": str(page.revision)}
        if page.token or (kind.custom and not form.shape):
            metadata["continue"] = page.token
        if page.remaining is not None:
            metadata["remainingItemCount"] = page.remaining
        return Response(self._listed(kind, page.records, metadata, form))

    def _listed(
        self, kind: Kind, records: Iterable[Record], metadata: dict[str, Any], form: Form
    ) -> bytes:
        if not form.shape:
            head = encode(
                {
                    "kind": kind.info.list_kind,
                    "apiVersion": kind.api_version,
                    "metadata": metadata,
                }
            )
            items = b",".join(self.objects.view(kind, record) for record in records)
            return head[:-1] + b',"items":[' + items + b"]}"
        decoded = (self.objects.as_version(kind, record.decode()) for record in records)
        if form.shape == "Table":
            return encode(
                tables.table(
                    tables.columns_of(kind),
                    decoded,
                    self.clock(),
                    metadata=metadata,
                    include=form.include,
                    version=form.version,
                )
            )
        return encode(
            {
                "kind": "PartialObjectMetadataList",
                "apiVersion": f"{_META_GROUP}/{form.version}",
                "metadata": metadata,
                "items": [tables.partial(obj, form.version) for obj in decoded],
            }
        )

    def _page(self, kind: Kind, namespace: str, request: Request) -> _Page:
        check_list(request)
        selection = selection_of(request, kind)
        limit = max(0, request.number("limit") or 0)
        token = request.query.get("continue", "")
        store = self.objects.store
        start: ObjectName | None = None
        if token:
            revision, start = _read_token(token)
        else:
            revision = self._revision(request)
        try:
            records = store.list(kind.resource, namespace, at=revision)
        except Expired:
            raise errors.expired(
                "The provided continue parameter is too old to display a consistent list result."
                " You must start a new list without the continue parameter."
                if token
                else f"The resourceVersion for the provided list is too old: {revision}"
            ) from None
        if start is not None:
            records = [record for record in records if record.name > start]
        if not selection.everything:
            records = [record for record in records if selection.matches(record)]
        if not limit or len(records) <= limit:
            return _Page(records, revision)
        shown = records[:limit]
        # Kubernetes does not count what a selector would leave out.
        remaining = len(records) - limit if selection.everything else None
        return _Page(shown, revision, _token(revision, shown[-1].name), remaining)

    def _revision(self, request: Request) -> int:
        """Return the revision to list at. StatusError 400, 504."""
        asked = revision_in(request)
        current = self.objects.store.revision
        if asked > current:
            raise too_large_revision(asked, current)
        exact = request.query.get("resourceVersionMatch") == "Exact"
        return asked if exact and asked else current


def revision_in(request: Request) -> int:
    """Return the resourceVersion of a request; 0 when there is none. StatusError 400."""
    text = request.query.get("resourceVersion", "")
    if text and not (text.isascii() and text.isdigit()):
        raise errors.bad_request(
            f'resourceVersion: Invalid value: "{text}": it must be one that this server gave out'
        )
    return int(text or 0)


def too_large_revision(asked: int, current: int) -> errors.StatusError:
    return errors.StatusError(
        504,
        "Timeout",
        f"Timeout: Too large resource version: {asked}, current: {current}",
        {
            "causes": [
                {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
            ],
            "retryAfterSeconds": 1,
        },
    )


class _Page(msgspec.Struct, frozen=True):
    records: list[Record]
    revision: int
    token: str = ""
    remaining: int | None = None


def _token(revision: int, last: ObjectName) -> str:
    content = encode({"v": "meta.k8s.io/v1", "rv": revision, "start": list(last)})
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


class _Token(msgspec.Struct):
    rv: int
    start: tuple[str, str]


def _read_token(text: str) -> tuple[int, ObjectName]:
    try:
        padded = text + "=" * (-len(text) % 4)
        content = msgspec.json.decode(base64.urlsafe_b64decode(padded), type=_Token)
    except ValueError as error:
        raise errors.bad_request(
            f"invalid continue token: continue key is not valid: {error}"
        ) from error
    return content.rv, ObjectName(*content.start)
