"""Signing people in and out: the authorization endpoint, its page, and the logout endpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from apirule.local.issuer import clients, keys, tokens
from apirule.local.issuer.clients import Client, GrantType
from apirule.local.issuer.grants import SESSION_LIFETIME, Authorization, Session
from apirule.local.issuer.messages import (
    FORM,
    NO_STORE,
    OAuthError,
    chosen_audience,
    chosen_scopes,
    form,
    single,
)
from apirule.local.issuer.pages import page

if TYPE_CHECKING:
    from apirule.local.issuer.app import Issuer

COOKIE = "apirule_issuer"
"""Cookies ignore ports, so the name must differ from that of everybody else on the host."""

CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")


class _Wish(msgspec.Struct, frozen=True):
    """A checked authorization request; errors may be sent to its redirect address."""

    client: Client
    redirect_uri: str
    params: Mapping[str, str]

    def redirect(self, values: Mapping[str, str], issuer: str) -> Response:
        given = {"state": self.params["state"]} if "state" in self.params else {}
        query = urlencode({**values, **given, "iss": issuer})
        mark = "&" if urlsplit(self.redirect_uri).query else "?"
        # 303: the browser must not repeat a POST with the password at the client.
        return RedirectResponse(f"{self.redirect_uri}{mark}{query}", 303, NO_STORE)


class Login:
    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer

    # ── signing in ───────────────────────────────────────────────────────────────────────────

    async def authorize(self, request: Request) -> Response:
        """Show the page, check the form, and send the person back with a code."""
        try:
            wish = self._wish(request)
        except OAuthError as error:
            # The redirect address is not to be trusted, so the person sees the error here.
            return page(
                "message.html", status=400, heading="This sign-in link is wrong", text=str(error)
            )
        try:
            self._check(wish)
            if request.method == "POST":
                return await self._sign_in(request, wish)
            return self._with_session(request, wish)
        except OAuthError as error:
            body = {"error": error.code, "error_description": error.description}
            return wish.redirect(body, self._issuer.url)

    def _wish(self, request: Request) -> _Wish:
        # The form is posted to the same address, so the request is always in the query.
        pairs = parse_qsl(request.url.query, keep_blank_values=True)
        params = single(pairs)
        client = self._issuer.directory.client(params.get("client_id", ""))
        if client is None:
            raise OAuthError("invalid_request", "The application is not known to this issuer.")
        redirect_uri = params.get("redirect_uri", "")
        if not self._issuer.allows_redirect(client.redirect_uris, redirect_uri):
            raise OAuthError(
                "invalid_request",
                f"The address {redirect_uri!r} is not registered for {client.id}.",
            )
        return _Wish(client, redirect_uri, params)

    @staticmethod
    def _check(wish: _Wish) -> None:
        params = wish.params
        if GrantType.AUTHORIZATION_CODE not in wish.client.grants:
            raise OAuthError("unauthorized_client", "The client may not sign people in.")
        for name in ("request", "request_uri"):
            if name in params:
                raise OAuthError(f"{name}_not_supported", f"{name} is not supported.")
        if params.get("response_type") != "code":
            raise OAuthError("unsupported_response_type", "Only response_type=code is known.")
        if params.get("response_mode", "query") != "query":
            raise OAuthError("invalid_request", "Only response_mode=query is known.")
        # Asked of every client: without it a stolen code is as good as a token.
        if not CHALLENGE.fullmatch(params.get("code_challenge", "")):
            raise OAuthError("invalid_request", "A code_challenge (PKCE) is needed.")
        if params.get("code_challenge_method") != "S256":
            raise OAuthError("invalid_request", "code_challenge_method must be S256.")
        chosen_scopes(wish.client, params.get("scope"))
        chosen_audience(wish.client, params)
        if not params.get("max_age", "0").isdecimal():
            raise OAuthError("invalid_request", "max_age must be a number of seconds.")

    def _with_session(self, request: Request, wish: _Wish) -> Response:
        now = self._issuer.now()
        session = self._issuer.grants.session(request.cookies.get(COOKIE, ""), now)
        prompts = wish.params.get("prompt", "").split()
        if session is not None and "login" not in prompts and _fresh(session, wish, now):
            return self._code(wish, session, now)
        if "none" in prompts:
            raise OAuthError("login_required", "Nobody is signed in.")
        return self._page(request, wish)

    async def _sign_in(self, request: Request, wish: _Wish) -> Response:
        self._same_origin(request)
        params = await form(request)
        username = params.get("username", "")
        user = self._issuer.directory.sign_in(username, params.get("password", ""))
        if user is None:
            return self._page(request, wish, wrong=True, username=username)
        now = self._issuer.now()
        key = self._issuer.grants.new_session(user.id, now)
        response = self._code(wish, Session(user.id, now), now)
        response.set_cookie(
            COOKIE,
            key,
            max_age=int(SESSION_LIFETIME.total_seconds()),
            path="/oauth2",
            secure=self._issuer.url.startswith("https://"),
            httponly=True,
            samesite="lax",
        )
        return response

    def _code(self, wish: _Wish, session: Session, now: datetime) -> Response:
        authorization = Authorization(
            client_id=wish.client.id,
            user_id=session.user_id,
            scopes=chosen_scopes(wish.client, wish.params.get("scope")),
            audience=chosen_audience(wish.client, wish.params),
            nonce=wish.params.get("nonce", ""),
            authenticated_at=session.authenticated_at,
            redirect_uri=wish.redirect_uri,
            challenge=wish.params["code_challenge"],
        )
        code = self._issuer.grants.new_code(authorization, now)
        return wish.redirect({"code": code}, self._issuer.url)

    def _page(
        self, request: Request, wish: _Wish, *, wrong: bool = False, username: str = ""
    ) -> Response:
        parts = urlsplit(wish.redirect_uri)
        return page(
            "login.html",
            status=401 if wrong else 200,
            form_target=f"{parts.scheme}://{parts.netloc}",
            client=wish.client.id,
            action=f"/oauth2/authorize?{request.url.query}",
            wrong=wrong,
            username=username or wish.params.get("login_hint", ""),
            users=self._issuer.directory.users,
            file=f"issuer/{clients.FILE}",
        )

    def _same_origin(self, request: Request) -> None:
        """Refuse a form that another site posts; no browser leaves these headers out."""
        origin = request.headers.get("origin")
        site = request.headers.get("sec-fetch-site")
        ours = urlsplit(self._issuer.url)
        if origin not in (None, f"{ours.scheme}://{ours.netloc}") or site not in (
            None,
            "same-origin",
        ):
            raise OAuthError("access_denied", "The form came from another site.")

    # ── signing out ──────────────────────────────────────────────────────────────────────────

    async def logout(self, request: Request) -> Response:
        """End the session (OpenID Connect RP-Initiated Logout)."""
        query = single(parse_qsl(request.url.query, keep_blank_values=True))
        has_form = request.headers.get("content-type", "").startswith(FORM)
        body = await form(request) if has_form else {}
        params = {**query, **body}
        client = self._client_of(params)
        # Without a hint anybody could sign people out by a link, so the person is asked.
        confirmed = client is not None
        if request.method == "POST" and not confirmed:
            self._same_origin(request)
            confirmed = True
        if not confirmed:
            return page("logout.html", action="/oauth2/logout")
        self._issuer.grants.end_session(request.cookies.get(COOKIE, ""), self._issuer.now())
        response = self._after_logout(params, client)
        response.delete_cookie(COOKIE, path="/oauth2")
        return response

    def _after_logout(self, params: Mapping[str, str], client: Client | None) -> Response:
        target = params.get("post_logout_redirect_uri", "")
        if client is None or not self._issuer.allows_redirect(
            client.post_logout_redirect_uris, target
        ):
            return page("message.html", heading="Signed out", text="You can close this page.")
        if "state" in params:
            mark = "&" if urlsplit(target).query else "?"
            target += mark + urlencode({"state": params["state"]})
        return RedirectResponse(target, 303, NO_STORE)

    def _client_of(self, params: Mapping[str, str]) -> Client | None:
        """Return the client to which we issued the ID token in the hint; it may have expired."""
        hint = params.get("id_token_hint")
        if hint is None:
            return None
        try:
            claims = tokens.read(hint, keys.verifier(self._issuer.rings, self._issuer.now()))
        except ValueError:
            return None
        named: Any = claims.get("aud")
        if claims.get("iss") != self._issuer.url or params.get("client_id", named) != named:
            return None
        return self._issuer.directory.client(str(named))


def _fresh(session: Session, wish: _Wish, now: datetime) -> bool:
    max_age = wish.params.get("max_age")
    # As numbers: a duration would overflow, and the client chooses how many digits there are.
    return max_age is None or (now - session.authenticated_at).total_seconds() < int(max_age)
