"""What happens to tokens once they are issued: refresh, userinfo, introspection, revocation."""

from datetime import timedelta

from tests.shells.served_issuer import Answer, Served, basic_header


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
