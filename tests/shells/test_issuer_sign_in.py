"""A person signs in with a browser and out again: codes, PKCE, sessions, redirects."""

import re
from html import unescape
from urllib.parse import urlencode

import pytest
from tests.shells.served_issuer import CALLBACK, VERIFIER, Served, query_of

from apirule.local.issuer import tokens
from apirule.local.issuer.clients import Algorithm


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
