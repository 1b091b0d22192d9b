"""token: get one from the development issuer or any other, inspect, forge, rotate keys."""

from __future__ import annotations

import http.client
import json
import sys
from base64 import urlsafe_b64decode
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import click

from apirule.cli import groups, instance, issuing, output
from apirule.cli.issuing import Refused, Wish
from apirule.problem import SetupError
from apirule.settings import Settings

KINDS = (
    *("expired", "not-yet-valid", "wrong-issuer", "wrong-audience", "no-scope", "unknown-key"),
    *("bad-signature", "tampered", "garbage", "alg-none", "hs256-confusion", "no-exp"),
)
TIMES = ("exp", "iat", "nbf", "auth_time")
LOCAL = "ok (local issuer)"


class Seconds(click.ParamType[int]):
    """A duration: ``90``, ``90s``, ``10m``, ``1h30m``. Gives seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from apirule.schema.formats import parse_duration

        text = f"{value}s" if str(value).isdecimal() else str(value)
        try:
            return int(parse_duration(text).total_seconds())
        except ValueError:
            self.fail(f"'{value}' is no duration; write 90, 90s, 10m or 1h", param, ctx)


@click.group(cls=groups.Group)
def token() -> None:
    """Get, inspect and forge tokens of the development issuer."""


@token.command()
@click.option("--client", help="A client of the local issuer; default: demo.")
@click.option("--user", help="Sign this user of the local issuer in, and print that one's token.")
@click.option("--scope", help="Scopes, separated by blanks.")
@click.option("--audience", help="The audience to ask for.")
@click.option("--ttl", type=Seconds(), help="How long it is to live: 90, 90s, 10m, 1h.")
@click.option("--id-token", is_flag=True, help="With --user: print the ID token instead.")
@click.option("--refresh", is_flag=True, help="With --user: print the refresh token instead.")
@click.option("--issuer", help="Another issuer, by its URL; needs --client-id, --client-secret.")
@click.option("--client-id", help="With --issuer.")
@click.option("--client-secret", help="With --issuer.")
@click.option("-o", "--output", "form", type=click.Choice(["token", "json"]), default="token")
def get(
    scope: str | None,
    audience: str | None,
    id_token: bool,
    refresh: bool,
    issuer: str | None,
    client_id: str | None,
    client_secret: str | None,
    form: str,
    **ours: Any,
) -> int:
    """Print an access token: of a client (client credentials grant), or of a user."""
    if id_token and refresh:
        raise click.UsageError("--id-token and --refresh exclude each other; -o json has all.")
    if (id_token or refresh) and not ours["user"]:
        raise click.UsageError("Only people have ID tokens and refresh tokens: add --user.")
    if issuer:
        if any(ours.values()) or not (client_id and client_secret):
            raise click.UsageError(
                "--issuer goes with --client-id and --client-secret, and without --client, --user "
                "and --ttl, which are about the local issuer."
            )
        pair = (client_id, client_secret)
        answer = issuing.foreign(issuer, pair, scope=scope, audience=audience)
    elif client_id or client_secret:
        raise click.UsageError("--client-id and --client-secret go with --issuer URL.")
    else:
        wish = Wish(
            client=ours["client"] or "demo",
            user=ours["user"],
            scope=scope,
            audience=audience,
            lifetime_s=ours["ttl"],
            with_identity=id_token or (form == "json" and ours["user"] is not None),
        )
        answer = issuing.grant(instance.started(), wish)
    kind = "id_token" if id_token else "refresh_token" if refresh else "access_token"
    if kind not in answer:
        raise Refused({"error": f"it gave no {kind}"})
    output.answer(json.dumps(answer, indent=2) if form == "json" else answer[kind])
    return 0


@token.command()
@click.argument("text", metavar="[TOKEN|-]", default="-")
def inspect(text: str) -> int:
    """Decode a token: header, claims, times in words; who signed it, and which rules accept it.

    The rules are those of the running instance, if there is one.
    """
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
    settings = instance.current()
    signature = _signature(settings, text)
    output.answer(f"alg {header.get('alg')}  kid {header.get('kid')}  signature {signature}")
    now = datetime.now(UTC)  # noqa: TID251 - this command is where the clock is read
    for name, value in claims.items():
        shown = value if isinstance(value, str) else json.dumps(value)
        if name in TIMES and isinstance(value, int | float):
            shown = in_words(float(value), now)
        output.answer(f"{name:<10} {shown}")
    for line in _acceptance(settings, claims, signature=signature, now=now):
        output.answer(line)
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
    client = clients.load(folder, settings.domain).client("demo")
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
    from apirule.local.issuer.app import ROTATE_PATH

    settings = instance.started()
    headers = {"Authorization": f"Bearer {issuing.admin_token(settings)}"}
    answer = issuing.local(settings, "POST", ROTATE_PATH, headers=headers)
    if answer.status != http.client.OK:
        raise Refused(answer.json)
    for algorithm, kid in answer.json["active"].items():
        output.answer(f"{algorithm} signs with {kid}")
    return 0


@token.command()
def jwks() -> int:
    """Print the public keys."""
    output.answer_json(issuing.local(instance.started(), "GET", "/oauth2/certs").json)
    return 0


def _acceptance(
    settings: Settings, claims: Mapping[str, Any], *, signature: str, now: datetime
) -> Iterator[str]:
    """Yield which rules would accept a token with these claims, and which would not."""
    from apirule.cli import acceptance, rules

    known = rules.of_instance() if instance.is_running(settings) else []
    found = list(acceptance.verdicts(claims, known))
    if not found:
        return
    ours = claims.get("iss") == settings.issuer_url
    why = _flaw(claims, now) or ("its signature is wrong" if ours and signature != LOCAL else "")
    if why:
        yield f"would be refused by every rule: {why}"
        return
    for verdict in found:
        yield f"would be {'refused' if verdict.lacks else 'accepted'} by {verdict}"
    if not ours:
        yield "(if its signature is right, which only the keys of its issuer can tell)"


def _flaw(claims: Mapping[str, Any], now: datetime) -> str:
    """Say what is wrong with the times of a token; empty: nothing is."""
    expires, begins = claims.get("exp"), claims.get("nbf")
    if isinstance(expires, int | float) and expires <= now.timestamp():
        return "it has expired"
    if isinstance(begins, int | float) and begins > now.timestamp():
        return "it is not valid yet"
    return ""


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
    return LOCAL


def in_words(moment: float, now: datetime) -> str:
    """Return how far a time of a claim is away, to the nearest second."""
    seconds = round(moment - now.timestamp())
    minutes, rest = divmod(abs(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{hours} h"] * bool(hours) + [f"{minutes} min"] * bool(minutes)
    text = " ".join([*parts, f"{rest} s"])
    return f"in {text}" if seconds >= 0 else f"{text} ago"
