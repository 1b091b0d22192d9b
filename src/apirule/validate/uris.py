"""Which URIs are accepted for an issuer and its key set: the verdicts of Go's ``net/url``.

The release is Go 1.26, which the Kyma operator is built with. The order of the checks and the texts
are Go's, too, because they stand in the status that scripts read; only what is wrong inside the
brackets of an IPv6 address is told in fewer words. Go looks at bytes, so we do.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_SCHEME = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*)?:")
_ESCAPE = re.compile(rb"%[0-9A-Fa-f]{2}")
_PERCENT = 0x25
_PORT = re.compile(rb"(?::[0-9]*)?")
_USERINFO = re.compile(rb"[A-Za-z0-9\-._:~!$&'()*+,;=%@]*")
_IN_HOST = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~!$&'()*+,;=:[]<>\""
)
_BEYOND_ASCII = 0x80
_IPV6 = 6


class _Refused(Exception):  # noqa: N818  # never leaves this module
    """What Go says."""


def issuer_fault(value: str) -> str | None:
    """Return what is wrong with an issuer. Without a colon it is a plain name, and fine."""
    if not value:
        return "value is empty"
    return request_uri_fault(value) if ":" in value else None


def request_uri_fault(value: str) -> str | None:
    """Return what Go's ``url.ParseRequestURI`` says; None if it accepts the value."""
    if not value:
        return "value is empty"
    text = value.encode(errors="surrogatepass")
    try:
        _check(text)
    except _Refused as fault:
        return f"parse {quoted(text)}: {fault}"
    return None


def quoted(text: bytes) -> str:
    """Quote as Go's ``%q`` does; what is not UTF-8 comes out byte by byte."""
    return '"' + "".join(map(_shown, text.decode(errors="surrogateescape"))) + '"'


_NAMED = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_NAMED |= {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\v": "\\v"}


def _shown(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # noqa: PLR2004 - how Python escapes a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < _BEYOND_ASCII:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004 - two bytes


def _check(text: bytes) -> None:
    if _CONTROL.search(text):
        raise _Refused("net/url: invalid control character in URL")
    if text == b"*":
        return
    named = _SCHEME.match(text)
    if named and not named[1]:
        raise _Refused("missing protocol scheme")
    rest = text[named.end() :] if named else text
    rest = rest.partition(b"?")[0]
    if not rest.startswith(b"/"):
        if named:
            return
        raise _Refused("invalid URI for request")
    if named and rest.startswith(b"//"):
        authority, slash, path = rest[2:].partition(b"/")
        _check_authority(authority, scheme=named[1].lower())
        rest = slash + path
    _unescape(rest, _anything)


def _check_authority(authority: bytes, *, scheme: bytes) -> None:
    userinfo, _, host = authority.rpartition(b"@")
    _check_host(host, scheme=scheme)
    if not _USERINFO.fullmatch(userinfo):
        raise _Refused("net/url: invalid userinfo")
    name, _, password = userinfo.partition(b":")
    _unescape(name, _anything)
    _unescape(password, _anything)


def _check_host(host: bytes, *, scheme: bytes) -> None:
    if b"[" in host:
        if host.rindex(b"[") > 0:
            raise _Refused("invalid IP-literal")
        _check_literal(host)
        return
    # A port stands behind the only colon; of several, other schemes than http take the last.
    first, last = host.find(b":"), host.rfind(b":")
    if first >= 0:
        _check_port(host[first if scheme in (b"http", b"https") else last :])
    _unescape(host, _in_host, plain=_IN_HOST)


def _check_port(port: bytes) -> None:
    if not _PORT.fullmatch(port):
        raise _Refused(f"invalid port {quoted(port)} after host")


def _check_literal(host: bytes) -> None:
    """Check an address in brackets, RFC 3986, 3.2.2, and its zone, RFC 6874."""
    inside, bracket, port = host[1:].rpartition(b"]")
    if not bracket:
        raise _Refused("missing ']' in host")
    _check_port(port)
    at = inside.find(b"%25")
    if at < 0:
        address = _unescape(inside, _in_host, plain=_IN_HOST)
    else:
        address = _unescape(inside[:at], _in_host, plain=_IN_HOST)
        address += _unescape(inside[at:], _in_zone, plain=_IN_HOST)
    _check_address(address)


def _check_address(address: bytes) -> None:
    number, percent, zone = address.partition(b"%")
    said = f"invalid host: ParseAddr({quoted(address)}):"
    if percent and not zone and b":" in number:
        raise _Refused(f"{said} zone must be a non-empty string")
    try:
        parsed = ipaddress.ip_address(number.decode(errors="replace"))
    except ValueError:
        raise _Refused(f"{said} unable to parse IP") from None
    if parsed.version != _IPV6:
        raise _Refused("invalid IP-literal")


def _anything(code: int) -> bool:
    return True


def _in_host(code: int) -> bool:
    """Whether an escape may stand for a byte: not in ASCII, where the byte itself would do."""
    return code >= _BEYOND_ASCII or code == _PERCENT


def _in_zone(code: int) -> bool:
    return code in _IN_HOST or code in b"% "


def _unescape(
    text: bytes, takes: Callable[[int], bool], *, plain: frozenset[int] | None = None
) -> bytes:
    """Resolve escapes of bytes that are taken; ``plain`` is what of ASCII may stand by itself."""
    out = bytearray()
    at = 0
    while at < len(text):
        if text[at] == _PERCENT:
            escape = text[at : at + 3]
            if not _ESCAPE.fullmatch(escape) or not takes(int(escape[1:], 16)):
                raise _Refused(f"invalid URL escape {quoted(escape)}")
            out.append(int(escape[1:], 16))
            at += 3
            continue
        if plain is not None and text[at] < _BEYOND_ASCII and text[at] not in plain:
            raise _Refused(f"invalid character {quoted(text[at : at + 1])} in host name")
        out.append(text[at])
        at += 1
    return bytes(out)
