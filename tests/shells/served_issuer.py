"""An issuer on a real socket, and whoever asks it: a client, or a person with a browser."""

import base64
import json
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import aiohttp
import anyio
import pytest
import uvicorn

from apirule.local.issuer import keys, tokens
from apirule.local.issuer.app import Issuer, challenge_of
from apirule.local.issuer.clients import Algorithm

VERIFIER = "correct-horse-battery-staple-correct-horse-battery"
CALLBACK = "http://localhost:4711/callback"


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **amount: float) -> None:
        self.now += timedelta(**amount)


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.text)
        return body

    @property
    def error(self) -> str:
        return str(self.json["error"])


@dataclass
class Served:
    issuer: Issuer
    folder: Path
    clock: Clock
    session: aiohttp.ClientSession
    rotations: list[int] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.issuer.url

    def secret(self, client_id: str = "demo") -> str:
        client = self.issuer.directory.client(client_id)
        assert client is not None
        return client.secret

    async def ask(self, method: str, path: str, **kwargs: Any) -> Answer:
        url = path if path.startswith("http") else self.url + path
        async with self.session.request(method, url, allow_redirects=False, **kwargs) as answer:
            return Answer(answer.status, answer.headers, await answer.text())

    async def token(self, *, basic: tuple[str, str] | None = None, **params: str) -> Answer:
        headers = {"Authorization": basic_header(*basic)} if basic else {}
        return await self.ask("POST", "/oauth2/token", data=params, headers=headers)

    async def credentials(self, **params: str) -> Answer:
        basic = ("demo", self.secret())
        return await self.token(basic=basic, grant_type="client_credentials", **params)

    def claims(self, token: str) -> dict[str, Any]:
        return tokens.read(token, keys.verifier(self.issuer.rings, self.clock.now))

    # ── as a browser ─────────────────────────────────────────────────────────────────────────

    def authorize_path(self, **changes: str | None) -> str:
        params: dict[str, str | None] = {
            "response_type": "code",
            "client_id": "demo",
            "redirect_uri": CALLBACK,
            "scope": "openid read offline_access",
            "state": "st",
            "nonce": "no",
            "code_challenge": challenge_of(VERIFIER),
            "code_challenge_method": "S256",
            **changes,
        }
        query = urlencode({key: value for key, value in params.items() if value is not None})
        return f"/oauth2/authorize?{query}"

    async def sign_in(
        self, path: str, user: str = "jane", password: str | None = None, **headers: str
    ) -> Answer:
        known = self.issuer.directory.user(user)
        assert known is not None
        form = {"username": user, "password": password or known.password}
        return await self.ask("POST", path, data=form, headers={"Origin": self.url, **headers})

    async def code(self, **changes: str | None) -> str:
        answer = await self.sign_in(self.authorize_path(**changes))
        return query_of(answer)["code"]

    async def redeem(self, code: str, **changes: str) -> Answer:
        params = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": CALLBACK,
            "code_verifier": VERIFIER,
            **changes,
        }
        return await self.token(basic=("demo", self.secret()), **params)

    async def refresh(self, token: str, **params: str) -> Answer:
        basic = ("demo", self.secret())
        return await self.token(
            basic=basic, grant_type="refresh_token", refresh_token=token, **params
        )


def basic_header(client_id: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()


def query_of(answer: Answer) -> dict[str, str]:
    query = urlsplit(answer.headers["Location"]).query
    return {key: values[0] for key, values in parse_qs(query).items()}


@pytest.fixture(scope="session")
def rings() -> dict[Algorithm, keys.Ring]:
    return {one: keys.Ring(next=keys.generate(one), active=keys.generate(one)) for one in Algorithm}


@pytest.fixture
async def served(tmp_path: Path, rings: dict[Algorithm, keys.Ring]) -> AsyncIterator[Served]:
    clock = Clock()
    keys.save(tmp_path, rings)
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    rotations: list[int] = []
    issuer = await Issuer.open(
        url,
        tmp_path,
        domain="kyma.localhost",
        now=clock,
        on_rotated=lambda: rotations.append(1),
    )
    config = uvicorn.Config(issuer.app, lifespan="off", log_config=None, ws="none")
    server = uvicorn.Server(config)
    jar = aiohttp.CookieJar(unsafe=True)
    async with anyio.create_task_group() as tasks, aiohttp.ClientSession(cookie_jar=jar) as session:
        tasks.start_soon(server.serve, [listener])
        yield Served(issuer, tmp_path, clock, session, rotations)
        await session.close()
        server.should_exit = True
