"""The issuer over a real socket: the published tutorials' commands, and what must be refused."""

import base64
import json
import re
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote_plus, urlencode, urlsplit

import aiohttp
import anyio
import pytest
import uvicorn

from apirule.local.issuer import clients, keys, tokens
from apirule.local.issuer.app import (
    ADMIN_FILE,
    ADMIN_HEADER,
    ROTATE_PATH,
    Issuer,
    challenge_of,
)
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


# ── the tutorials ────────────────────────────────────────────────────────────────────────────

TUTORIAL = """
export CLIENT_ID=demo
export CLIENT_SECRET={secret}
export ENCODED_CREDENTIALS=$(echo -n "$CLIENT_ID:$CLIENT_SECRET" | base64)
export TOKEN_ENDPOINT=$(curl -s {url}/.well-known/openid-configuration \\
  | sed 's/.*"token_endpoint":"\\([^"]*\\)".*/\\1/')
curl -X POST "$TOKEN_ENDPOINT" -d "grant_type=client_credentials" -d "client_id=$CLIENT_ID" \
-H "Content-Type: application/x-www-form-urlencoded" \
-H "Authorization: Basic $ENCODED_CREDENTIALS"
"""


async def test_the_commands_of_the_tutorials_get_a_token(served: Served) -> None:
    script = TUTORIAL.format(secret=served.secret(), url=served.url)

    done = await anyio.run_process(["bash", "-euc", script])

    answer = json.loads(done.stdout)
    assert (answer["token_type"], answer["expires_in"], answer["scope"]) == ("Bearer", 300, "read")
    assert served.claims(answer["access_token"]) | {"jti": ""} == {
        "iss": served.url,
        "sub": "demo",
        "aud": "demo",
        "exp": int(served.clock.now.timestamp()) + 300,
        "iat": int(served.clock.now.timestamp()),
        "nbf": int(served.clock.now.timestamp()),
        "jti": "",
        "client_id": "demo",
        "scope": "read",
    }


async def test_the_discovery_document_leads_to_everything(served: Served) -> None:
    answer = await served.ask("GET", "/.well-known/openid-configuration")
    document = answer.json
    certs = await served.ask("GET", document["jwks_uri"])

    assert document["issuer"] == served.url
    endpoints = [value for key, value in document.items() if key.endswith("_endpoint")]
    assert len(endpoints) == 6
    assert all(value.startswith(f"{served.url}/oauth2/") for value in endpoints)
    assert document["code_challenge_methods_supported"] == ["S256"]
    assert certs.headers["Cache-Control"] == "max-age=60"
    assert len(certs.json["keys"]) == 6
    private = {"d", "p", "q", "dp", "dq", "qi", "k"}
    assert not any(private & key.keys() for key in certs.json["keys"])


async def test_the_host_header_changes_nothing(served: Served) -> None:
    answer = await served.ask(
        "GET", "/.well-known/openid-configuration", headers={"Host": "evil.example"}
    )

    assert "evil" not in answer.text


# ── how a client proves itself ───────────────────────────────────────────────────────────────


async def test_a_wrong_secret_is_401_and_asks_for_basic(served: Served) -> None:
    answer = await served.token(basic=("demo", "wrong"), grant_type="client_credentials")

    assert (answer.status, answer.error) == (401, "invalid_client")
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert answer.headers["Cache-Control"] == "no-store"


async def test_a_secret_may_come_in_the_body(served: Served) -> None:
    answer = await served.token(
        grant_type="client_credentials", client_id="demo", client_secret=served.secret()
    )

    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("params", "status", "error"),
    [
        pytest.param({"client_secret": "SECRET"}, 400, "invalid_request", id="both ways"),
        pytest.param({"client_id": "dashboard"}, 400, "invalid_request", id="another client"),
        pytest.param({"scope": "admin"}, 400, "invalid_scope", id="unknown scope"),
        pytest.param({"grant_type": "password"}, 400, "unsupported_grant_type", id="password"),
        pytest.param({"grant_type": ""}, 400, "invalid_request", id="no grant type"),
    ],
)
async def test_a_request_that_does_not_fit_is_refused(
    served: Served, params: dict[str, str], status: int, error: str
) -> None:
    given = {"grant_type": "client_credentials", **params}
    given = {key: value.replace("SECRET", served.secret()) for key, value in given.items()}

    answer = await served.token(basic=("demo", served.secret()), **given)

    assert (answer.status, answer.error) == (status, error)


