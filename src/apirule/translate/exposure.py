"""The intermediate form: what is exposed, where, and who may come in.

References are resolved, defaults are filled in, paths have one notation, access is exactly one
alternative, and ``not_paths`` keeps a route from opening what an earlier one guards. An Exposure
that exists is valid: whoever gets one checks nothing, and nobody asks for the API version.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from apirule.names import ObjectName
from apirule.paths import Template

Path = Template
"""How a route finds its requests. Regular expressions of older versions become a second type."""


class Issuer(msgspec.Struct, frozen=True):
    """Who issues tokens, and where the token stands in a request."""

    name: str
    jwks_uri: str
    headers: tuple[tuple[str, str], ...]
    """Name and prefix of each header; the default place is written out."""
    params: tuple[str, ...]


class Grant(msgspec.Struct, frozen=True):
    """What a token must say: all scopes in one claim, and all audiences."""

    scopes: tuple[str, ...] = ()
    audiences: tuple[str, ...] = ()


class NoAuth(msgspec.Struct, frozen=True):
    """Anyone who comes through the gateway."""


class JwtAuth(msgspec.Struct, frozen=True):
    """Whoever brings a token of one of the issuers that meets one of the grants."""

    issuers: tuple[Issuer, ...]
    grants: tuple[Grant, ...]
    """Never empty; the empty Grant asks for nothing but a valid token."""


class ExtAuth(msgspec.Struct, frozen=True):
    """Whom all authorizers let through; with ``restrictions``, a token is needed besides."""

    authorizers: tuple[str, ...]
    """Names of extension providers in the mesh configuration; never empty."""
    restrictions: JwtAuth | None


Access = NoAuth | JwtAuth | ExtAuth


def tokens_of(access: Access) -> JwtAuth | None:
    """Return which token an access asks for; None: it asks for none."""
    match access:
        case NoAuth():
            return None
        case JwtAuth():
            return access
        case ExtAuth(restrictions=restrictions):
            return restrictions


class Backend(msgspec.Struct, frozen=True):
    """A Service port, and the labels of the Pods behind it (never empty)."""

    service: ObjectName
    port: int
    selector: Mapping[str, str]


class Route(msgspec.Struct, frozen=True):
    """One rule. The first route that matches serves a request."""

    path: Path
    methods: tuple[str, ...]
    not_paths: tuple[str, ...]
    access: Access
    backend: Backend
    timeout_s: int
    request_headers: Mapping[str, str]
    """Set on the way to the Service; they replace what the client sent."""
    not_hosts: tuple[str, ...] = ()
    """Hosts within a wildcard host that have rules of their own."""


class OriginMatch(msgspec.Struct, frozen=True):
    """One of ``exact``, ``prefix`` and ``regex``, and its value."""

    kind: str
    value: str


class Cors(msgspec.Struct, frozen=True):
    """Answers for other origins. Without any origin nothing is allowed."""

    origins: tuple[OriginMatch, ...] = ()
    methods: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    credentials: bool | None = None
    max_age_s: int | None = None
    keeps_backend_headers: bool = False
    """Whether CORS headers of the Service reach the client."""


class Exposure(msgspec.Struct, frozen=True):
    """``owner`` is the object it was made from; its namespace holds the VirtualService."""

    owner: ObjectName
    host: str
    """A full name, or a wildcard such as ``*.example.org``."""
    gateway: ObjectName
    cors: Cors
    routes: tuple[Route, ...]
    space_delimited_claims: bool
    """Whether scope claims written as one string are split."""

    @property
    def has_wildcard_host(self) -> bool:
        return self.host.startswith("*.")
