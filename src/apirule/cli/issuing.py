"""Asking issuers for tokens: the local one behind the gateway's plain http port, others by URL."""

from __future__ import annotations

import http.client
import json
import secrets
import urllib.error
import urllib.request
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, urlencode, urlsplit

import click
import msgspec

from apirule.cli import instance
from apirule.problem import SetupError
from apirule.settings import Settings

if TYPE_CHECKING:
    from apirule.local.issuer.clients import Client

EXIT_CREDENTIALS = 4
ANSWER_WITHIN_S = 10.0
FORM = "application/x-www-form-urlencoded"


class Refused(click.ClickException):
    """The issuer said no; exit code 4."""

    exit_code = EXIT_CREDENTIALS

    def __init__(self, answer: Mapping[str, Any]) -> None:
        error = answer.get("error", "refused")
        super().__init__(f"the issuer refused: {error}: {answer.get('error_description', '')}")


class Wish(msgspec.Struct, frozen=True):
    """What a token of the local issuer is to be like."""

    client: str = "demo"
    user: str | None = None
    """Whom the token speaks for; None: the client itself."""
    scope: str | None = None
    audience: str | None = None
    lifetime_s: int | None = None
    with_identity: bool = False
    """Ask for an ID token too; only people have one."""


class Answer(NamedTuple):
    status: int
    location: str
    text: bytes

    @property
    def json(self) -> dict[str, Any]:
        """Return the document. SetupError: the answer is none."""
        try:
            return _object(json.loads(self.text))
        except ValueError as error:
            shown = self.text[:80].decode(errors="replace")
            raise SetupError(
                f"The issuer answered {self.status} {shown!r}.", "See `apirule status`."
            ) from error


def grant(settings: Settings, wish: Wish) -> dict[str, Any]:
    """Return the local issuer's answer to a wish. Refused: it said no."""
    from apirule.local.issuer import clients

    known = clients.load(settings.folder.issuer, settings.domain)
    client = known.client(wish.client)
    if client is None:
        names = ", ".join(one.id for one in known.clients)
        raise click.UsageError(f"The issuer has no client '{wish.client}'; it has {names}.")
    params = {"grant_type": "client_credentials", **_wanted(wish)}
    if wish.user is not None:
        user = known.user(wish.user)
        if user is None:
            names = ", ".join(one.id for one in known.users)
            raise click.UsageError(f"The issuer has no user '{wish.user}'; it has {names}.")
        params = _signed_in(settings, wish, client, user.password)
    return _token(settings, client, params, lifetime_s=wish.lifetime_s)


def foreign(
    issuer: str, pair: tuple[str, str], *, scope: str | None, audience: str | None
) -> dict[str, Any]:
    """Return the answer of any issuer to a client's own credentials. Refused: it said no."""
    endpoint = _token_endpoint(issuer)
    wanted = _wanted(Wish(scope=scope, audience=audience))
    body = urlencode({"grant_type": "client_credentials", **wanted})
    return _checked(fetch(endpoint, body.encode(), {"Authorization": _basic(*pair)}))


def local(
    settings: Settings,
    method: str,
    path: str,
    *,
    body: str = "",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Ask the local issuer where everybody finds it: behind the gateway's plain http port."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", settings.http_port, timeout=ANSWER_WITHIN_S
    )
    host = urlsplit(settings.issuer_url).netloc
    try:
        connection.request(method, path, body=body, headers={**(headers or {}), "Host": host})
        response = connection.getresponse()
        return Answer(response.status, response.headers.get("Location", ""), response.read())
    except (OSError, http.client.HTTPException) as error:
        if not instance.is_running(settings):
            raise instance.not_running() from error
        raise SetupError(
            f"The issuer does not answer behind the gateway's port {settings.http_port}.",
            "It may be starting: see `apirule status`.",
        ) from error
    finally:
        connection.close()