async def test_a_secret_in_the_address_is_refused(served: Served) -> None:
    answer = await served.ask(
        "POST",
        f"/oauth2/token?client_id=demo&client_secret={served.secret()}",
        data={"grant_type": "client_credentials"},
    )

    assert (answer.status, answer.error) == (400, "invalid_request")


async def test_a_parameter_given_twice_is_refused(served: Served) -> None:
    answer = await served.ask(
        "POST",
        "/oauth2/token",
        data=[("grant_type", "client_credentials"), ("scope", "read"), ("scope", "write")],
        headers={"Authorization": basic_header("demo", served.secret())},
    )

    assert (answer.status, answer.error) == (400, "invalid_request")


@pytest.mark.parametrize(
    "body", [b'{"grant_type": "client_credentials"}', b"x=" + b"y" * 70_000, b"grant_type=%ff%fe"]
)
async def test_a_body_that_is_no_form_is_refused(served: Served, body: bytes) -> None:
    kind = "application/json" if body.startswith(b"{") else "application/x-www-form-urlencoded"

    answer = await served.ask("POST", "/oauth2/token", data=body, headers={"Content-Type": kind})

    assert answer.status in (400, 401, 413)
    assert "error" in answer.json


@pytest.mark.parametrize("header", ["Basic %%%", "Basic ZGVtbw==", "Bearer x", "Basic /w=="])
async def test_credentials_that_cannot_be_read_are_401(served: Served, header: str) -> None:
    answer = await served.ask(
        "POST",
        "/oauth2/token",
        data={"grant_type": "client_credentials"},
        headers={"Authorization": header},
    )

    assert (answer.status, answer.error) == (401, "invalid_client")


@pytest.mark.parametrize("encode", [str, quote_plus], ids=["as it is", "form-encoded"])
async def test_a_secret_of_any_characters_works(served: Served, encode: Any) -> None:
    odd = "a+b%2F/é :ü"
    directory = served.issuer.directory
    demo = clients.Client(id="odd", secret=odd, scopes=("read",))
    served.issuer.directory = clients.Directory(clients=(demo,), users=directory.users)

    answer = await served.token(basic=("odd", encode(odd)), grant_type="client_credentials")

    assert answer.status == 200


async def test_a_public_client_gets_no_client_credentials(served: Served) -> None:
    answer = await served.token(grant_type="client_credentials", client_id="dashboard")

    assert (answer.status, answer.error) == (400, "unauthorized_client")


async def test_audience_and_scope_can_be_asked_for(served: Served) -> None:
    answer = await served.credentials(audience="https://orders", scope="read write")

    claims = served.claims(answer.json["access_token"])
    assert (claims["aud"], claims["scope"]) == ("https://orders", "read write")


