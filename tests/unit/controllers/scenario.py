"""What the tests of the APIRule controller are made of: a shop, and an engine that reports."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import anyio
import yaml

from apirule.apis import networking, security
from apirule.apis.gateway import v2
from apirule.apis.meta import GroupVersionKind, Object, Resource
from apirule.kube.client import Client
from apirule.kube.errors import ApiError
from apirule.kube.informer import Delta, Informers, name_of
from apirule.names import ObjectName

RULE = ObjectName("shop", "orders")
OWNED: tuple[type[Resource], ...] = (
    security.RequestAuthentication,
    security.AuthorizationPolicy,
    networking.VirtualService,
)

WORLD = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: kyma-system}
---
apiVersion: networking.istio.io/v1beta1
kind: Gateway
metadata: {name: kyma-gateway, namespace: kyma-system}
spec:
  selector: {istio: ingressgateway}
  servers:
    - port: {number: 443, name: https, protocol: HTTPS}
      hosts: ["*.example.localhost"]
      tls: {mode: SIMPLE, credentialName: tls}
---
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {selector: {app: orders}, ports: [{name: http, port: 8080, protocol: TCP}]}
---
apiVersion: v1
kind: Pod
metadata: {name: orders-1, namespace: shop, labels: {app: orders}}
spec: {containers: [{name: orders, image: x}, {name: istio-proxy, image: proxy}]}
"""

APIRULE = """
apiVersion: gateway.kyma-project.io/v2
kind: APIRule
metadata: {name: orders, namespace: shop}
spec:
  hosts: [orders.example.localhost]
  gateway: kyma-system/kyma-gateway
  service: {name: orders, port: 8080}
  rules:
    - path: /orders/{*}
      methods: [GET]
      jwt:
        authentications:
          - {issuer: "https://idp.example.org", jwksUri: "https://idp.example.org/keys"}
    - path: /health
      methods: [GET]
      noAuth: true
"""


def world(*without: str) -> list[Object]:
    objects = list(yaml.safe_load_all(WORLD))
    return [obj for obj in objects if obj["kind"] not in without]


def rule(**spec: Any) -> Object:
    obj: Object = yaml.safe_load(APIRULE)
    obj["spec"] |= spec
    return obj


class Shop:
    """Reads and writes as a user would, and waits for what the controller makes of it."""

    def __init__(self, client: Client, informers: Informers) -> None:
        self.client = client
        self._changed = anyio.Event()
        kinds: tuple[type[Resource], ...] = (v2.APIRule, *OWNED)
        for kind in kinds:
            informers.of(kind.gvk).add_handler(self._wake)

    def _wake(self, _: Delta) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def create(self, *objects: Object) -> None:
        for obj in objects:
            await self.client.create(obj)

    async def read(self, name: ObjectName = RULE) -> Object:
        return await self.client.get(v2.APIRule.gvk, name)

    async def all(self, kind: type[Resource]) -> list[Object]:
        return (await self.client.list(kind.gvk)).items

    async def edit(
        self, gvk: GroupVersionKind, name: ObjectName, change: Callable[[Object], None]
    ) -> Object:
        """Change an object, whoever writes at the same time."""
        while True:
            obj = deepcopy(await self.client.get(gvk, name))
            change(obj)
            try:
                return await self.client.update(obj)
            except ApiError as error:
                if error.status != 409:
                    raise

    async def until(self, condition: Callable[[Object], bool], name: ObjectName = RULE) -> Object:
        """Wait for a form of the rule."""
        obj: Object = {}
        with anyio.move_on_after(15):
            while True:
                changed = self._changed
                obj = await self.read(name)
                if condition(obj):
                    return obj
                await changed.wait()
        raise AssertionError(f"the rule stayed {obj.get('status')}")

    async def until_state(self, state: str, name: ObjectName = RULE) -> Object:
        return await self.until(
            lambda obj: (
                (obj.get("status") or {}).get("state") == state
                and obj["status"]["observedGeneration"] == obj["metadata"]["generation"]
            ),
            name,
        )

    async def eventually(self, condition: Callable[[], Any]) -> None:
        """Wait for anything else; ``condition`` is an async function."""
        with anyio.fail_after(15):
            while True:
                changed = self._changed
                if await condition():
                    return
                await changed.wait()


class Engine:
    """Says of every Istio object that all proxies have it, as the real one does."""

    def __init__(self, client: Client, informers: Informers) -> None:
        self._client = client
        self._send, self._receive = anyio.create_memory_object_stream[Object](1000)
        self.verdict = ("True", "UpToDate", "1/1 proxies up to date")
        self.advice = ""
        self.holds_back: Callable[[Object], bool] = lambda _: False
        """Of which objects nothing is said for now."""
        self._held: list[Object] = []
        for kind in OWNED:
            informers.of(kind.gvk).add_handler(self._note)

    def _note(self, delta: Delta) -> None:
        if delta.new is not None and _reported(delta.new) < delta.new["metadata"]["generation"]:
            self._send.send_nowait(delta.new)

    async def run(self) -> None:
        with self._send, self._receive:
            async for obj in self._receive:
                if self.holds_back(obj):
                    self._held.append(obj)
                else:
                    await self._report(obj)

    def let_go(self) -> None:
        """Say what was held back."""
        self.holds_back = lambda _: False
        held, self._held = self._held, []
        for obj in held:
            self._send.send_nowait(obj)

    async def _report(self, obj: Object) -> None:
        generation = obj["metadata"]["generation"]
        status, reason, message = self.verdict
        condition = {
            "type": "Reconciled",
            "status": status,
            "reason": reason,
            "message": message,
            "observedGeneration": generation,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        conditions = [condition]
        if self.advice:
            more = {"type": "Advice", "status": "True", "reason": "KeysUnavailable"}
            conditions.append(condition | more | {"message": self.advice})
        body = {"observedGeneration": generation, "conditions": conditions}
        try:
            await self._client.patch_status(GroupVersionKind.of(obj), name_of(obj), body)
        except ApiError as error:
            if error.status != 404:
                raise


def _reported(obj: Object) -> int:
    return int((obj.get("status") or {}).get("observedGeneration", 0))


def later(obj: Object) -> None:
    obj["spec"]["timeout"] = 30


def narrower(obj: Object) -> None:
    obj["spec"]["rules"][0]["jwt"]["authorizations"] = [{"audiences": ["shop"]}]


def elsewhere(obj: Object) -> None:
    obj["spec"]["rules"][0]["jwt"]["authentications"][0]["fromHeaders"] = [{"name": "X-Token"}]


def moved(obj: Object) -> None:
    obj["spec"]["rules"][1]["path"] = "/healthz"
