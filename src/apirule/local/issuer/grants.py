"""What the issuer remembers: codes, sessions, families of refresh tokens, revoked tokens.

Held in memory: after a restart people sign in again, and tokens issued before stay valid until
they expire. Secrets are kept as hashes.
"""

from __future__ import annotations

import secrets
from collections.abc import MutableMapping
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import msgspec

CODE_LIFETIME = timedelta(seconds=60)
SESSION_LIFETIME = timedelta(hours=8)
REFRESH_LIFETIME = timedelta(hours=12)
"""Counted from the last use; a family ends with ``FAMILY_LIFETIME`` at the latest."""
FAMILY_LIFETIME = timedelta(days=7)
LIMIT = 10_000
"""How many of each kind are remembered; the oldest go first."""


class Authorization(msgspec.Struct, frozen=True):
    """What a person allowed a client to do."""

    client_id: str
    user_id: str
    scopes: tuple[str, ...]
    audience: str
    nonce: str
    authenticated_at: datetime
    redirect_uri: str
    challenge: str
    """PKCE, S256."""


class Session(msgspec.Struct, frozen=True):
    user_id: str
    authenticated_at: datetime


class Family(msgspec.Struct):
    """All refresh tokens that descend from one sign-in; only the newest one is good."""

    authorization: Authorization
    current: str
    """The hash of the newest token."""
    ends_at: datetime
    expires_at: datetime
    revoked: bool = False
    access_tokens: tuple[str, ...] = ()
    """Ids of the access tokens issued to the family; they end with it."""


class _Code(msgspec.Struct):
    authorization: Authorization
    expires_at: datetime
    family: str
    used: bool = False


class Grants:
    """Everything remembered. Methods take the time, so that tests can choose it."""

    def __init__(self) -> None:
        self._codes: dict[str, _Code] = {}
        self._sessions: dict[str, tuple[Session, datetime]] = {}
        self._families: dict[str, Family] = {}
        self._refresh: dict[str, str] = {}
        self._revoked: dict[str, datetime] = {}

    # ── codes ────────────────────────────────────────────────────────────────────────────────

    def new_code(self, authorization: Authorization, now: datetime) -> str:
        code = secrets.token_urlsafe(32)
        family = secrets.token_urlsafe(16)
        _trim(self._codes)
        self._codes[_hash(code)] = _Code(authorization, now + CODE_LIFETIME, family)
        return code

    def redeem(self, code: str, now: datetime) -> tuple[Authorization, str] | None:
        """Return what a code stands for, and the family it starts; a code works once.

        A second use means that it leaked: everything issued for it ends (RFC 6749, 4.1.2).
        """
        found = self._codes.get(_hash(code))
        if found is None:
            return None
        if found.used:
            self.end_family(found.family, now)
            return None
        found.used = True
        return (found.authorization, found.family) if now < found.expires_at else None

    # ── refresh tokens ───────────────────────────────────────────────────────────────────────

    def start_family(self, family: str, authorization: Authorization, now: datetime) -> None:
        _trim(self._families)
        self._families[family] = Family(
            authorization, "", now + FAMILY_LIFETIME, now + REFRESH_LIFETIME
        )

    def next_refresh(self, family: str, now: datetime) -> str:
        """Make the newest token of a family; the one before becomes a used one."""
        token = secrets.token_urlsafe(32)
        _trim(self._refresh)
        self._refresh[_hash(token)] = family
        entry = self._families[family]
        entry.current = _hash(token)
        entry.expires_at = min(now + REFRESH_LIFETIME, entry.ends_at)
        return token

    def family_of(self, token: str) -> str | None:
        return self._refresh.get(_hash(token))

    def refresh(self, token: str, now: datetime) -> tuple[Authorization, str] | None:
        """Return what a refresh token stands for. A used one ends its whole family."""
        name = self._refresh.get(_hash(token))
        family = self._families.get(name) if name is not None else None
        if name is None or family is None or family.revoked or now >= family.expires_at:
            return None
        if family.current != _hash(token):
            self.end_family(name, now)
            return None
        return family.authorization, name

    def peek(self, token: str, now: datetime) -> Authorization | None:
        """Return what a refresh token stands for, without using it."""
        name = self._refresh.get(_hash(token))
        family = self._families.get(name) if name is not None else None
        if family is None or family.revoked or now >= family.expires_at:
            return None
        return family.authorization if family.current == _hash(token) else None

    def note_access_token(self, family: str, token_id: str) -> None:
        entry = self._families.get(family)
        if entry is not None:
            entry.access_tokens = (*entry.access_tokens[-9:], token_id)

    def end_family(self, family: str, now: datetime) -> None:
        entry = self._families.get(family)
        if entry is None:
            return
        entry.revoked = True
        for token_id in entry.access_tokens:
            self.revoke_access_token(token_id, now + FAMILY_LIFETIME)

    # ── access tokens ────────────────────────────────────────────────────────────────────────

    def revoke_access_token(self, token_id: str, until: datetime) -> None:
        _trim(self._revoked)
        self._revoked[token_id] = until

    def is_revoked(self, token_id: str) -> bool:
        return token_id in self._revoked

    # ── sessions ─────────────────────────────────────────────────────────────────────────────

    def new_session(self, user_id: str, now: datetime) -> str:
        key = secrets.token_urlsafe(32)
        _trim(self._sessions)
        self._sessions[_hash(key)] = (Session(user_id, now), now + SESSION_LIFETIME)
        return key

    def session(self, key: str, now: datetime) -> Session | None:
        found = self._sessions.get(_hash(key))
        return found[0] if found is not None and now < found[1] else None

    def end_session(self, key: str, now: datetime) -> None:
        """Sign a person out here; the refresh tokens of that sign-in end too."""
        found = self._sessions.pop(_hash(key), None)
        if found is None:
            return
        session = found[0]
        for name, family in list(self._families.items()):
            grant = family.authorization
            same = (grant.user_id, grant.authenticated_at)
            if same == (session.user_id, session.authenticated_at):
                self.end_family(name, now)


def narrowed(authorization: Authorization, scopes: tuple[str, ...]) -> Authorization:
    return msgspec.structs.replace(authorization, scopes=scopes)


def _hash(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def _trim(table: MutableMapping[str, Any]) -> None:
    while len(table) >= LIMIT:
        del table[next(iter(table))]
