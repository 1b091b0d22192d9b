"""A small Kubernetes API whose faults can be chosen: forget revisions, end watches, refuse."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import deepcopy
from typing import Any

import anyio
import msgspec
from aiohttp import web

from apirule.kube.config import KubeConfig

Object = dict[str, Any]


TYPES: dict[str, Object] = {
    "configmaps": {"apiVersion": "v1", "kind": "ConfigMap"},
    "events": {"apiVersion": "v1", "kind": "Event"},
    "leases": {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"},
    "widgets": {"apiVersion": "test.io/v1", "kind": "Widget"},
}


class FakeApi:
    """ConfigMaps, Events, Leases and Widgets in memory; every write is one revision."""

    def __init__(self) -> None:
        self.url = ""
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.log: list[tuple[int, str, str, Object]] = []
        self.revision = 10
        self.floor = 0
        self.page_size = 1000
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.refusals: list[tuple[int, Object]] = []
        self.warnings: list[str] = []
        self.widgets_served = True
        self.gone_as_http_status = False
        self.watching = 0
        self._uids = itertools.count(1)
        self._changed = anyio.Event()
        self._epoch = 0

    @property
    def config(self) -> KubeConfig:
        return KubeConfig(server=self.url)

    def put(self, plural: str, namespace: str, name: str, **fields: Any) -> Object:
        """Create or replace an object, as somebody else would."""
        key = (plural, namespace, name)
        old = self.objects.get(key)
        self.revision += 1
        meta = {"namespace": namespace, "name": name, "managedFields": [{"manager": "x"}]}
        meta |= fields.pop("metadata", {})
        meta["uid"] = old["metadata"]["uid"] if old else f"uid-{next(self._uids)}"
        meta["resourceVersion"] = str(self.revision)
        obj = TYPES[plural] | {"metadata": meta} | fields
        self.objects[key] = obj
        self._record("MODIFIED" if old else "ADDED", plural, obj)
        return obj

    def remove(self, plural: str, namespace: str, name: str) -> None:
        obj = deepcopy(self.objects.pop((plural, namespace, name)))
        self.revision += 1
        obj["metadata"]["resourceVersion"] = str(self.revision)
        self._record("DELETED", plural, obj)

    def compact(self) -> None:
        """Forget every revision up to now."""
        self.floor = self.revision

    def end_watches(self) -> None:
        self._epoch += 1
        self._wake()

    def bookmark(self) -> None:
        self.revision += 1
        obj: Object = {"metadata": {"resourceVersion": str(self.revision)}}
        for plural in ("configmaps", "widgets"):
            self._record("BOOKMARK", plural, obj)

    def refuse(self, status: int, reason: str, message: str = "refused") -> None:
        """Answer the next request with an error."""
        body = {"kind": "Status", "code": status, "reason": reason, "message": message}
        self.refusals.append((status, body))

    def _record(self, kind: str, plural: str, obj: Object) -> None:
        self.log.append((self.revision, kind, plural, deepcopy(obj)))
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["FakeApi"]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            self.end_watches()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs))
        self.headers.append(dict(request.headers))
        body = await request.read()
        data = msgspec.json.decode(body) if body else None
        self.bodies.append(data)
        if self.refusals:
            status, refusal = self.refusals.pop(0)
            return web.json_response(refusal, status=status)
        parts = request.path.strip("/").split("/")
        if parts[0] == "api":
            parts = parts[2:]
        else:
            if parts[1] == "test.io" and not self.widgets_served:
                return _status(404, "NotFound", "404 page not found")
            parts = parts[3:]
        if not parts:
            return self._discovery(request.path)
        response = await self._answer(request, parts, data)
        for text in self.warnings:
            response.headers.add("Warning", text)
        return response

    async def _answer(
        self, request: web.Request, parts: list[str], data: Any
    ) -> web.StreamResponse:
        namespace = ""
        if parts[0] == "namespaces" and len(parts) > 2:
            namespace, parts = parts[1], parts[2:]
        plural, name = parts[0], parts[1] if len(parts) > 1 else ""
        if request.method == "GET" and not name:
            if request.query.get("watch"):
                return await self._watch(request, plural, namespace)
            return self._list(request, plural, namespace)
        return self._object(request, (plural, namespace, name), data)

    def _discovery(self, path: str) -> web.Response:
        kinds = {
            "/api/v1": [("configmaps", "ConfigMap"), ("events", "Event")],
            "/apis/test.io/v1": [("widgets", "Widget")],
            "/apis/coordination.k8s.io/v1": [("leases", "Lease")],
        }.get(path)
        if kinds is None:
            return _status(404, "NotFound", "404 page not found")
        resources = [{"name": name, "kind": kind, "namespaced": True} for name, kind in kinds]
        resources += [{"name": f"{kinds[0][0]}/status", "kind": kinds[0][1], "namespaced": True}]
        return web.json_response({"kind": "APIResourceList", "resources": resources})

    def _list(self, request: web.Request, plural: str, namespace: str) -> web.Response:
        items = [
            obj
            for (kind, ns, _), obj in sorted(self.objects.items())
            if kind == plural and namespace in ("", ns)
        ]
        start = int(request.query.get("continue", "0"))
        page = items[start : start + self.page_size]
        meta = {"resourceVersion": str(self.revision)}
        if start + self.page_size < len(items):
            meta["continue"] = str(start + self.page_size)
        return web.json_response({"metadata": meta, "items": page})

    async def _watch(self, request: web.Request, plural: str, namespace: str) -> web.StreamResponse:
        since = int(request.query["resourceVersion"])
        expired = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
        if since < self.floor and self.gone_as_http_status:
            return web.json_response(expired, status=410)
        response = web.StreamResponse()
        await response.prepare(request)
        if since < self.floor:
            await response.write(msgspec.json.encode({"type": "ERROR", "object": expired}) + b"\n")
            return response
        epoch = self._epoch
        self.watching += 1
        try:
            while epoch == self._epoch:
                changed = self._changed
                for revision, kind, what, obj in self.log:
                    if revision > since and what == plural:
                        if namespace in ("", obj["metadata"].get("namespace", "")):
                            line = msgspec.json.encode({"type": kind, "object": obj})
                            await response.write(line + b"\n")
                        since = revision
                if changed.is_set():
                    continue
                await changed.wait()
        finally:
            self.watching -= 1
        return response

    def _object(  # noqa: PLR0911  # one return per verb
        self, request: web.Request, key: tuple[str, str, str], data: Any
    ) -> web.Response:
        plural, namespace, name = key
        if request.method == "POST":
            name = data["metadata"]["name"]
            if (plural, namespace, name) in self.objects:
                return _status(409, "AlreadyExists", f"{name} already exists")
            fields = {k: v for k, v in data.items() if k != "metadata"}
            return web.json_response(self.put(plural, namespace, name, **fields), status=201)
        old = self.objects.get(key)
        applying = request.content_type.startswith("application/apply-patch")
        if old is None and not applying:
            return _status(404, "NotFound", f"{plural} {name} not found")
        if request.method == "GET":
            return web.json_response(old)
        if request.method == "DELETE":
            self.remove(*key)
            return _status(200, "", "deleted")
        if request.method == "PUT":
            version = data["metadata"].get("resourceVersion")
            if old is not None and version != old["metadata"]["resourceVersion"]:
                return _status(409, "Conflict", "the object has been modified")
        fields = {k: v for k, v in data.items() if k != "metadata"}
        if request.method == "PATCH" and old is not None:
            fields = {k: v for k, v in old.items() if k != "metadata"} | fields
        return web.json_response(self.put(*key, **fields))


def _status(status: int, reason: str, message: str) -> web.Response:
    body = {"kind": "Status", "code": status, "reason": reason, "message": message}
    return web.json_response(body, status=status)
