"""The OAuth wire format: parameters in, errors out, and how a client proves who it is."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from apirule.local.issuer.clients import Client, Directory, same_secret

FORM = "application/x-www-form-urlencoded"
BODY_LIMIT = 64 * 1024
NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


class OAuthError(Exception):
    """An error of RFC 6749: a code for programs, a sentence for people."""

    def __init__(self, code: str, description: str, *, status: int = 400) -> None:
        super().__init__(description)
        self.code = code
        self.description = description
        self.status = status

    def response(self) -> Response:
        headers = dict(NO_STORE)
        if self.code == "invalid_client":
            headers["WWW-Authenticate"] = 'Basic realm="apirule issuer", charset="UTF-8"'
        elif self.status in (401, 403):
            headers["WWW-Authenticate"] = f'Bearer error="{self.code}"'
        body = {"error": self.code, "error_description": self.description}
        return JSONResponse(body, self.status, headers)


def bad_client(description: str) -> OAuthError:
    return OAuthError("invalid_client", description, status=401)


def single(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return parameters by name. invalid_request: one is given twice (RFC 6749, 3.1)."""
    values: dict[str, str] = {}
    for name, value in pairs:
        if name in values:
            raise OAuthError("invalid_request", f"The parameter {name} is given more than once.")
        # A parameter without a value counts as left out.
        values[name] = value
    return {name: value for name, value in values.items() if value}


async def form(request: Request) -> dict[str, str]:
    """Read a form body."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != FORM:
        raise OAuthError("invalid_request", f"The Content-Type must be {FORM}.")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_LIMIT:
            raise OAuthError("invalid_request", "The body is too large.", status=413)
    try:
        return single(parse_qsl(body.decode("utf-8"), keep_blank_values=True, errors="strict"))
    except UnicodeDecodeError as error:
        raise OAuthError("invalid_request", "The body is not UTF-8.") from error


def authenticate(request: Request, params: Mapping[str, str], directory: Directory) -> Client:
    """Find out which client asks, by the one way it uses to prove it."""
    if "client_secret" in request.query_params or "client_id" in request.query_params:
        raise OAuthError(
            "invalid_request", "Client credentials belong in a header or the body, not in the URL."
        )
    header = request.headers.get("authorization", "")
    scheme, _, credentials = header.partition(" ")
    if not header:
        return _by_body(params, directory)
    if scheme.lower() != "basic":
        raise bad_client("Only HTTP Basic is known for clients.")
    if "client_secret" in params:
        raise OAuthError("invalid_request", "The client proves itself in two ways at once.")
    pairs = read_basic(credentials.strip())
    client = next(
        (one for name, secret in pairs if (one := _matching(directory, name, secret))), None
    )
    named = params.get("client_id")
    if named is not None and all(named != name for name, _ in pairs):
        raise OAuthError("invalid_request", "client_id differs from the Authorization header.")
    if client is None:
        raise bad_client("The client is unknown or its secret is wrong.")
    if named is not None and named != client.id:
        raise OAuthError("invalid_request", "client_id differs from the Authorization header.")
    return client


def read_basic(credentials: str) -> list[tuple[str, str]]:
    """Return the pairs that Basic credentials can stand for: as they are, and form-decoded.

    RFC 6749 has both parts form-encoded; curl and most people send them as they are.
    """
    try:
        text = base64.b64decode(credentials, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise bad_client("The Basic credentials are not Base64 of UTF-8 text.") from error
    client_id, colon, secret = text.partition(":")
    if not colon:
        raise bad_client("The Basic credentials hold no colon.")
    decoded = (unquote_plus(client_id), unquote_plus(secret))
    return list(dict.fromkeys([(client_id, secret), decoded]))


def _matching(directory: Directory, client_id: str, secret: str) -> Client | None:
    client = directory.client(client_id)
    known = same_secret(secret, client.secret if client is not None else "")
    return client if known else None


def _by_body(params: Mapping[str, str], directory: Directory) -> Client:
    client_id, secret = params.get("client_id"), params.get("client_secret")
    if client_id is None:
        raise bad_client("The request names no client.")
    client = directory.client(client_id)
    if client is not None and client.public and secret is None:
        return client
    known = _matching(directory, client_id, secret or "")
    if known is None:
        raise bad_client("The client is unknown or its secret is wrong.")
    return known


def bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def chosen_scopes(client: Client, wanted: str | None) -> tuple[str, ...]:
    """Return the scopes asked for, or the client's default ones."""
    if wanted is None:
        return client.default_scope
    scopes = tuple(dict.fromkeys(wanted.split()))
    for scope in scopes:
        if scope not in client.scopes:
            raise OAuthError("invalid_scope", f"The client may not ask for {scope!r}.")
    return scopes


def chosen_audience(client: Client, params: Mapping[str, str]) -> str:
    """Return what ``audience`` (or ``resource``, RFC 8707) asks for, or the client's default."""
    wanted = params.get("audience") or params.get("resource")
    if wanted is None:
        return client.default_audience
    if not client.may_ask_for(wanted):
        raise OAuthError("invalid_target", f"The client may not ask for the audience {wanted!r}.")
    return wanted


def no_store(body: Mapping[str, Any]) -> Response:
    return JSONResponse(dict(body), headers=NO_STORE)
