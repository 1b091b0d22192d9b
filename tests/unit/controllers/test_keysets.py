"""The key set controller against a small API server and an issuer that does as it is told."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from aiohttp import web
from joserfc.jwk import ECKey
from tests.unit.kube import fake_api
from tests.unit.kube.fake_api import FakeApi

from apirule import keysets
from apirule.apis import core, scheme
from apirule.controllers.keysets import KeySetController
from apirule.jwks import Fetched, FetchError
from apirule.keysets import KeySet
from apirule.kube.client import Client
from apirule.kube.informer import Informers

A, B = "https://a.example", "https://b.example"


def document(kid: str) -> str:
    key = ECKey.generate_key("P-256", {"kid": kid}).as_dict(private=False)
    return keysets.clean(f'{{"keys": [{json.dumps(key)}]}}').document


FIRST, SECOND = document("1"), document("2")


class Issuers:
    """Answers as told, counts, and can be made to hang."""

    def __init__(self) -> None:
        self.answers: dict[str, str | FetchError] = {}
        self.asked: list[str] = []
        self.hanging: set[str] = set()
        self.busy: dict[str, int] = {}
        self.held: dict[str, anyio.Event] = {}
        self.began = anyio.Event()

    async def fetch(self, issuer: str, jwks_uri: str) -> Fetched:
        assert not self.busy.get(issuer), "asked twice at the same time"
        self.busy[issuer] = 1
        try:
            self.asked.append(issuer)
            self.began.set()
            if issuer in self.hanging:
                await anyio.sleep_forever()
            answer = self.answers.get(issuer, FetchError("It is down."))
            if issuer in self.held:
                await self.held[issuer].wait()
            if isinstance(answer, FetchError):
                raise answer
            return Fetched(answer)
        finally:
            self.busy[issuer] = 0


class World:
    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self.issuers = Issuers()
        self.time = datetime(2026, 1, 1, tzinfo=UTC)
        self.controller: KeySetController

    def policy(self, name: str, *issuers: str, **rule: Any) -> None:
        rules = [{"issuer": issuer, "jwksUri": f"{issuer}/jwks", **rule} for issuer in issuers]
        self.api.put("requestauthentications", "shop", name, spec={"jwtRules": rules})

    def stored(self, issuer: str) -> KeySet | None:
        key = ("configmaps", keysets.NAMESPACE, keysets.name_of(issuer, f"{issuer}/jwks"))
        found = self.api.objects.get(key)
        return keysets.from_config_map(scheme.decode(found, core.ConfigMap)) if found else None

    def store(self, key_set: KeySet) -> None:
        obj = scheme.encode(keysets.to_config_map(key_set))
        meta = obj["metadata"]
        self.api.put("configmaps", meta["namespace"], meta["name"], metadata=meta, data=obj["data"])

    async def until(self, holds: Callable[[], bool]) -> None:
        with anyio.fail_after(30):
            while not holds():
                await self._next_write()

    async def quiet(self) -> int:
        """Return the revision after which nothing is written for a while."""
        before = -1
        while before != self.api.revision:
            before = self.api.revision
            with anyio.move_on_after(0.1):
                await self._next_write()
        return before

    async def _next_write(self) -> None:
        await self.api._changed.wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with Client(self.api.config) as client, anyio.create_task_group() as tasks:
            informers = Informers(client)
            self.controller = KeySetController(
                client, informers, self.issuers, now=lambda: self.time
            )
            await tasks.start(informers.run)
            await tasks.start(self.controller.run)
            yield
            tasks.cancel_scope.cancel()


class Api(FakeApi):
    """Also serves RequestAuthentications, and keeps the labels of what it is given."""

    def put(self, plural: str, namespace: str, name: str, **fields: Any) -> dict[str, Any]:
        if plural == "configmaps":
            fields.setdefault("metadata", {"labels": {keysets.LABEL: "true"}})
        return super().put(plural, namespace, name, **fields)

    def _discovery(self, path: str) -> web.Response:
        if path != "/apis/security.istio.io/v1beta1":
            return super()._discovery(path)
        kind = {"kind": "RequestAuthentication", "namespaced": True}
        return web.json_response({"resources": [{"name": "requestauthentications", **kind}]})


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    kind = {"apiVersion": "security.istio.io/v1beta1", "kind": "RequestAuthentication"}
    monkeypatch.setitem(fake_api.TYPES, "requestauthentications", kind)
    async with Api().serve() as api:
        yield World(api)


async def test_the_keys_of_every_issuer_are_stored_once(world: World) -> None:
    world.issuers.answers = {A: FIRST, B: SECOND}
    world.policy("one", A)
    world.policy("two", A, B)

    async with world.running():
        await world.until(lambda: bool(world.stored(A) and world.stored(B)))
        await world.quiet()

    assert world.stored(A) == KeySet(A, f"{A}/jwks", FIRST, "", "2026-01-01T00:00:00Z")
    assert sorted(world.issuers.asked) == [A, B]


async def test_inline_keys_are_not_fetched(world: World) -> None:
    world.policy("inline", A, jwks=FIRST)

    async with world.running():
        await world.quiet()

    assert world.issuers.asked == []


async def test_an_issuer_that_hangs_keeps_nobody_waiting(world: World) -> None:
    world.issuers.answers = {B: SECOND}
    world.issuers.hanging = {f"https://slow-{n}.example" for n in range(5)}
    world.policy("one", *sorted(world.issuers.hanging), B)

    async with world.running():
        await world.until(lambda: world.stored(B) is not None)

    assert world.stored("https://slow-0.example") is None


async def test_a_failure_is_stored_and_asked_again(world: World) -> None:
    world.policy("one", A)

    async with world.running():
        await world.until(lambda: world.stored(A) is not None)
        failed = world.stored(A)
        world.issuers.answers = {A: FIRST}
        await world.until(lambda: bool((found := world.stored(A)) and found.document))

    assert failed == KeySet(A, f"{A}/jwks", "", "It is down.")
    assert world.stored(A) == KeySet(A, f"{A}/jwks", FIRST, "", "2026-01-01T00:00:00Z")


@pytest.mark.parametrize(("days", "kept"), [(6, FIRST), (8, "")])
async def test_the_last_good_keys_stay_for_a_week(world: World, days: int, kept: str) -> None:
    fetched = (world.time - timedelta(days=days)).isoformat()
    world.store(KeySet(A, f"{A}/jwks", FIRST, "", fetched))
    world.policy("one", A)

    async with world.running():
        await world.until(lambda: bool((found := world.stored(A)) and found.error))

    assert world.stored(A) == KeySet(A, f"{A}/jwks", kept, "It is down.", fetched)


async def test_a_key_set_nobody_names_is_removed(world: World) -> None:
    world.issuers.answers = {A: FIRST, B: SECOND}
    world.policy("one", A)
    world.store(KeySet(B, f"{B}/jwks", SECOND))

    async with world.running():
        await world.until(lambda: world.stored(B) is None and world.stored(A) is not None)
        world.api.remove("requestauthentications", "shop", "one")
        await world.until(lambda: world.stored(A) is None)


async def test_a_key_set_somebody_changed_is_put_right_without_fetching(world: World) -> None:
    world.issuers.answers = {A: FIRST}
    world.policy("one", A)

    async with world.running():
        await world.until(lambda: world.stored(A) is not None)
        await world.quiet()
        world.store(KeySet(A, f"{A}/jwks", SECOND))
        await world.until(lambda: bool((found := world.stored(A)) and found.document == FIRST))
        world.api.remove("configmaps", keysets.NAMESPACE, keysets.name_of(A, f"{A}/jwks"))
        await world.until(lambda: world.stored(A) is not None)

    assert world.issuers.asked == [A]


async def test_a_kick_fetches_at_once_but_not_again_and_again(world: World) -> None:
    world.issuers.answers = {A: FIRST}
    world.policy("one", A)

    async with world.running():
        await world.until(lambda: world.stored(A) is not None)
        world.issuers.answers = {A: SECOND}
        kicks = [world.controller.kick(A) for _ in range(50)]
        await world.until(lambda: bool((found := world.stored(A)) and found.document == SECOND))
        await world.quiet()

    assert kicks == [True] + [False] * 49
    assert world.issuers.asked == [A, A]


async def test_keys_that_change_during_a_fetch_are_fetched_again(world: World) -> None:
    world.issuers.answers = {A: FIRST}
    answered = world.issuers.held[A] = anyio.Event()
    world.policy("one", A)

    async with world.running():
        await world.issuers.began.wait()
        assert world.controller.refresh(A)
        world.issuers.answers = {A: SECOND}
        answered.set()
        await world.until(lambda: bool((found := world.stored(A)) and found.document == SECOND))

    assert world.issuers.asked == [A, A]


async def test_a_kick_of_an_issuer_nobody_uses_does_nothing(world: World) -> None:
    async with world.running():
        assert not world.controller.kick(B)
        await world.quiet()

    assert world.issuers.asked == []


async def test_nothing_is_written_while_nothing_changes(world: World) -> None:
    world.issuers.answers = {A: FIRST}
    world.policy("one", A)

    async with world.running():
        await world.until(lambda: world.stored(A) is not None)
        before = await world.quiet()
        for _ in itertools.repeat(None, 3):
            world.policy("one", A)
        await world.quiet()

    assert world.api.revision == before + 3
