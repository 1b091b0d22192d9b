"""An API server in memory with what the APIRule controller leans on: generations, finalizers,
the status subresource, conflicts, label selectors."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import deepcopy
from typing import Any

import anyio
import msgspec
from aiohttp import web

from apirule.kube.config import KubeConfig

Object = dict[str, Any]

KINDS = {
    "apirules": ("gateway.kyma-project.io/v2", "APIRule"),
    "gateways": ("networking.istio.io/v1beta1", "Gateway"),
    "virtualservices": ("networking.istio.io/v1beta1", "VirtualService"),
    "requestauthentications": ("security.istio.io/v1beta1", "RequestAuthentication"),
    "authorizationpolicies": ("security.istio.io/v1beta1", "AuthorizationPolicy"),
    "services": ("v1", "Service"),
    "pods": ("v1", "Pod"),
    "namespaces": ("v1", "Namespace"),
    "events": ("v1", "Event"),
    "configmaps": ("v1", "ConfigMap"),
    "istios": ("operator.kyma-project.io/v1alpha2", "Istio"),
}
CLUSTER_SCOPED = {"namespaces"}


class FakeCluster:
    def __init__(self) -> None:
        self.url = ""
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.missing: set[str] = set()
        self.writes: list[tuple[str, str, str]] = []
        """Verb, plural (with subresource) and name of every write that was accepted."""
        self.refusals: dict[tuple[str, str], Object] = {}
        """By verb and plural: the Status to answer with."""
        self._log: list[tuple[int, str, str, Object]] = []
        self._revision = 10
        self._uid = 0
        self._changed = anyio.Event()
        self._stopping = False

    @property
    def config(self) -> KubeConfig:
        return KubeConfig(server=self.url)

    def of(self, plural: str) -> list[Object]:
        return [obj for (kind, _, _), obj in sorted(self.objects.items()) if kind == plural]

    async def changed(self) -> None:
        await self._changed.wait()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["FakeCluster"]:
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
            self._stopping = True
            self._wake()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        data = msgspec.json.decode(body) if body else {}
        parts = request.path.strip("/").split("/")
        api_version = parts[1] if parts[0] == "api" else "/".join(parts[1:3])
        parts = parts[2:] if parts[0] == "api" else parts[3:]
        served = {k: v for k, v in KINDS.items() if v[0] == api_version and k not in self.missing}
        if not parts:
            return web.json_response(
                {
                    "resources": [
                        {"name": name, "kind": kind, "namespaced": name not in CLUSTER_SCOPED}
                        for name, (_, kind) in served.items()
                    ]
                }
            )
        namespace = ""
        if parts[0] == "namespaces" and len(parts) > 2:
            namespace, parts = parts[1], parts[2:]
        plural, name, subresource = [*parts, "", ""][:3]
        if plural not in served:
            return _status(404, "NotFound", "404 page not found")
        refusal = self.refusals.get(("get", plural))
        if request.method == "GET" and refusal is not None:
            return web.json_response(refusal, status=refusal["code"])
        if request.method == "GET" and not name:
            if request.query.get("watch"):
                return await self._watch(request, plural)
            return self._list(request, plural)
        return self._one(request, (plural, namespace, name), subresource, data)

    def _list(self, request: web.Request, plural: str) -> web.Response:
        pairs = [p.split("=") for p in request.query.get("labelSelector", "").split(",") if p]
        items = [
            obj
            for obj in self.of(plural)
            if all(obj["metadata"].get("labels", {}).get(k) == v for k, v in pairs)
        ]
        return web.json_response(
            {"metadata": {"resourceVersion": str(self._revision)}, "items": items}
        )

    async def _watch(self, request: web.Request, plural: str) -> web.StreamResponse:
        since = int(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        while not self._stopping:
            changed = self._changed
            for revision, kind, what, obj in list(self._log):
                if revision > since and what == plural:
                    since = revision
                    line = msgspec.json.encode({"type": kind, "object": obj})
                    await response.write(line + b"\n")
            if not changed.is_set():
                await changed.wait()
        return response

    def _one(  # noqa: PLR0911  # one branch per verb
        self, request: web.Request, key: tuple[str, str, str], subresource: str, data: Object
    ) -> web.Response:
        plural, namespace, name = key
        verb = request.method.lower()
        # What may not be written may still be told.
        refusal = self.refusals.get((verb, plural)) if subresource != "status" else None
        if refusal is not None:
            return web.json_response(refusal, status=refusal["code"])
        if verb == "post":
            key = (plural, namespace, name := data["metadata"]["name"])
            if key in self.objects:
                return _status(409, "AlreadyExists", f'{plural} "{name}" already exists')
        old = self.objects.get(key)
        applying = request.content_type.startswith("application/apply-patch")
        if old is None and verb != "post" and not applying:
            return _status(404, "NotFound", f'{plural} "{name}" not found')
        if verb == "get":
            return web.json_response(old)
        given = data.get("metadata", {}).get("resourceVersion")
        if old is not None and given not in (None, old["metadata"]["resourceVersion"]):
            return _status(409, "Conflict", "the object has been modified")
        self.writes.append((verb, plural + (f"/{subresource}" if subresource else ""), name))
        if verb == "delete":
            assert old is not None
            return self._delete(key, old, data)
        new = _merged(old or {}, data) if verb == "patch" else {**data}
        if subresource == "status" and old is not None:
            new = {**old, "status": new.get("status")}
        elif old is not None and "status" in old:
            new["status"] = old["status"]
        return web.json_response(self._store(key, new), status=201 if verb == "post" else 200)

    def _store(self, key: tuple[str, str, str], new: Object) -> Object:
        old = self.objects.get(key)
        self._revision += 1
        api_version, kind = KINDS[key[0]]
        meta = {**new["metadata"], "name": key[2], "namespace": key[1]}
        if old is None:
            self._uid += 1
            meta |= {"uid": f"uid-{self._uid}", "generation": 1}
        else:
            raised = old.get("spec") != new.get("spec")
            meta["generation"] = old["metadata"]["generation"] + raised
            meta["uid"] = old["metadata"]["uid"]
        meta["resourceVersion"] = str(self._revision)
        obj = {**new, "apiVersion": api_version, "kind": kind, "metadata": meta}
        if meta.get("deletionTimestamp") and not meta.get("finalizers"):
            self.objects.pop(key, None)
            self._note("DELETED", key[0], obj)
            return obj
        self.objects[key] = obj
        self._note("ADDED" if old is None else "MODIFIED", key[0], obj)
        return obj

    def _delete(self, key: tuple[str, str, str], old: Object, data: Object) -> web.Response:
        uid = (data.get("preconditions") or {}).get("uid")
        if uid not in (None, old["metadata"]["uid"]):
            return _status(409, "Conflict", "the UID in the precondition does not match")
        if old["metadata"].get("finalizers"):
            meta = {**old["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
            return web.json_response(self._store(key, {**old, "metadata": meta}))
        self._revision += 1
        obj = deepcopy(self.objects.pop(key))
        obj["metadata"]["resourceVersion"] = str(self._revision)
        self._note("DELETED", key[0], obj)
        return _status(200, "", "deleted")

    def lose(self, plural: str) -> None:
        """Delete all objects of a kind, and let no watch hear of it yet."""
        self.objects = {key: obj for key, obj in self.objects.items() if key[0] != plural}

    def _note(self, kind: str, plural: str, obj: Object) -> None:
        self._log.append((self._revision, kind, plural, deepcopy(obj)))
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


def _merged(old: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


def _status(code: int, reason: str, message: str) -> web.Response:
    body = {"kind": "Status", "code": code, "reason": reason, "message": message}
    return web.json_response(body, status=code)
