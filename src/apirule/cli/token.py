"""token: get one from the development issuer or any other, inspect, forge, rotate keys."""

from __future__ import annotations

import http.client
import json
import sys
import urllib.error
import urllib.request
from base64 import b64encode, urlsafe_b64decode
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

import click

from apirule.cli import groups, instance, output
from apirule.problem import SetupError
from apirule.settings import Settings

EXIT_CREDENTIALS = 4
TIMEOUT_S = 10.0
KINDS = (
    *("expired", "not-yet-valid", "wrong-issuer", "wrong-audience", "no-scope", "unknown-key"),
    *("bad-signature", "tampered", "garbage", "alg-none", "hs256-confusion", "no-exp"),
)


@click.group(cls=groups.Group)
def token() -> None:
    """Get, inspect and forge tokens of the development issuer."""


@token.command()
@click.option("--client", help="A client of the local issuer; default: demo.")
@click.option("--scope", help="Scopes, separated by blanks.")
@click.option("--audience", help="The audience to ask for.")
@click.option("--issuer", help="Another issuer, by its URL; needs --client-id, --client-secret.")
@click.option("--client-id", help="With --issuer.")
@click.option("--client-secret", help="With --issuer.")
@click.option("-o", "--output", "form", type=click.Choice(["token", "json"]), default="token")
def get(
    client: str | None,
    scope: str | None,
    audience: str | None,
    issuer: str | None,
    client_id: str | None,
    client_secret: str | None,
    form: str,
) -> int:
    """Print an access token (client credentials grant)."""
    if issuer:
        if client or not (client_id and client_secret):
            raise click.UsageError("--issuer goes with --client-id and --client-secret.")
        pair = (client_id, client_secret)
        answer = _post(_token_endpoint(issuer), pair, scope=scope, audience=audience)
    elif client_id or client_secret:
        raise click.UsageError("--client-id and --client-secret go with --issuer URL.")
    else:
        answer = _grant(instance.started(), client=client, scope=scope, audience=audience)
    if "access_token" not in answer:
        raise Refused(answer)
    output.answer(json.dumps(answer, indent=2) if form == "json" else answer["access_token"])
    return 0


@token.command()
@click.argument("text", metavar="[TOKEN|-]", default="-")
def inspect(text: str) -> int:
    """Decode a token: header, claims, times in words, and whether the local issuer signed it."""
    if text == "-":
        text = sys.stdin.buffer.read().decode(errors="replace")
    text = text.strip().removeprefix("Authorization:").strip().removeprefix("Bearer").strip()
    parts = text.split(".")
    jws_parts = 3
    if len(parts) != jws_parts:
        found = output.plural(len(parts), "part")
        output.error(f"not a JWT: {found} instead of 3 (header.payload.signature)")
        return 1
    try:
        header, claims = (_decode(part) for part in parts[:2])
    except ValueError as error:
        output.error(f"not a JWT: {error}")
        return 1
    signature = _signature(instance.current(), text)
    output.answer(f"alg {header.get('alg')}  kid {header.get('kid')}  signature {signature}")
    now = datetime.now(UTC)  # noqa: TID251 - this command is where the clock is read
    for name, value in claims.items():
        shown = value if isinstance(value, str) else json.dumps(value)
        if name in ("exp", "iat", "nbf", "auth_time") and isinstance(value, int | float):
            shown = _in_words(float(value), now)
        output.answer(f"{name:<10} {shown}")
    if "exp" not in claims:
        output.warn("it has no exp: Envoy accepts it for ever")
    if "sub" not in claims:
        output.warn("it has no sub: a rule that asks for a token of this issuer refuses it")
    return 0


@token.command()
@click.argument("kind", type=click.Choice(KINDS))
@click.option("--scope", default="read", help="Scopes of the token before it is broken.")
def forge(kind: str, scope: str) -> int:
    """Print a token with one flaw, signed (where it is) with the real key, to test refusals."""
    from apirule.local.issuer import clients, keys, tokens

    settings = instance.started()
    folder = settings.folder.issuer
    client = clients.load(folder).client("demo")
    if client is None:
        raise SetupError("The client demo was removed.", "Put it back into the issuer's clients.")
    now = datetime.now(UTC)  # noqa: TID251 - this command is where the clock is read
    claims = tokens.access_claims(
        client,
        issuer=settings.issuer_url,
        subject=client.id,
        scopes=tuple(scope.split()),
        audience=client.default_audience,
        token_id="forged",  # noqa: S106 - a name, no secret
        now=now,
    )
    key = keys.load(folder)[client.algorithm].active
    stranger = keys.generate(client.algorithm)
    forged = tokens.forge(tokens.Forgery(kind), claims, key, stranger=stranger, now=now)
    output.answer(forged)
    return 0


@token.command("rotate-keys")
def rotate_keys() -> int:
    """Let the next signing key take over; proxies learn of it at once."""
    from apirule.local.issuer import app, files

    settings = instance.started()
    secret = files.read_private(settings.folder.issuer / app.ADMIN_FILE).decode()
    status, answer = _local(
        settings, "POST", app.ROTATE_PATH, headers={"Authorization": f"Bearer {secret}"}
    )
    if status != http.client.OK:
        raise Refused(answer)
    for algorithm, kid in answer["active"].items():
        output.answer(f"{algorithm} signs with {kid}")
    return 0