async def test_only_the_owner_of_the_state_folder_chooses_a_lifetime(served: Served) -> None:
    admin = (served.folder / ADMIN_FILE).read_text()
    basic = {"Authorization": basic_header("demo", served.secret())}

    async def ask(lifetime: str, secret: str) -> Answer:
        params = {"grant_type": "client_credentials", "lifetime": lifetime}
        headers = {**basic, ADMIN_HEADER: secret}
        return await served.ask("POST", "/oauth2/token", data=params, headers=headers)

    long = await ask("7200", admin)
    await served.issuer.rotate_keys()
    served.clock.advance(seconds=7100)
    refused = [await ask("7200", "guess"), await ask("0", admin), await ask("x", admin)]

    assert long.json["expires_in"] == 7200
    assert served.claims(long.json["access_token"])["sub"] == "demo"  # its key is published still
    assert [(answer.status, answer.error) for answer in refused] == [(400, "invalid_request")] * 3


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize(
    ("claim", "value"),
    [("scope", "read write"), ("scp", ["read", "write"]), ("scopes", ["read", "write"])],
)
async def test_a_client_has_its_algorithm_and_its_scope_claim(
    served: Served, algorithm: Algorithm, claim: str, value: object
) -> None:
    client = clients.Client(
        id="c",
        secret="s",
        scopes=("read", "write"),
        algorithm=algorithm,
        scope_claim=clients.ScopeClaim(claim),
        lifetime_s=60,
    )
    served.issuer.directory = clients.Directory(clients=(client,))

    answer = await served.token(
        basic=("c", "s"), grant_type="client_credentials", scope="read write"
    )

    token = answer.json["access_token"]
    header = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))
    assert header["alg"] == algorithm
    assert header["kid"] == served.issuer.rings[algorithm].active.kid
    assert served.claims(token)[claim] == value
    assert answer.json["expires_in"] == 60


# ── people ───────────────────────────────────────────────────────────────────────────────────


async def test_a_person_signs_in_and_the_client_gets_tokens(served: Served) -> None:
    path = served.authorize_path()
    page = await served.ask("GET", path)
    redirect = await served.sign_in(path)
    answer = await served.redeem(query_of(redirect)["code"])

    assert page.status == 200
    assert "form-action 'self' http://localhost:4711;" in page.headers["Content-Security-Policy"]
    assert "<script" not in page.text
    assert redirect.status == 303
    assert query_of(redirect) | {"code": ""} == {"code": "", "state": "st", "iss": served.url}
    assert answer.headers["Cache-Control"] == "no-store"
    now = int(served.clock.now.timestamp())
    assert served.claims(answer.json["id_token"]) == {
        "iss": served.url,
        "sub": "jane",
        "aud": "demo",
        "exp": now + 300,
        "iat": now,
        "at_hash": tokens.at_hash(answer.json["access_token"], Algorithm.RS256),
        "email": "jane@kyma.localhost",
        "email_verified": True,
        "groups": ["admins", "developers"],
        "name": "Jane Doe",
        "nonce": "no",
        "auth_time": now,
    }


async def test_the_form_posts_back_the_whole_request(served: Served) -> None:
    path = served.authorize_path(state='"><x>')
    page = await served.ask("GET", path)

    [action] = re.findall(r'action="([^"]*)"', page.text)
    answer = await served.sign_in(unescape(action))

    assert query_of(answer)["state"] == '"><x>'
    assert "<x>" not in page.text


async def test_whoever_is_signed_in_sees_no_second_page(served: Served) -> None:
    first = await served.sign_in(served.authorize_path())
    second = await served.ask("GET", served.authorize_path())
    forced = await served.ask("GET", served.authorize_path(prompt="login"))
    served.clock.advance(seconds=10)
    too_old = await served.ask("GET", served.authorize_path(max_age="5"))
    huge = await served.ask("GET", served.authorize_path(max_age="9" * 20))
    served.clock.advance(hours=9)
    later = await served.ask("GET", served.authorize_path())

    cookie = first.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert (second.status, "code" in query_of(second)) == (303, True)
    assert (forced.status, too_old.status, later.status) == (200, 200, 200)
    assert (huge.status, "code" in query_of(huge)) == (303, True)


