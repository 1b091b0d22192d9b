"""Fetching key sets over real sockets: limits, redirects, discovery, refused addresses."""

from __future__ import annotations

import gzip
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from aiohttp import web
from joserfc.jwk import ECKey
from tests.shells.certificates import TestCa

from apirule import jwks, keysets
from apirule.jwks import FetchError, KeySetFetcher, next_fetch_s, refusal

KEYS = json.dumps({"keys": [ECKey.generate_key("P-256").as_dict(private=False)]})
ISSUER = "http://oidc.kyma.localhost:8080"
URI = f"{ISSUER}/jwks"
SECURE_URI = "https://localhost:8443/jwks"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def issuer(
    handler: Handler, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[KeySetFetcher]:
    """Serve an issuer on loopback, and give a fetcher that finds it there."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    where = f"127.0.0.1:{runner.addresses[0][1]}"
    try:
        hosts = {("oidc.kyma.localhost", 8080): where, ("localhost", 8443): where}
        async with KeySetFetcher(hosts=hosts) as fetcher:
            yield fetcher
    finally:
        await runner.cleanup()


def answering(text: str, **headers: str) -> Handler:
    async def handle(_: web.Request) -> web.StreamResponse:
        return web.Response(text=text, headers=headers, content_type="application/json")

    return handle


async def refused(handler: Handler, uri: str = URI) -> str:
    async with issuer(handler) as fetcher:
        with pytest.raises(FetchError) as error:
            await fetcher.fetch(ISSUER, uri)
    return str(error.value)


@pytest.mark.parametrize("known", [True, False])
async def test_with_https_an_issuer_must_be_known_to_the_cas_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, known: bool
) -> None:
    ours, other = TestCa(tmp_path), TestCa(tmp_path, "other CA")
    monkeypatch.setenv("SSL_CERT_FILE", str((ours if known else other).file))
    shown = ours.server()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(shown.certificate, shown.key)

    async with issuer(answering(KEYS), tls=context) as fetcher:
        if known:
            assert (await fetcher.fetch(ISSUER, SECURE_URI)).document
        else:
            with pytest.raises(FetchError, match=r"its certificate is not trusted .*SSL_CERT_FILE"):
                await fetcher.fetch(ISSUER, SECURE_URI)


async def test_an_issuer_that_does_not_speak_tls_is_named() -> None:
    async with issuer(answering(KEYS)) as fetcher:
        with pytest.raises(FetchError, match=r"/jwks: TLS failed \(WRONG_VERSION_NUMBER\)\."):
            await fetcher.fetch(ISSUER, SECURE_URI)


async def test_keys_are_fetched_and_cleaned() -> None:
    async with issuer(answering(KEYS)) as fetcher:
        fetched = await fetcher.fetch(ISSUER, URI)

    assert fetched.document == keysets.clean(KEYS).document
    assert fetched.max_age_s is None


@pytest.mark.parametrize(
    ("directives", "max_age_s"),
    [("public, max-age=90", 90.0), ('max-age="7"', 7.0), ("no-cache", None), ("max-age=x", None)],
)
async def test_the_lifetime_of_an_answer_is_read(directives: str, max_age_s: float | None) -> None:
    async with issuer(answering(KEYS, **{"Cache-Control": directives})) as fetcher:
        fetched = await fetcher.fetch(ISSUER, URI)

    assert fetched.max_age_s == max_age_s


async def test_without_a_jwks_uri_the_discovery_document_is_asked() -> None:
    asked: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.json_response(text=KEYS if request.path == "/jwks" else DISCOVERY)

    async with issuer(handle) as fetcher:
        fetched = await fetcher.fetch(ISSUER, "")

    assert fetched.document
    assert asked == ["/.well-known/openid-configuration", "/jwks"]


DISCOVERY = json.dumps({"issuer": ISSUER, "jwks_uri": URI})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<html>", "did not answer with JSON"),
        ("{}", "names no jwks_uri"),
        (DISCOVERY.replace(ISSUER, "http://other", 1), "speaks for another issuer"),
        (DISCOVERY.replace(URI, "http://169.254.169.254/"), "169.254.169.254"),
        (DISCOVERY.replace(URI, "file:///etc/passwd"), "is not an http or https URL"),
    ],
)
async def test_a_discovery_document_that_cannot_be_believed_is_refused(
    text: str, says: str
) -> None:
    assert says in await refused(answering(text), uri="")


async def test_a_redirect_is_followed() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        if request.path == "/jwks":
            raise web.HTTPFound("/elsewhere")
        return web.json_response(text=KEYS)

    async with issuer(handle) as fetcher:
        fetched = await fetcher.fetch(ISSUER, URI)

    assert fetched.document


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("http://169.254.169.254/latest/meta-data", "link-local or metadata"),
        ("http://[fe80::1]/", "link-local or metadata"),
        ("http://[::ffff:169.254.169.254]/", "link-local or metadata"),
        ("file:///etc/passwd", "is not an http or https URL"),
        ("http://user:secret@oidc.kyma.localhost:8080/", "user name or password"),
        ("/jwks", "redirects"),
    ],
)
async def test_a_redirect_to_where_keys_must_not_come_from_is_refused(
    location: str, says: str
) -> None:
    async def handle(_: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(location)

    message = await refused(handle)

    assert says in message
    assert "secret" not in message


@pytest.mark.parametrize(
    "uri",
    ["http://169.254.169.254/", "http://100.100.100.200/", "http://0.0.0.0/", "http://[ff02::1]/"],
)
async def test_a_jwks_uri_with_such_an_address_is_refused(uri: str) -> None:
    async with KeySetFetcher() as fetcher:
        with pytest.raises(FetchError, match="address"):
            await fetcher.fetch(ISSUER, uri)


@pytest.mark.parametrize(
    "uri", ["", "/foo", "*", "mailto:a@b", "http://", "http://[x/", "http://a:b"]
)
async def test_what_is_no_url_is_refused(uri: str) -> None:
    async with KeySetFetcher() as fetcher:
        with pytest.raises(FetchError):
            await fetcher.fetch("tenant-1", uri)


async def test_a_name_that_resolves_to_a_refused_address_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def resolve(_: object, host: str, port: int, family: object) -> list[dict[str, object]]:
        return [{"hostname": host, "host": "169.254.169.254", "port": port}]

    monkeypatch.setattr("aiohttp.ThreadedResolver.resolve", resolve)
    async with KeySetFetcher() as fetcher:
        with pytest.raises(FetchError, match=r"resolves to 169\.254\.169\.254"):
            await fetcher.fetch(ISSUER, "http://rebound.example/jwks")


@pytest.mark.parametrize(
    ("address", "fine"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("10.0.0.1", True),
        ("203.0.113.7", True),
        ("169.254.1.1", False),
        ("fe80::1%eth0", False),
        ("::ffff:169.254.169.254", False),
        ("2002:a9fe:a9fe::1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b::cb00:7107", True),
        ("fd00:ec2::254", False),
        ("0.0.0.0", False),  # noqa: S104 - as data
        ("255.255.255.255", False),
    ],
)
def test_which_addresses_are_refused(address: str, *, fine: bool) -> None:
    assert (refusal(address) is None) == fine


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (answering("<html>hello"), "not JSON"),
        (answering('{"keys": []}'), "no key"),
        (answering(" " * (keysets.MAX_BYTES + 10)), "more than 512 KiB"),
    ],
)
async def test_an_answer_that_is_no_key_set_is_refused(handler: Handler, says: str) -> None:
    assert says in await refused(handler)


async def test_an_error_of_the_issuer_is_named() -> None:
    async def handle(_: web.Request) -> web.StreamResponse:
        raise web.HTTPServiceUnavailable

    assert "answered 503" in await refused(handle)


async def test_a_compressed_body_is_refused_instead_of_unpacked() -> None:
    body = gzip.compress(b" " * 50_000_000, 1)

    async def handle(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, headers={"Content-Encoding": "gzip"})

    assert "compressed" in await refused(handle)


async def test_a_slow_issuer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "TIMEOUT_S", 0.2)

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with anyio.move_on_after(3):
            while request.transport is not None:
                await response.write(b" ")
                await anyio.sleep(0.02)
        return response

    assert "did not answer within" in await refused(drip)


async def test_an_issuer_that_is_down_is_named() -> None:
    async with KeySetFetcher(hosts={("oidc.kyma.localhost", 8080): "127.0.0.1:1"}) as fetcher:
        with pytest.raises(FetchError, match="refused"):
            await fetcher.fetch(ISSUER, URI)


@pytest.mark.parametrize(
    ("failures", "max_age_s", "at_least", "at_most"),
    [
        (0, None, 1200, 1320),
        (0, 60.0, 60, 66),
        (0, 1.0, 30, 33),
        (0, 0.0, 30, 33),
        (0, 86400.0, 1200, 1320),
        (1, None, 1, 1.1),
        (7, None, 1, 1.1),
        (8, None, 60, 66),
        (9, None, 120, 132),
        (14, None, 3600, 3960),
        (10_000, None, 3600, 3960),
    ],
)
def test_when_an_issuer_is_asked_again(
    failures: int, max_age_s: float | None, at_least: float, at_most: float
) -> None:
    assert at_least <= next_fetch_s(failures, max_age_s) <= at_most
