"""The issuer over a real socket: the published tutorials' commands, and what must be refused."""

import base64
import json
from typing import Any
from urllib.parse import quote_plus

import anyio
import pytest
from tests.shells.served_issuer import (
    Answer,
    Served,
    basic_header,
)

from apirule.local.issuer import clients, keys
from apirule.local.issuer.app import (
    ADMIN_FILE,
    ADMIN_HEADER,
    ROTATE_PATH,
)
from apirule.local.issuer.clients import Algorithm

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