async def test_a_wrong_password_shows_the_page_again(served: Served) -> None:
    answer = await served.sign_in(served.authorize_path(), password="wrong")

    assert answer.status == 401
    assert "do not fit" in answer.text
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}],
    ids=str,
)
async def test_a_form_of_another_site_is_refused(served: Served, headers: dict[str, str]) -> None:
    answer = await served.sign_in(served.authorize_path(), **headers)

    assert query_of(answer)["error"] == "access_denied"
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(
    "uri",
    [
        "http://evil.example/callback",
        "http://localhost:4711/callback/../x",
        "http://localhost:4711/callback?x=1",
        "http://localhost:4711/callback#f",
        "http://localhost:4711/callbackx",
        "http://localhost.evil.example:80/callback",
        "http://user@localhost:4711/callback",
        "http://localhost:4711@evil.example/callback",
        "http://localhost:x/callback",
        "//localhost:4711/callback",
        "HTTP://localhost:4711/callback",
        "",
    ],
)
async def test_an_address_that_is_not_registered_gets_no_redirect(served: Served, uri: str) -> None:
    answer = await served.ask("GET", served.authorize_path(redirect_uri=uri))

    assert answer.status == 400
    assert "Location" not in answer.headers


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        pytest.param({"code_challenge": None}, "invalid_request", id="no PKCE"),
        pytest.param({"code_challenge_method": "plain"}, "invalid_request", id="plain PKCE"),
        pytest.param({"code_challenge_method": None}, "invalid_request", id="PKCE downgrade"),
        pytest.param({"code_challenge": "short"}, "invalid_request", id="no hash"),
        pytest.param({"response_type": "token"}, "unsupported_response_type", id="implicit"),
        pytest.param({"response_mode": "fragment"}, "invalid_request", id="fragment"),
        pytest.param({"scope": "root"}, "invalid_scope", id="scope"),
        pytest.param({"request": "x.y.z"}, "request_not_supported", id="request object"),
        pytest.param({"prompt": "none"}, "login_required", id="nobody signed in"),
        pytest.param({"max_age": "soon"}, "invalid_request", id="max_age"),
    ],
)
async def test_a_wrong_request_is_told_to_the_client(
    served: Served, changes: dict[str, str | None], error: str
) -> None:
    answer = await served.ask("GET", served.authorize_path(**changes))

    told = query_of(answer)
    assert answer.headers["Location"].startswith(CALLBACK)
    assert (told["error"], told["state"], told["iss"]) == (error, "st", served.url)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"code_verifier": "x" * 43}, id="wrong verifier"),
        pytest.param({"code_verifier": ""}, id="no verifier"),
        pytest.param({"redirect_uri": "http://localhost:1/callback"}, id="other address"),
        pytest.param({"code": "guess"}, id="guessed code"),
    ],
)
async def test_a_code_is_bound_to_its_request(served: Served, changes: dict[str, str]) -> None:
    params = {"code": await served.code(), **changes}

    answer = await served.redeem(**params)

    assert (answer.status, answer.error) == (400, "invalid_grant")


async def test_a_code_of_another_client_is_refused(served: Served) -> None:
    code = await served.code()

    answer = await served.token(
        grant_type="authorization_code",
        client_id="kubectl",
        code=code,
        redirect_uri=CALLBACK,
        code_verifier=VERIFIER,
    )

    assert (answer.status, answer.error) == (400, "invalid_grant")


async def test_an_expired_code_is_refused(served: Served) -> None:
    code = await served.code()
    served.clock.advance(seconds=61)

    answer = await served.redeem(code)

    assert answer.error == "invalid_grant"


async def test_a_code_used_twice_ends_what_was_issued_for_it(served: Served) -> None:
    code = await served.code()
    first = (await served.redeem(code)).json

    again = await served.redeem(code)
    refreshed = await served.refresh(first["refresh_token"])
    userinfo = await served.ask(
        "GET", "/oauth2/userinfo", headers={"Authorization": f"Bearer {first['access_token']}"}
    )

    assert (again.status, again.error) == (400, "invalid_grant")
    assert (refreshed.status, refreshed.error) == (400, "invalid_grant")
    assert userinfo.status == 401


async def test_a_native_app_signs_in_without_a_secret(served: Served) -> None:
    path = served.authorize_path(
        client_id="kubectl", redirect_uri="http://localhost:18000", scope="openid"
    )
    code = query_of(await served.sign_in(path))["code"]

    answer = await served.token(
        grant_type="authorization_code",
        client_id="kubectl",
        code=code,
        redirect_uri="http://localhost:18000",
        code_verifier=VERIFIER,
    )

    assert served.claims(answer.json["id_token"])["aud"] == "kubectl"


# ── refresh ──────────────────────────────────────────────────────────────────────────────────


