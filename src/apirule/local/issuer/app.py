"""The issuer as an ASGI application: discovery, keys, tokens, and what follows from them.

Every address in an answer comes from the configured issuer, never from the Host header.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from apirule.local.issuer import clients, discovery, keys, tokens
from apirule.local.issuer.clients import Client, GrantType, User, same_secret
from apirule.local.issuer.files import write_private
from apirule.local.issuer.grants import Authorization, Grants, narrowed
from apirule.local.issuer.login import Login
from apirule.local.issuer.messages import (
    NO_STORE,
    OAuthError,
    authenticate,
    bearer,
    chosen_audience,
    chosen_scopes,
    form,
    no_store,
)

log = structlog.get_logger(__name__)

KEYS_MAX_AGE_S = 60
"""How long others may keep our key set."""

SKEW = timedelta(seconds=60)
"""How far off the clocks of those who check tokens may be."""

ADMIN_FILE = "admin.token"
ADMIN_HEADER = "Apirule-Admin"
"""Has the content of the file, for what no client may ask for: another lifetime."""
LONGEST_S = 30 * 24 * 3600
ROTATE_PATH = "/internal/rotate-keys"
"""Asked by `apirule token rotate-keys`, with the content of the file as bearer."""

VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")
"""A PKCE verifier (RFC 7636, 4.1)."""

Handler = Callable[[Request], Awaitable[Response]]


class Issuer:
    """One issuer. Make it with ``open``; hand ``app`` to an ASGI server on loopback."""

    def __init__(
        self,
        url: str,
        folder: Path,
        directory: clients.Directory,
        rings: keys.Rings,
        admin_token: str,
        *,
        domain: str,
        now: Callable[[], datetime],
        on_rotated: Callable[[], None],
    ) -> None:
        self.url = url.rstrip("/")
        self.directory = directory
        self.rings = rings
        self.now = now
        self.grants = Grants()
        self._domain = domain
        self._folder = folder
        self._admin_token = admin_token
        self._on_rotated = on_rotated
        self._rotating = anyio.Lock()
        self._longest_s = 0
        """The longest lifetime that somebody asked for."""
        login = Login(self)
        self.app = Starlette(
            routes=[
                _route("/.well-known/openid-configuration", self._discovery, "GET"),
                _route("/oauth2/certs", self._certs, "GET"),
                _route("/oauth2/token", self._token, "POST"),
                _route("/oauth2/authorize", login.authorize, "GET", "POST"),
                _route("/oauth2/userinfo", self._userinfo, "GET", "POST"),
                _route("/oauth2/introspect", self._introspect, "POST"),
                _route("/oauth2/revoke", self._revoke, "POST"),
                _route("/oauth2/logout", login.logout, "GET", "POST"),
                _route(ROTATE_PATH, self._rotate, "POST"),
            ]
        )
        # Such a redirect would lead to whatever host the client names.
        self.app.router.redirect_slashes = False

    @classmethod
    async def open(
        cls,
        url: str,
        folder: Path,
        *,
        domain: str,
        now: Callable[[], datetime],
        on_rotated: Callable[[], None] = lambda: None,
    ) -> Issuer:
        """Read keys and clients from the state folder, making what is missing."""
        directory = await anyio.to_thread.run_sync(clients.load_or_create, folder, domain)
        rings = await anyio.to_thread.run_sync(keys.load_or_create, folder)
        admin_token = secrets.token_urlsafe(32)
        await anyio.to_thread.run_sync(write_private, folder / ADMIN_FILE, admin_token.encode())
        return cls(
            *(url, folder, directory, rings, admin_token),
            domain=domain,
            now=now,
            on_rotated=on_rotated,
        )

    @property
    def key_set(self) -> dict[str, Any]:
        """The JWKS document as it is published now."""
        return keys.key_set(self.rings, self.now())

    def allows_redirect(self, registered: tuple[str, ...], uri: str) -> bool:
        return clients.allows_redirect(registered, uri, domain=self._domain)

    async def rotate_keys(self) -> None:
        """Sign with the next keys from now on, and publish new ones to come after them."""
        async with self._rotating:
            longest = max((one.lifetime_s for one in self.directory.clients), default=0)
            longest = max(longest, self._longest_s)
            keep = timedelta(seconds=longest) + SKEW
            rings = await anyio.to_thread.run_sync(keys.rotate, self.rings, self.now(), keep)
            # Stored first: a key that signs must survive a crash.
            await anyio.to_thread.run_sync(keys.save, self._folder, rings)
            self.rings = rings
        log.info("keys rotated", active=[ring.active.kid for ring in rings.values()])
        self._on_rotated()

    # ── what everybody may read ──────────────────────────────────────────────────────────────

    async def _discovery(self, _: Request) -> Response:
        return JSONResponse(
            discovery.metadata(self.url, self.directory), headers={"Cache-Control": "max-age=300"}
        )

    async def _certs(self, _: Request) -> Response:
        return JSONResponse(self.key_set, headers={"Cache-Control": f"max-age={KEYS_MAX_AGE_S}"})

    # ── tokens ───────────────────────────────────────────────────────────────────────────────

    async def _token(self, request: Request) -> Response:
        params = await form(request)
        client = authenticate(request, params, self.directory)
        if (lifetime := params.get("lifetime")) is not None:
            client = self._with_lifetime(client, lifetime, request.headers.get(ADMIN_HEADER, ""))
        wanted = params.get("grant_type")
        if wanted is None:
            raise OAuthError("invalid_request", "grant_type is missing.")
        if wanted not in list(GrantType):
            raise OAuthError("unsupported_grant_type", f"There is no grant type {wanted!r}.")
        if wanted not in client.grants:
            raise OAuthError("unauthorized_client", f"The client may not use {wanted}.")
        match GrantType(wanted):
            case GrantType.CLIENT_CREDENTIALS:
                return no_store(self._for_client(client, params))
            case GrantType.AUTHORIZATION_CODE:
                return no_store(self._for_code(client, params))
            case GrantType.REFRESH_TOKEN:
                return no_store(self._for_refresh(client, params))

    def _with_lifetime(self, client: Client, lifetime: str, admin_token: str) -> Client:
        """Give the owner of the instance tokens that live as long as is asked for."""
        if not same_secret(admin_token, self._admin_token):
            raise OAuthError("invalid_request", "Only apirule itself may choose a lifetime.")
        if not lifetime.isdecimal() or not 0 < int(lifetime) <= LONGEST_S:
            raise OAuthError("invalid_request", f"A lifetime is 1 to {LONGEST_S} seconds.")
        self._longest_s = max(self._longest_s, int(lifetime))
        return msgspec.structs.replace(client, lifetime_s=int(lifetime))

    def _for_client(self, client: Client, params: dict[str, str]) -> dict[str, Any]:
        scopes = chosen_scopes(client, params.get("scope"))
        audience = chosen_audience(client, params)
        answer, _ = self._access_token(client, client.id, scopes, audience)
        return answer

    def _for_code(self, client: Client, params: dict[str, str]) -> dict[str, Any]:
        now = self.now()
        redeemed = self.grants.redeem(params.get("code", ""), now)
        if redeemed is None:
            raise OAuthError("invalid_grant", "The code is unknown, expired or used.")
        authorization, family = redeemed
        if authorization.client_id != client.id:
            raise OAuthError("invalid_grant", "The code was issued to another client.")
        if params.get("redirect_uri") != authorization.redirect_uri:
            raise OAuthError("invalid_grant", "redirect_uri differs from the one of the code.")
        verifier = params.get("code_verifier", "")
        if not VERIFIER.fullmatch(verifier) or not same_secret(
            challenge_of(verifier), authorization.challenge
        ):
            raise OAuthError("invalid_grant", "code_verifier does not fit the code_challenge.")
        self.grants.start_family(family, authorization, now)
        return self._for_user(client, authorization, family)

    def _for_refresh(self, client: Client, params: dict[str, str]) -> dict[str, Any]:
        token = params.get("refresh_token", "")
        owner = self.grants.peek(token, self.now())
        # A token of another client is refused before it is used up.
        if owner is not None and owner.client_id != client.id:
            raise OAuthError("invalid_grant", "The refresh token was issued to another client.")
        found = self.grants.refresh(token, self.now())
        if found is None:
            raise OAuthError("invalid_grant", "The refresh token is unknown, expired or used.")
        authorization, family = found
        if (wanted := params.get("scope")) is not None:
            scopes = tuple(dict.fromkeys(wanted.split()))
            if not set(scopes) <= set(authorization.scopes):
                raise OAuthError("invalid_scope", "A refresh cannot widen the scope.")
            authorization = narrowed(authorization, scopes)
        return self._for_user(client, authorization, family)

    def _for_user(
        self, client: Client, authorization: Authorization, family: str
    ) -> dict[str, Any]:
        user = self.directory.user(authorization.user_id)
        if user is None:
            raise OAuthError("invalid_grant", "The user is not known any more.")
        answer, token_id = self._access_token(
            client, user.id, authorization.scopes, authorization.audience
        )
        self.grants.note_access_token(family, token_id)
        if "openid" in authorization.scopes:
            claims = tokens.id_claims(
                client,
                user,
                issuer=self.url,
                access_token=answer["access_token"],
                nonce=authorization.nonce,
                authenticated_at=authorization.authenticated_at,
                now=self.now(),
            )
            key = self.rings[client.algorithm].active
            answer["id_token"] = tokens.mint(claims, key, typ=tokens.ID_TOKEN_TYPE)
        if GrantType.REFRESH_TOKEN in client.grants:
            answer["refresh_token"] = self.grants.next_refresh(family, self.now())
        return answer

    def _access_token(
        self, client: Client, subject: str, scopes: tuple[str, ...], audience: str
    ) -> tuple[dict[str, Any], str]:
        token_id = secrets.token_urlsafe(16)
        claims = tokens.access_claims(
            client,
            issuer=self.url,
            subject=subject,
            scopes=scopes,
            audience=audience,
            token_id=token_id,
            now=self.now(),
        )
        answer: dict[str, Any] = {
            "access_token": tokens.mint(claims, self.rings[client.algorithm].active),
            "token_type": "Bearer",
            "expires_in": client.lifetime_s,
            "scope": " ".join(scopes),
        }
        return answer, token_id

    # ── what tokens are good for ─────────────────────────────────────────────────────────────

    def check_access_token(self, token: str) -> dict[str, Any] | None:
        """Return the claims of an access token of ours that holds now."""
        now = self.now()
        try:
            claims = tokens.read(token, keys.verifier(self.rings, now))
        except ValueError:
            return None
        # An ID token is signed by the same key, but has no client_id.
        ours = claims.get("iss") == self.url and "client_id" in claims
        if not ours or claims["exp"] <= now.timestamp():
            return None
        return None if self.grants.is_revoked(claims["jti"]) else claims

    async def _userinfo(self, request: Request) -> Response:
        token = bearer(request)
        if token is None:
            return Response(status_code=401, headers={"WWW-Authenticate": "Bearer", **NO_STORE})
        claims = self.check_access_token(token)
        user = self.directory.user(claims["sub"]) if claims is not None else None
        if claims is None or user is None:
            raise OAuthError("invalid_token", "The token is not valid.", status=401)
        if "openid" not in scopes_in(claims):
            raise OAuthError("insufficient_scope", "The token lacks openid.", status=403)
        return no_store({"sub": user.id, **tokens.person(user)})

    async def _introspect(self, request: Request) -> Response:
        params = await form(request)
        client = authenticate(request, params, self.directory)
        if client.public:
            raise OAuthError("unauthorized_client", "Only clients with a secret may introspect.")
        token = params.get("token")
        if token is None:
            raise OAuthError("invalid_request", "token is missing.")
        claims = self.check_access_token(token)
        if claims is not None:
            return no_store(self._described(claims))
        authorization = self.grants.peek(token, self.now())
        if authorization is None or authorization.client_id != client.id:
            return no_store({"active": False})
        return no_store(
            {
                "active": True,
                "token_type": "refresh_token",
                "client_id": authorization.client_id,
                "sub": authorization.user_id,
                "scope": " ".join(authorization.scopes),
                "iss": self.url,
            }
        )

    def _described(self, claims: dict[str, Any]) -> dict[str, Any]:
        user: User | None = self.directory.user(claims["sub"])
        names = ("iss", "sub", "aud", "exp", "iat", "nbf", "jti", "client_id")
        return {
            "active": True,
            "token_type": "Bearer",
            "scope": " ".join(scopes_in(claims)),
            **{name: claims[name] for name in names},
            **({"username": user.name or user.id} if user is not None else {}),
        }

    async def _revoke(self, request: Request) -> Response:
        params = await form(request)
        client = authenticate(request, params, self.directory)
        token = params.get("token")
        if token is None:
            raise OAuthError("invalid_request", "token is missing.")
        authorization = self.grants.peek(token, self.now())
        family = self.grants.family_of(token)
        if authorization is not None and family is not None:
            if authorization.client_id == client.id:
                self.grants.end_family(family, self.now())
        elif (claims := self.check_access_token(token)) and claims["client_id"] == client.id:
            until = datetime.fromtimestamp(claims["exp"], UTC)
            self.grants.revoke_access_token(claims["jti"], until)
        # An unknown token is as good as a revoked one (RFC 7009, 2.2).
        return Response(status_code=200, headers=NO_STORE)

    async def _rotate(self, request: Request) -> Response:
        if not same_secret(bearer(request) or "", self._admin_token):
            raise OAuthError("invalid_token", "The token of this instance is needed.", status=401)
        await self.rotate_keys()
        active = {name.value: ring.active.kid for name, ring in self.rings.items()}
        return no_store({"active": active})


def challenge_of(verifier: str) -> str:
    """Return the S256 challenge of a PKCE verifier (RFC 7636, 4.2)."""
    digest = sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def scopes_in(claims: dict[str, Any]) -> list[str]:
    """Return the scopes of a token, wherever its client wants them to stand."""
    for name in ("scope", "scp", "scopes"):
        value = claims.get(name)
        if isinstance(value, str):
            return value.split()
        if isinstance(value, list):
            return [str(one) for one in value]
    return []


def _route(path: str, handler: Handler, *methods: str) -> Route:
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except OAuthError as error:
            return error.response()

    return Route(path, answer, methods=methods)
