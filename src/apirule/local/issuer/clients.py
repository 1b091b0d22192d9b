"""Who may ask the issuer for tokens: applications (clients) and people (users).

One YAML file, made with defaults at the first start, holds both. Edit it and restart.
"""

from __future__ import annotations

import hmac
import secrets
import string
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import yaml

from apirule import manifest
from apirule.local.issuer.files import read_private, write_private
from apirule.problem import SetupError

FILE = "clients.yaml"
SECRET_LENGTH = 20
DOMAIN = "{domain}"
"""Stands in addresses for the domain of the instance, which is chosen at each start."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")

HEADER = """\
# Clients and users of the development issuer. Restart `apirule up` after a change.
# Every field is described in docs/reference/issuer.md. Keep this file to yourself.
"""


class GrantType(StrEnum):
    CLIENT_CREDENTIALS = "client_credentials"
    AUTHORIZATION_CODE = "authorization_code"
    REFRESH_TOKEN = "refresh_token"  # noqa: S105  # a name, no secret


class Algorithm(StrEnum):
    RS256 = "RS256"
    ES256 = "ES256"
    EDDSA = "EdDSA"


class ScopeClaim(StrEnum):
    """``scope`` is a string with blanks; ``scp`` and ``scopes`` are lists."""

    SCOPE = "scope"
    SCP = "scp"
    SCOPES = "scopes"


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """A value of the file. ``kw_only`` is not inherited: each class says it again."""


class Client(Entry, frozen=True, kw_only=True, rename="camel"):
    id: str
    secret: str = ""
    """Empty: a public client, which can keep no secret and uses PKCE alone."""
    grants: tuple[GrantType, ...] = (GrantType.CLIENT_CREDENTIALS,)
    scopes: tuple[str, ...] = ()
    default_scope: tuple[str, ...] = ()
    """What a request gets that asks for no scope."""
    audiences: tuple[str, ...] = ()
    """The first one is the default; ``*`` lets a request ask for any. Empty: the client's id."""
    redirect_uris: tuple[str, ...] = ()
    """Compared character by character; a loopback address without a port matches any port."""
    post_logout_redirect_uris: tuple[str, ...] = ()
    scope_claim: ScopeClaim = ScopeClaim.SCOPE
    algorithm: Algorithm = Algorithm.RS256
    lifetime_s: int = 300
    """Of access and ID tokens, in seconds."""

    @property
    def public(self) -> bool:
        return not self.secret

    @property
    def default_audience(self) -> str:
        return next((one for one in self.audiences if one != "*"), self.id)

    def may_ask_for(self, audience: str) -> bool:
        return audience == self.id or audience in self.audiences or "*" in self.audiences


class User(Entry, frozen=True, kw_only=True, rename="camel"):
    id: str
    """What the person types, and the claim ``sub``."""
    password: str
    name: str = ""
    email: str = ""
    email_verified: bool = True
    groups: tuple[str, ...] = ()


class Directory(Entry, frozen=True, kw_only=True, rename="camel"):
    clients: tuple[Client, ...] = ()
    users: tuple[User, ...] = ()

    def client(self, client_id: str) -> Client | None:
        return next((one for one in self.clients if one.id == client_id), None)

    def user(self, user_id: str) -> User | None:
        return next((one for one in self.users if one.id == user_id), None)

    def sign_in(self, user_id: str, password: str) -> User | None:
        """Return the user whose password this is."""
        user = self.user(user_id)
        # An unknown user costs one comparison too, so that names cannot be told by time.
        known = same_secret(password, user.password if user is not None else "")
        return user if known else None


def same_secret(given: str, expected: str) -> bool:
    """Compare in constant time; nothing equals an empty secret."""
    # On bytes, because compare_digest refuses text beyond ASCII.
    equal = hmac.compare_digest(given.encode(), expected.encode())
    return equal and bool(expected)


def allows_redirect(registered: tuple[str, ...], uri: str, *, domain: str) -> bool:
    """Say whether ``uri`` is one of the registered ones, to the letter.

    The port of a loopback address is chosen when a native app starts, so it may be left out of
    the registered one (RFC 8252, 7.3). All hosts under ``domain`` are on this machine.
    """
    if uri in registered:
        return True
    try:
        parts = urlsplit(uri)
        if parts.port is None or not is_loopback(parts.hostname or "", domain):
            return False
    except ValueError:
        return False
    if "@" in parts.netloc or "#" in uri:
        return False
    # Cut the port out of the text itself: anything rebuilt might hide a difference.
    without_port = uri.replace(parts.netloc, parts.netloc.rpartition(":")[0], 1)
    return without_port in registered


def is_loopback(host: str, domain: str) -> bool:
    """Say whether a host never leaves this machine (RFC 6761, 6.3), or is one of our own."""
    return host in LOOPBACK or host.endswith((".localhost", f".{domain}"))


