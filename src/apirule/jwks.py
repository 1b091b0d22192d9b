"""Fetch key sets from issuers: bounded in time and size, and never from where it must not be.

A jwksUri is text from whoever may write a policy, fetched with the network position of this
machine. Every address is judged after it was resolved, at the moment it is connected to, for each
redirect again; so a name that changes its mind does not get through.
"""

from __future__ import annotations

import ipaddress
import json
import os
import random
import socket
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import NoReturn, Self
from urllib.parse import urljoin, urlsplit

import aiohttp
import anyio
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult

from apirule import keysets

TIMEOUT_S = 5.0
MAX_REDIRECTS = 3
DISCOVERY = "/.well-known/openid-configuration"

REFRESH_S = 20 * 60.0
"""How old keys get when the issuer does not say anything shorter."""

MIN_REFRESH_S = 30.0
QUICK_RETRIES, QUICK_RETRY_S = 7, 1.0
FIRST_RETRY_S, MAX_RETRY_S = 60.0, 60 * 60.0
JITTER = 0.1

_METADATA_ADDRESSES = frozenset(
    # Outside the link-local range, where the other clouds have theirs.
    ipaddress.ip_address(text)
    for text in ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254")
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_OK = 200
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class FetchError(Exception):
    """The keys could not be had. The text is for the user, and the same for the same cause."""


class Fetched(msgspec.Struct, frozen=True):
    """A key set as ``keysets.clean`` left it. ``max_age_s``: how long the issuer calls it fresh."""

    document: str
    max_age_s: float | None = None


class KeySetFetcher:
    """One connection pool. Use it with ``async with``.

    ``hosts`` says where a host and port really are, as ``127.0.0.1:PORT``: the local issuer must
    be reachable before the gateway that publishes it. Names under ``localhost`` are loopback
    (RFC 6761, 6.3), which not every system resolver knows.
    """

    def __init__(
        self,
        *,
        hosts: Mapping[tuple[str, int], str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """``tls``: whom to trust; by default the CAs of the system."""
        self._resolver = _Resolver(hosts or {})
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                # Every connection is judged anew.
                resolver=self._resolver,
                use_dns_cache=False,
                force_close=True,
            ),
            # The size is counted in what is read, so nothing may be unpacked behind our back.
            auto_decompress=False,
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def fetch(self, issuer: str, jwks_uri: str) -> Fetched:
        """Fetch and clean the keys of an issuer. FetchError: none could be had, and why.

        Without a ``jwks_uri`` the issuer's discovery document says where they are.
        """
        try:
            with anyio.fail_after(TIMEOUT_S):
                uri = jwks_uri or await self._discover(issuer)
                body, max_age_s = await self._get(uri)
        except TimeoutError:
            where = jwks_uri or issuer
            raise FetchError(f"{where} did not answer within {TIMEOUT_S:.0f} s.") from None
        cleaned = keysets.clean(body)
        if not cleaned.document:
            raise FetchError(f"{uri}: {cleaned.error}")
        return Fetched(cleaned.document, max_age_s)

    async def _discover(self, issuer: str) -> str:
        url = issuer.rstrip("/") + DISCOVERY
        body, _ = await self._get(url)
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            raise FetchError(f"{url} did not answer with JSON.") from None
        if not isinstance(document, dict) or not isinstance(document.get("jwks_uri"), str):
            raise FetchError(f"{url} names no jwks_uri.")
        # OpenID Connect Discovery 1.0, 4.3: else one issuer could speak for another.
        if document.get("issuer") != issuer:
            raise FetchError(f"{url} speaks for another issuer than {issuer}.")
        return str(document["jwks_uri"])

    async def _get(self, url: str) -> tuple[bytes, float | None]:
        for _ in range(MAX_REDIRECTS + 1):
            target = await self._step(url)
            if not isinstance(target, str):
                return target
            if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
                raise FetchError(f"{url} redirects from https to plain http.")
            url = target
        raise FetchError(f"{url}: more than {MAX_REDIRECTS} redirects.")

    async def _trust(self) -> ssl.SSLContext:
        """Return whom to trust. The CAs of the system are read when somebody needs them."""
        if self._tls is None:
            self._tls = await anyio.to_thread.run_sync(ssl.create_default_context)
        return self._tls

    async def _step(self, url: str) -> str | tuple[bytes, float | None]:
        """Send one request; return where it redirects to, or the body and its lifetime."""
        if self._session is None:
            raise RuntimeError("the fetcher is not open: use `async with KeySetFetcher()`")
        _check(url)
        try:
            tls = await self._trust() if urlsplit(url).scheme == "https" else True
            async with self._session.get(url, ssl=tls, allow_redirects=False) as response:
                if response.status in _REDIRECTS and "Location" in response.headers:
                    return urljoin(url, response.headers["Location"])
                if response.status != _OK:
                    raise FetchError(f"{url} answered {response.status}.")
                if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                    raise FetchError(f"{url} answered with a compressed body.")
                return await _read(response, url), _max_age_s(response)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise FetchError(f"{url}: {_words(error)}") from None


def next_fetch_s(failures: int, max_age_s: float | None = None) -> float:
    """Return how long to wait after so many failures in a row (0: after a success)."""
    if failures == 0:
        wait_s = max(MIN_REFRESH_S, min(REFRESH_S, REFRESH_S if max_age_s is None else max_age_s))
    elif failures <= QUICK_RETRIES:
        wait_s = QUICK_RETRY_S
    else:
        # Beyond 2**10 the limit holds anyway.
        doubled = FIRST_RETRY_S * 2.0 ** min(failures - QUICK_RETRIES - 1, 10)
        wait_s = min(doubled, MAX_RETRY_S)
    return wait_s * (1 + JITTER * random.random())  # noqa: S311 - spreads load, no secret


def refusal(address: str) -> str | None:
    """Return why keys are not fetched from an IP address; None when they may be.

    Loopback and private networks are fine, that is where issuers of a development machine are.
    What answers only because of who asks is not: the metadata services of clouds.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour or _behind_nat64(ip)
        if embedded is not None:
            ip = embedded
    if ip.is_link_local or ip in _METADATA_ADDRESSES:
        return "is a link-local or metadata address"
    if ip.is_unspecified or ip.is_multicast or (ip.version == 4 and ip.is_reserved):  # noqa: PLR2004
        return "is not the address of a host"
    return None


def _behind_nat64(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the address that the well-known prefix leads to (RFC 6052)."""
    return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None


class _Resolver(AbstractResolver):
    """Resolves names, and refuses the addresses that must not be connected to."""

    def __init__(self, hosts: Mapping[tuple[str, int], str]) -> None:
        self._hosts = {(host.lower(), port): where for (host, port), where in hosts.items()}
        self._system = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        name = host.lower().rstrip(".")
        mapped = self._hosts.get((name, port))
        if mapped is not None:
            address, _, number = mapped.rpartition(":")
            return [_at(host, address, int(number))]
        if name == "localhost" or name.endswith(".localhost"):
            return [_at(host, "127.0.0.1", port)]
        found = await self._system.resolve(host, port, family)
        for entry in found:
            # One bad address refuses them all: the others may be bait.
            why = refusal(entry["host"])
            if why is not None:
                raise _RefusedError(f"{host} resolves to {entry['host']}, which {why}")
        return found

    async def close(self) -> None:
        await self._system.close()


class _RefusedError(OSError):
    """An address must not be connected to."""


def _at(host: str, address: str, port: int) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=address,
        port=port,
        family=socket.AF_INET,
        proto=0,
        flags=socket.AI_NUMERICHOST,
    )


def _check(url: str) -> None:
    """Refuse what aiohttp would not ask the resolver about. FetchError: it is refused."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError as error:
        raise FetchError(f"{url!r} is not a URL: {error}.") from None
    if parts.scheme not in ("http", "https") or not host:
        raise FetchError(f"{url!r} is not an http or https URL.")
    if parts.username is not None or parts.password is not None:
        raise FetchError("A URL with a user name or password is not fetched.")
    try:
        why = refusal(host)
    except ValueError:
        return  # a name: the resolver judges what it stands for
    if why is not None:
        raise FetchError(f"{host} {why}.")


async def _read(response: aiohttp.ClientResponse, url: str) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(65536):
        body += chunk
        if len(body) > keysets.MAX_BYTES:
            _too_large(url)
    return bytes(body)


def _too_large(url: str) -> NoReturn:
    raise FetchError(f"{url} answered with more than {keysets.MAX_BYTES // 1024} KiB.")


def _max_age_s(response: aiohttp.ClientResponse) -> float | None:
    for directive in response.headers.get("Cache-Control", "").lower().split(","):
        name, _, value = directive.strip().partition("=")
        if name == "max-age" and value.strip('"').isdecimal():
            return float(value.strip('"')[:10])
    return None


def _words(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        # Its own text repeats the address.
        match error.os_error:
            case ssl.SSLCertVerificationError(verify_message=why):
                text = (
                    f"its certificate is not trusted ({why}). Add its CA to those of the system,"
                    " or set SSL_CERT_FILE for apirule up"
                )
            case ssl.SSLError() as inner:  # its number is none of the system's
                text = f"TLS failed ({inner.reason or inner})"
            case inner:
                text = os.strerror(inner.errno) if inner.errno else str(inner)
    else:
        text = str(error)
    return f"{text or type(error).__name__}."