@token.command()
def jwks() -> int:
    """Print the public keys."""
    _, answer = _local(instance.started(), "GET", "/oauth2/certs")
    output.answer_json(answer)
    return 0


class Refused(click.ClickException):
    """The issuer said no; exit code 4."""

    exit_code = EXIT_CREDENTIALS

    def __init__(self, answer: dict[str, Any]) -> None:
        error = answer.get("error", "refused")
        super().__init__(f"the issuer refused: {error}: {answer.get('error_description', '')}")


def fetch(settings: Settings, *, scope: str | None = None) -> str:
    """Return an access token of the demo client."""
    answer = _grant(settings, client=None, scope=scope, audience=None)
    if "access_token" not in answer:
        raise Refused(answer)
    return str(answer["access_token"])


def _grant(
    settings: Settings, *, client: str | None, scope: str | None, audience: str | None
) -> dict[str, Any]:
    from apirule.local.issuer import clients

    known = clients.load(settings.folder.issuer)
    found = known.client(client or "demo")
    if found is None:
        names = ", ".join(one.id for one in known.clients)
        raise click.UsageError(f"The issuer has no client '{client}'; it has {names}.")
    _, answer = _local(
        settings,
        "POST",
        "/oauth2/token",
        body=_form(scope, audience),
        headers={
            "Authorization": _basic(found.id, found.secret),
            "Content-Type": "application/x-www-form-urlencoded",
        },
    )
    return answer


def _form(scope: str | None, audience: str | None) -> str:
    values = {"grant_type": "client_credentials", "scope": scope, "audience": audience}
    return urlencode({name: value for name, value in values.items() if value})


def _basic(user: str, password: str) -> str:
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


def _local(
    settings: Settings,
    method: str,
    path: str,
    *,
    body: str = "",
    headers: dict[str, str] | None = None,
) -> tuple[int, dict[str, Any]]:
    """Ask the local issuer where everybody finds it: behind the gateway's plain http port."""
    connection = http.client.HTTPConnection("127.0.0.1", settings.http_port, timeout=TIMEOUT_S)
    host = urlsplit(settings.issuer_url).netloc
    try:
        connection.request(method, path, body=body, headers={**(headers or {}), "Host": host})
        response = connection.getresponse()
        text = response.read()
    except (OSError, http.client.HTTPException) as error:
        if not instance.is_running(settings):
            raise instance.not_running() from error
        raise SetupError(
            f"The issuer does not answer behind the gateway's port {settings.http_port}.",
            "It may be starting: see `apirule status`.",
        ) from error
    finally:
        connection.close()
    try:
        return response.status, json.loads(text)
    except ValueError as error:
        raise SetupError(
            f"The issuer answered {response.status} {text[:80].decode(errors='replace')!r}.",
            "See `apirule status`.",
        ) from error


def _token_endpoint(issuer: str) -> str:
    """Ask an issuer for its token endpoint. SetupError: it names none."""
    url = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
    if urlsplit(url).scheme not in ("http", "https"):
        raise click.UsageError("An issuer is a http(s) URL.")
    found = _open(urllib.request.Request(url)).get("token_endpoint")  # noqa: S310 - just checked
    if not isinstance(found, str):
        raise SetupError(f"{url} names no token_endpoint.", "Check the issuer's URL.")
    return found


def _post(
    endpoint: str, pair: tuple[str, str], *, scope: str | None, audience: str | None
) -> dict[str, Any]:
    if urlsplit(endpoint).scheme not in ("http", "https"):
        raise click.UsageError("The issuer's token_endpoint is no http(s) URL.")
    return _open(
        urllib.request.Request(  # noqa: S310 - the scheme was checked
            endpoint,
            data=_form(scope, audience).encode(),
            headers={"Authorization": _basic(*pair)},
        )
    )


def _open(request: urllib.request.Request) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310 - checked
            return _object(json.load(response))
    except urllib.error.HTTPError as error:
        with error:
            try:
                return _object(json.load(error))
            except ValueError:
                return {"error": str(error.code), "error_description": error.reason}
    except (OSError, ValueError) as error:
        raise SetupError(
            f"{request.full_url} does not answer: {error}.", "Check the issuer's URL."
        ) from error


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("the answer is no JSON object")  # noqa: TRY004 - of the text, not of a type
    return value


def _decode(part: str) -> dict[str, Any]:
    try:
        value = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except ValueError as error:
        raise ValueError(f"'{part[:20]}' is no base64url of JSON") from error
    if not isinstance(value, dict):
        raise ValueError("a part is no JSON object")  # noqa: TRY004 - of the text, not of a type
    return value


def _signature(settings: Settings, text: str) -> str:
    from apirule.local.issuer import keys, tokens

    try:
        rings = keys.load(settings.folder.issuer)
        now = datetime.now(UTC)  # noqa: TID251 - this command is where the clock is read
        tokens.read(text, keys.verifier(rings, now))
    except (ValueError, SetupError, OSError):
        return "not by the local issuer"
    return "ok (local issuer)"


def _in_words(moment: float, now: datetime) -> str:
    seconds = round(moment - now.timestamp())
    minutes, rest = divmod(abs(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{hours} h"] * bool(hours) + [f"{minutes} min"] * bool(minutes)
    text = " ".join([*parts, f"{rest} s"])
    return f"in {text}" if seconds >= 0 else f"{text} ago"