async def test_a_refresh_token_is_replaced_each_time(served: Served) -> None:
    first = (await served.redeem(await served.code())).json
    served.clock.advance(minutes=10)

    second = await served.refresh(first["refresh_token"])

    assert second.status == 200
    assert second.json["refresh_token"] != first["refresh_token"]
    assert served.claims(second.json["id_token"])["auth_time"] == int(
        (served.clock.now - timedelta(minutes=10)).timestamp()
    )


async def test_a_used_refresh_token_ends_the_whole_family(served: Served) -> None:
    first = (await served.redeem(await served.code())).json
    second = (await served.refresh(first["refresh_token"])).json

    stolen = await served.refresh(first["refresh_token"])
    rightful = await served.refresh(second["refresh_token"])

    assert (stolen.status, stolen.error) == (400, "invalid_grant")
    assert (rightful.status, rightful.error) == (400, "invalid_grant")


async def test_a_refresh_narrows_the_scope_but_never_widens_it(served: Served) -> None:
    first = (await served.redeem(await served.code())).json

    wider = await served.refresh(first["refresh_token"], scope="openid write")
    narrower = await served.refresh(first["refresh_token"], scope="openid")

    assert wider.error == "invalid_scope"
    assert narrower.json["scope"] == "openid"


async def test_a_refresh_token_of_another_client_is_refused_and_stays_good(
    served: Served,
) -> None:
    first = (await served.redeem(await served.code())).json

    foreign = await served.token(
        grant_type="refresh_token",
        client_id="kubectl",
        refresh_token=first["refresh_token"],
    )
    own = await served.refresh(first["refresh_token"])

    assert foreign.error == "invalid_grant"
    assert own.status == 200


async def test_a_refresh_token_ages(served: Served) -> None:
    first = (await served.redeem(await served.code())).json
    served.clock.advance(hours=13)

    answer = await served.refresh(first["refresh_token"])

    assert answer.error == "invalid_grant"


# ── userinfo, introspection, revocation, logout ──────────────────────────────────────────────