def defaults() -> Directory:
    """Return what a new instance starts with. Secrets are random, the domain may change."""
    signing_in = (GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN)
    openid = ("openid", "profile", "email", "groups", "offline_access")
    return Directory(
        clients=(
            Client(
                id="demo",
                secret=random_secret(),
                grants=(GrantType.CLIENT_CREDENTIALS, *signing_in),
                scopes=("read", "write", *openid),
                default_scope=("read",),
                audiences=("demo", "*"),
                redirect_uris=("http://localhost/callback", "http://127.0.0.1/callback"),
            ),
            Client(
                id="dashboard",
                grants=signing_in,
                scopes=openid,
                default_scope=("openid",),
                redirect_uris=(
                    f"http://dashboard.{DOMAIN}/auth/callback",
                    "http://localhost/auth/callback",
                    "http://127.0.0.1/auth/callback",
                ),
                post_logout_redirect_uris=(
                    f"http://dashboard.{DOMAIN}/",
                    "http://localhost/",
                    "http://127.0.0.1/",
                ),
            ),
            Client(
                id="kubectl",
                grants=signing_in,
                scopes=openid,
                default_scope=("openid",),
                # As `kubectl oidc-login` sends them: no path, or a single slash.
                redirect_uris=(
                    "http://localhost",
                    "http://localhost/",
                    "http://127.0.0.1",
                    "http://127.0.0.1/",
                ),
            ),
        ),
        users=(
            User(
                id="jane",
                password=random_secret(),
                name="Jane Doe",
                email=f"jane@{DOMAIN}",
                groups=("admins", "developers"),
            ),
            User(
                id="bob",
                password=random_secret(),
                name="Bob Roe",
                email=f"bob@{DOMAIN}",
                groups=("developers",),
            ),
        ),
    )


def random_secret() -> str:
    alphabet = string.ascii_letters + string.digits
    return "".join(secrets.choice(alphabet) for _ in range(SECRET_LENGTH))


def load(folder: Path, domain: str) -> Directory:
    """Read the file. SetupError: it is missing, or a field of it is wrong."""
    path = folder / FILE
    try:
        document, _ = manifest.read_yaml(read_private(path))
        directory = msgspec.convert(document, Directory, strict=True)
    except (ValueError, msgspec.ValidationError) as error:
        raise SetupError(
            f"{path} is not valid: {error}.", "Mend the field, or delete the file to start anew."
        ) from error
    directory = _within(directory, domain)
    for what, problem in _check(directory, domain):
        raise SetupError(f"{path}: {what}: {problem}.", "Mend the entry and start again.")
    return directory


def load_or_create(folder: Path, domain: str) -> Directory:
    """Read the file; make it with defaults when there is none."""
    path = folder / FILE
    if not path.exists():
        document: Mapping[str, object] = msgspec.to_builtins(defaults())
        text = yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False)
        write_private(path, (HEADER + text).encode())
    return load(folder, domain)


def _within(directory: Directory, domain: str) -> Directory:
    """Put the domain of the instance in where it stands by name."""

    def named(texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(text.replace(DOMAIN, domain) for text in texts)

    return Directory(
        clients=tuple(
            msgspec.structs.replace(
                one,
                redirect_uris=named(one.redirect_uris),
                post_logout_redirect_uris=named(one.post_logout_redirect_uris),
            )
            for one in directory.clients
        ),
        users=tuple(
            msgspec.structs.replace(one, email=one.email.replace(DOMAIN, domain))
            for one in directory.users
        ),
    )


def _check(directory: Directory, domain: str) -> list[tuple[str, str]]:
    wrong: list[tuple[str, str]] = []
    for kind, ids in (
        ("client", [one.id for one in directory.clients]),
        ("user", [one.id for one in directory.users]),
    ):
        wrong += [(f"{kind} {one}", "the id stands twice") for one in ids if ids.count(one) > 1]
    # Both become the claim "sub"; one must not pass for the other.
    wrong += [
        (f"user {one.id}", "a client has the same id")
        for one in directory.users
        if directory.client(one.id) is not None
    ]
    for client in directory.clients:
        place = f"client {client.id}"
        if client.public and GrantType.CLIENT_CREDENTIALS in client.grants:
            wrong.append((place, "client_credentials needs a secret"))
        if client.lifetime_s <= 0:
            wrong.append((place, "lifetimeS must be positive"))
        if missing := [one for one in client.default_scope if one not in client.scopes]:
            wrong.append((place, f"defaultScope {missing[0]!r} is not among its scopes"))
        for uri in client.redirect_uris + client.post_logout_redirect_uris:
            parts = urlsplit(uri)
            if parts.scheme not in ("http", "https") or not parts.netloc or "#" in uri:
                wrong.append((place, f"{uri!r} is not an http or https address"))
            elif parts.scheme == "http" and not is_loopback(parts.hostname or "", domain):
                wrong.append((place, f"{uri!r} would send codes over plain HTTP"))
    wrong += [
        (f"user {one.id}", "the password is empty") for one in directory.users if not one.password
    ]
    return wrong