def admin_token(settings: Settings) -> str:
    """Return what tells the issuer that its owner asks."""
    from apirule.local.issuer import files
    from apirule.local.issuer.app import ADMIN_FILE

    return files.read_private(settings.folder.issuer / ADMIN_FILE).decode()


def _signed_in(settings: Settings, wish: Wish, client: Client, password: str) -> dict[str, str]:
    """Sign a person in as the page does, and return what redeems the code (RFC 7636)."""
    if not client.redirect_uris:
        raise click.UsageError(f"The client '{client.id}' signs nobody in: it has no redirectUris.")
    verifier = secrets.token_urlsafe(48)
    digest = urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    redirect = client.redirect_uris[0]
    wanted = _wanted(wish)
    if wish.with_identity:
        wanted["scope"] = f"openid {wish.scope or ' '.join(client.default_scope)}"
    query = urlencode(
        {
            "response_type": "code",
            "client_id": client.id,
            "redirect_uri": redirect,
            "code_challenge": digest,
            "code_challenge_method": "S256",
            **wanted,
        }
    )
    answer = local(
        settings,
        "POST",
        f"/oauth2/authorize?{query}",
        body=urlencode({"username": wish.user or "", "password": password}),
        headers={"Content-Type": FORM},
    )
    found = {name: values[0] for name, values in parse_qs(urlsplit(answer.location).query).items()}
    if "code" not in found:
        wrong = {"error": "access_denied", "error_description": "restart it after a new password"}
        raise Refused(found if "error" in found else wrong)
    return {
        "grant_type": "authorization_code",
        "code": found["code"],
        "redirect_uri": redirect,
        "code_verifier": verifier,
    }


def _token(
    settings: Settings, client: Client, params: Mapping[str, str], *, lifetime_s: int | None
) -> dict[str, Any]:
    headers, body = {"Content-Type": FORM}, dict(params)
    if client.public:
        body["client_id"] = client.id
    else:
        headers["Authorization"] = _basic(client.id, client.secret)
    if lifetime_s is not None:
        from apirule.local.issuer.app import ADMIN_HEADER

        headers[ADMIN_HEADER] = admin_token(settings)
        body["lifetime"] = str(lifetime_s)
    answer = local(settings, "POST", "/oauth2/token", body=urlencode(body), headers=headers)
    return _checked(answer.json)


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    if "access_token" not in answer:
        raise Refused(answer)
    return answer


def _wanted(wish: Wish) -> dict[str, str]:
    wanted = {"scope": wish.scope, "audience": wish.audience}
    return {name: value for name, value in wanted.items() if value}


def _basic(user: str, password: str) -> str:
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


def _token_endpoint(issuer: str) -> str:
    """Ask an issuer for its token endpoint. SetupError: it names none."""
    url = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
    found = fetch(url).get("token_endpoint")
    if not isinstance(found, str):
        raise SetupError(f"{url} names no token_endpoint.", "Check the issuer's URL.")
    return found


def fetch(
    url: str, data: bytes | None = None, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the JSON object at an address. SetupError: there is none."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise click.UsageError(f"{url} is no http(s) URL.")
    address, headers = url, dict(headers or {})
    if parts.scheme == "http" and (parts.hostname or "").endswith(".localhost"):
        # RFC 6761, 6.3; not every resolver knows it.
        headers["Host"] = parts.netloc
        address = parts._replace(netloc=f"127.0.0.1:{parts.port or 80}").geturl()
    request = urllib.request.Request(address, data, headers)  # noqa: S310 - the scheme was checked
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_WITHIN_S) as response:  # noqa: S310
            return _object(json.load(response))
    except urllib.error.HTTPError as error:
        with error:
            try:
                return _object(json.load(error))
            except ValueError:
                return {"error": str(error.code), "error_description": error.reason}
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise SetupError(f"{url} does not answer: {error}.", "Check the issuer's URL.") from error


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("the answer is no JSON object")  # noqa: TRY004 - of the text, not of a type
    return value