async def test_userinfo_is_for_people_with_openid(served: Served) -> None:
    person = (await served.redeem(await served.code())).json
    machine = (await served.credentials()).json

    def bearer(token: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {token}"}

    info = await served.ask("GET", "/oauth2/userinfo", headers=bearer(person["access_token"]))
    none = await served.ask("GET", "/oauth2/userinfo")
    by_machine = await served.ask(
        "GET", "/oauth2/userinfo", headers=bearer(machine["access_token"])
    )
    by_id_token = await served.ask("GET", "/oauth2/userinfo", headers=bearer(person["id_token"]))

    assert info.json == {
        "sub": "jane",
        "email": "jane@kyma.localhost",
        "email_verified": True,
        "groups": ["admins", "developers"],
        "name": "Jane Doe",
    }
    assert (none.status, none.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert (by_machine.status, by_id_token.status) == (401, 401)


async def test_introspection_tells_what_a_token_is_worth(served: Served) -> None:
    token = (await served.credentials(scope="read write")).json["access_token"]
    basic = {"Authorization": basic_header("demo", served.secret())}

    async def introspect(value: str) -> Answer:
        return await served.ask("POST", "/oauth2/introspect", data={"token": value}, headers=basic)

    active = await introspect(token)
    junk = await introspect("not.a.token")
    anonymous = await served.ask("POST", "/oauth2/introspect", data={"token": token})
    served.clock.advance(seconds=301)
    expired = await introspect(token)

    assert active.json["active"] is True
    assert (active.json["scope"], active.json["client_id"]) == ("read write", "demo")
    assert (junk.json, expired.json) == ({"active": False}, {"active": False})
    assert anonymous.status == 401


async def test_revoked_tokens_are_worth_nothing(served: Served) -> None:
    person = (await served.redeem(await served.code())).json
    machine = (await served.credentials()).json
    basic = {"Authorization": basic_header("demo", served.secret())}

    for token in (person["refresh_token"], machine["access_token"], "unknown"):
        answer = await served.ask("POST", "/oauth2/revoke", data={"token": token}, headers=basic)
        assert answer.status == 200
    refreshed = await served.refresh(person["refresh_token"])
    introspected = await served.ask(
        "POST", "/oauth2/introspect", data={"token": machine["access_token"]}, headers=basic
    )

    assert refreshed.error == "invalid_grant"
    assert introspected.json == {"active": False}


async def test_signing_out_ends_the_session_and_its_refresh_tokens(served: Served) -> None:
    code = query_of(
        await served.sign_in(
            served.authorize_path(
                client_id="dashboard",
                redirect_uri="http://localhost:1/auth/callback",
                scope="openid",
            )
        )
    )["code"]
    got = (
        await served.token(
            grant_type="authorization_code",
            client_id="dashboard",
            code=code,
            redirect_uri="http://localhost:1/auth/callback",
            code_verifier=VERIFIER,
        )
    ).json
    query = urlencode(
        {
            "id_token_hint": got["id_token"],
            "post_logout_redirect_uri": "http://localhost:1/",
            "state": "bye",
        }
    )

    out = await served.ask("GET", f"/oauth2/logout?{query}")
    page = await served.ask("GET", served.authorize_path())
    refreshed = await served.token(
        grant_type="refresh_token", client_id="dashboard", refresh_token=got["refresh_token"]
    )

    assert (out.status, out.headers["Location"]) == (303, "http://localhost:1/?state=bye")
    assert page.status == 200
    assert refreshed.error == "invalid_grant"


async def test_signing_out_by_a_mere_link_asks_first_and_redirects_nowhere(
    served: Served,
) -> None:
    await served.sign_in(served.authorize_path())
    target = urlencode({"post_logout_redirect_uri": "http://evil.example/"})

    asked = await served.ask("GET", f"/oauth2/logout?{target}")
    still = await served.ask("GET", served.authorize_path())
    done = await served.ask("POST", f"/oauth2/logout?{target}", headers={"Origin": served.url})
    after = await served.ask("GET", served.authorize_path())

    assert "Do you want" in asked.text
    assert still.status == 303
    assert (done.status, "Location" in done.headers) == (200, False)
    assert after.status == 200


# ── keys ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_rotation_signs_with_the_key_everybody_knows_already(served: Served) -> None:
    before = (await served.ask("GET", "/oauth2/certs")).json["keys"]
    old = (await served.credentials()).json["access_token"]

    admin = (served.folder / ADMIN_FILE).read_text()
    rotated = await served.ask("POST", ROTATE_PATH, headers={"Authorization": f"Bearer {admin}"})
    new = (await served.credentials()).json["access_token"]
    after = (await served.ask("GET", "/oauth2/certs")).json["keys"]

    kid = json.loads(base64.urlsafe_b64decode(new.split(".")[0] + "=="))["kid"]
    assert kid == rotated.json["active"]["RS256"]
    assert kid in [key["kid"] for key in before]
    assert served.claims(old)["sub"] == "demo"
    assert len(after) == 9
    assert served.rotations == [1]
    assert keys.load(served.folder).keys() == set(Algorithm)
    assert keys.load(served.folder)[Algorithm.RS256].active.kid == kid


async def test_a_retired_key_goes_when_its_tokens_have_expired(served: Served) -> None:
    await served.issuer.rotate_keys()
    served.clock.advance(seconds=361)

    certs = await served.ask("GET", "/oauth2/certs")

    assert len(certs.json["keys"]) == 6


@pytest.mark.parametrize("header", [None, "Bearer ", "Bearer guess", "Basic x"])
async def test_only_the_owner_of_the_state_folder_rotates(
    served: Served, header: str | None
) -> None:
    before = served.issuer.rings
    headers = {"Authorization": header} if header else {}

    answer = await served.ask("POST", ROTATE_PATH, headers=headers)

    assert answer.status == 401
    assert served.issuer.rings == before


async def test_secrets_are_readable_by_their_owner_only(served: Served) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in served.folder.iterdir()}

    assert modes == {"clients.yaml": 0o600, "keys.json": 0o600, "admin.token": 0o600}
