"""The Kubernetes-compatible API server: an ASGI application over the store.

``ApiServer`` answers requests; ``run`` does what a control plane does behind them (namespaces,
owners, CRDs). It trusts whoever calls it: ``serving.serve`` lets only clients with a certificate of
our CA through, and each of them is an administrator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import anyio
import structlog
from anyio.abc import TaskStatus
from starlette.types import Receive, Scope, Send

from apirule.apis.meta import Object
from apirule.local.apiserver import (
    discovery,
    errors,
    executing,
    podlogs,
    refusals,
    reviews,
    scale,
    watching,
)
from apirule.local.apiserver.admission import AdmissionHook
from apirule.local.apiserver.bodies import (
    APPLY,
    check_type,
    decode,
    decode_patch,
    with_type,
)
from apirule.local.apiserver.calls import Call, read_call
from apirule.local.apiserver.deletion import DeleteOptions
from apirule.local.apiserver.documents import Documents
from apirule.local.apiserver.executing import Executor, NoExecutor
from apirule.local.apiserver.housekeeping import Housekeeping
from apirule.local.apiserver.http import ClientGoneError, Request, Response
from apirule.local.apiserver.kinds import CRDS, Kinds
from apirule.local.apiserver.objects import Objects, Written
from apirule.local.apiserver.patching import PatchError, apply_json_patch, merge, refused
from apirule.local.apiserver.podlogs import LogSource, NoLogs
from apirule.local.apiserver.reading import Reader, negotiate, selection_of
from apirule.local.apiserver.routing import Path, Target, resolve, split
from apirule.local.apiserver.strategic import strategic_merge
from apirule.local.store import Store, UnwritableError
from apirule.schema import builtin_kinds

log = structlog.get_logger()

Clock = Callable[[], datetime]

_JSON_PATCH = "application/json-patch+json"
_MERGE_PATCH = "application/merge-patch+json"
_STRATEGIC_PATCH = "application/strategic-merge-patch+json"

_PATCHES_OF_CUSTOM = (_JSON_PATCH, _MERGE_PATCH, APPLY)
_PATCHES = (_JSON_PATCH, _MERGE_PATCH, _STRATEGIC_PATCH, APPLY)
_PATCHES_OF_SCALE = (_JSON_PATCH, _MERGE_PATCH, _STRATEGIC_PATCH)


class ApiServer:
    """Serves the objects of one store."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        logs: LogSource | None = None,
        executor: Executor | None = None,
        admission: Sequence[AdmissionHook] = (),
        bookmark_every_s: float = watching.BOOKMARK_EVERY_S,
    ) -> None:
        self.store = store
        self.kinds = Kinds(builtin_kinds(), (r.decode() for r in store.list(CRDS)))
        self.objects = Objects(store, self.kinds, admission)
        self._clock = clock
        self._bookmark_every_s = bookmark_every_s
        self._logs: LogSource = logs or NoLogs()
        self._executor: Executor = executor or NoExecutor()
        self._reader = Reader(self.objects, clock)
        self._documents = Documents(self.kinds)
        self._housekeeping = Housekeeping(self.objects, clock)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep namespaces, owners and CRDs in order, until cancelled or the store closes."""
        await self._housekeeping.run(task_status=task_status)

    def end_watches(self) -> None:
        """Let all watches of clients come to their end; what reads in the process goes on."""
        self.store.end_watches()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        call = Call(self._clock())
        try:
            response = await self._answer(request, call, send)
        except errors.StatusError as error:
            response = Response.refusal(error)
        except UnwritableError as error:
            response = Response.refusal(errors.unwritable(str(error)))
        except ClientGoneError:
            return
        except Exception:
            # One request must not end the server; the client learns that it was not its fault.
            log.exception("request failed", method=request.method, path=scope["path"])
            response = Response.refusal(errors.internal("internal error; the log has the details"))
        if response is not None:
            await response.send(send, call.warnings)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request({**scope, "method": "GET"}, receive)
        try:
            refusals.check_user(request)
            target = self._target(request)
            refusals.check_websocket(target)
            command = self._command(request, target)
            protocol = executing.choose_protocol(scope["subprotocols"])
            await executing.run(command, self._executor, protocol, receive=receive, send=send)
        except errors.StatusError as error:
            await refusals.refuse_websocket(error, receive, send)
        except Exception:
            # As below; the connection is closed when this returns.
            log.exception("request failed", method="WEBSOCKET", path=scope["path"])

    def _target(self, request: Request) -> Target:
        path = split(request.path)
        target = resolve(path, self.kinds) if path else None
        if target is None:
            raise errors.no_such_path()
        return target

    def _command(self, request: Request, target: Target) -> executing.Command:
        pod = self.objects.record(target.kind, target.object_name).decode()
        return executing.read_command(request, pod)

    async def _answer(self, request: Request, call: Call, send: Send) -> Response | None:
        """Return the answer; None when it has been sent as a stream."""
        refusals.check_user(request)
        document = self._documents.find(request)
        if document is not None:
            return document
        path = split(request.path)
        if path is None:
            raise errors.no_such_path()
        review = discovery.REVIEWS.get((path.group, path.version), {}).get(path.plural)
        if review is not None:
            return await self._review(request, review, path)
        target = resolve(path, self.kinds)
        if target is None:
            refusals.explain_missing(path)
            raise errors.no_such_path()
        options = read_call(request, call.now)
        options.warnings = call.warnings
        if target.subresource:
            return await self._subresource(request, target, options, send)
        if target.name:
            return await self._object(request, target, options, send)
        return await self._collection(request, target, options, send)

    async def _collection(
        self, request: Request, target: Target, call: Call, send: Send
    ) -> Response | None:
        kind = target.kind
        match request.method:
            case "GET" if request.flag("watch"):
                return await self._watch(request, target, send)
            case "GET":
                form = negotiate(request)
                return self._reader.many(kind, target.namespace, request, form)
            case "POST" if target.namespace or not kind.info.namespaced:
                obj, duplicates = await self._body(request, target)
                written = self.objects.create(
                    kind, target.namespace, obj, call, duplicates=duplicates
                )
                return self._said(written)
            case "DELETE" if target.namespace or not kind.info.namespaced:
                return await self._delete_all(request, target, call)
            case _:
                pass
        raise _not_allowed(request, target)

    async def _object(
        self, request: Request, target: Target, call: Call, send: Send
    ) -> Response | None:
        match request.method:
            case "GET" if request.flag("watch"):
                return await self._watch(request, target, send)
            case "GET":
                return self._reader.one(target.kind, target.object_name, negotiate(request))
            case "PUT" | "PATCH":
                return await self._change(request, target, call)
            case "DELETE":
                return await self._delete(request, target, call)
            case _:
                pass
        raise _not_allowed(request, target)

    async def _subresource(
        self, request: Request, target: Target, call: Call, send: Send
    ) -> Response | None:
        kind, name = target.kind, target.subresource
        if name == "status" and kind.has_status:
            if request.method == "GET":
                return self._reader.one(kind, target.object_name, negotiate(request))
            if request.method in ("PUT", "PATCH"):
                return await self._change(request, target, call)
            raise _not_allowed(request, target)
        if name == "scale" and discovery.scalable(kind):
            return await self._scale(request, target, call)
        if name == "log" and kind.resource == "pods" and request.method == "GET":
            return await self._log(request, target, send)
        if name == "exec" and kind.resource == "pods":
            # What a WebSocket would be refused for is the better answer, so it is looked at first.
            self._command(request, target)
        if kind.custom:
            # The words of the real server.
            raise errors.not_found(kind.subject(target.name))
        refusals.explain_subresource(name)
        raise errors.no_such_path()

    async def _change(self, request: Request, target: Target, call: Call) -> Response:
        kind, name = target.kind, target.object_name
        if request.method == "PUT":
            obj, duplicates = await self._body(request, target)
            written = self.objects.update(
                kind, name, obj, call, subresource=target.subresource, duplicates=duplicates
            )
            return self._said(written)
        return self._said(await self._patch(request, target, call))

    async def _patch(self, request: Request, target: Target, call: Call) -> Written:
        kind, name, subresource = target.kind, target.object_name, target.subresource
        media_type = request.content_type
        accepted = _PATCHES_OF_CUSTOM if kind.custom else _PATCHES
        if media_type.name not in accepted:
            raise errors.unsupported_media_type(accepted)
        body = await request.body()
        if media_type.name == APPLY:
            obj, duplicates = decode(body, media_type, kind.info.kind)
            check_type(obj, kind, body)
            return self.objects.apply(
                kind, name, obj, call, subresource=subresource, duplicates=duplicates
            )
        patch, duplicates = decode_patch(body)
        if media_type.name == _JSON_PATCH:

            def change(obj: Object) -> object:
                try:
                    return apply_json_patch(obj, patch)
                except PatchError as error:
                    raise refused() from error

        elif media_type.name == _MERGE_PATCH:

            def change(obj: Object) -> object:
                return merge(obj, patch)

        else:

            def change(obj: Object) -> object:
                return strategic_merge(obj, patch, kind.node)

        return self.objects.patch(
            kind, name, change, call, subresource=subresource, duplicates=duplicates
        )

    async def _delete(self, request: Request, target: Target, call: Call) -> Response:
        options = await self._delete_options(request, call)
        written = self.objects.delete(target.kind, target.object_name, options, call)
        if written.gone and target.kind.resource not in _SHOWN_WHEN_DELETED:
            subject = target.kind.subject(target.name, written.object["metadata"]["uid"])
            return Response.json(errors.success(subject))
        return Response.json(written.object)

    async def _delete_all(self, request: Request, target: Target, call: Call) -> Response:
        kind = target.kind
        options = await self._delete_options(request, call)
        selection = selection_of(request, kind)
        chosen = [
            record
            for record in self.store.list(kind.resource, target.namespace)
            if selection.matches(record)
        ]
        deleted = [self.objects.delete(kind, record.name, options, call) for record in chosen]
        metadata = {"resourceVersion": str(self.store.revision)}
        if kind.custom:
            metadata["continue"] = ""
        return Response.json(
            {
                "kind": kind.info.list_kind,
                "apiVersion": kind.api_version,
                "metadata": metadata,
                "items": [written.object for written in deleted],
            }
        )

    async def _delete_options(self, request: Request, call: Call) -> DeleteOptions:
        body = await request.body()
        obj: Object = {}
        if body.strip():
            obj, _ = decode(body, request.content_type, "DeleteOptions")
        options = DeleteOptions.read(obj, request.query)
        call.dry_run = call.dry_run or options.dry_run
        return options

    async def _scale(self, request: Request, target: Target, call: Call) -> Response:
        kind, name = target.kind, target.object_name
        places = scale.Places.of(kind.info.scale_paths)
        if request.method == "GET":
            obj = self.objects.as_version(kind, self.objects.record(kind, name).decode())
            return self._reader.scale(scale.read(obj, places), negotiate(request))
        if request.method not in ("PUT", "PATCH"):
            raise _not_allowed(request, target)
        media_type = request.content_type
        if request.method == "PATCH" and media_type.name not in _PATCHES_OF_SCALE:
            raise errors.unsupported_media_type(_PATCHES_OF_SCALE)
        body = await request.body()

        def change(obj: Object) -> Object:
            asked = scale.read(obj, places)
            if request.method == "PUT":
                asked, _ = decode(body, media_type, "Scale")
            elif media_type.name == _JSON_PATCH:
                asked = apply_json_patch(asked, decode_patch(body)[0])
            else:
                asked = merge(asked, decode_patch(body)[0])
            return scale.write(obj, asked, places)

        try:
            written = self.objects.patch(kind, name, change, call, subresource="scale")
        except PatchError as error:
            raise refused() from error
        return Response.json(scale.read(written.object, places))

    async def _log(self, request: Request, target: Target, send: Send) -> Response | None:
        pods, name = target.kind, target.object_name
        pod = self.objects.record(pods, name).decode()
        asked = podlogs.read_log_request(request, pod, self._clock())
        path = podlogs.find(asked, self._logs)

        def gone() -> bool:
            record = self.store.get(pods.resource, name)
            obj = record.decode() if record else {}
            ended = (obj.get("status") or {}).get("phase") in ("Succeeded", "Failed")
            return ended or obj.get("metadata", {}).get("uid") != pod["metadata"]["uid"]

        await podlogs.stream(path, asked, gone=gone, receive=request.receive, send=send)
        return None

    async def _watch(self, request: Request, target: Target, send: Send) -> Response | None:
        asked = watching.read_watch(request, target.kind, target.namespace, target.name)
        await watching.stream(
            asked,
            self._reader,
            request.receive,
            send,
            bookmark_every_s=self._bookmark_every_s,
        )
        return None

    async def _review(self, request: Request, review: str, path: Path) -> Response:
        if request.method != "POST" or path.name:
            raise errors.method_not_allowed(f"{review} can only be created: send a POST")
        obj, _ = decode(await request.body(), request.content_type, review)
        user, groups = identity(request)
        obj["apiVersion"] = f"{path.group}/{path.version}"
        return Response.json(reviews.answer(review, obj, user, groups), 201)

    async def _body(self, request: Request, target: Target) -> tuple[Object, list[str]]:
        body = await request.body()
        kind = target.kind
        obj, duplicates = decode(body, request.content_type, kind.info.kind)
        obj = with_type(obj, kind)
        check_type(obj, kind, body)
        return obj, duplicates

    def _said(self, written: Written) -> Response:
        return Response.json(written.object, 201 if written.created else 200)


def identity(request: Request) -> tuple[str, tuple[str, ...]]:
    """Return user and groups: CN and O of the client certificate, where the server passes it on."""
    state = request.scope.get("state") or {}
    user = state.get("peer_user") or "apirule-admin"
    groups = tuple(state.get("peer_groups") or ())
    return user, (*groups, *(g for g in reviews.ADMIN_GROUPS if g not in groups))


# Kinds whose last state is the answer to their deletion; for all others it is a Status.
_SHOWN_WHEN_DELETED = frozenset(("pods", "namespaces", "services", "serviceaccounts"))


def _not_allowed(request: Request, target: Target) -> errors.StatusError:
    place = f"/{'/'.join(request.path)}"
    return errors.method_not_allowed(
        f"{request.method} is not offered on {place}: use {_offered(target)}"
    )


def _offered(target: Target) -> str:
    if target.subresource:
        return "GET, PUT or PATCH"
    if target.name:
        return "GET, PUT, PATCH or DELETE"
    if target.kind.info.namespaced and not target.namespace:
        return "GET, or the path with a namespace, which has POST and DELETE, too"
    return "GET, POST or DELETE"


__all__ = ["ApiServer", "Clock"]
