"""Which URIs are accepted for an issuer and its key set: the verdicts of Go's ``net/url``.

The texts are Go's, too, because they stand in the status that scripts read.
"""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)?:")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}", re.DOTALL)
_HOST_ESCAPE = re.compile(r"%(?:25|[89A-Fa-f][0-9A-Fa-f])")
"""In a host Go takes escapes of bytes beyond ASCII, and of the percent sign."""
_NOT_IN_HOST = re.compile(r"[ #/?@\\^`{|}%]")
_PORT = re.compile(r"(?::[0-9]*)?")
_USERINFO = re.compile(r"[A-Za-z0-9\-._:~!$&'()*+,;=%@]*")


def issuer_fault(value: str) -> str | None:
    """Return what is wrong with an issuer. Without a colon it is a plain name, and fine."""
    if not value:
        return "value is empty"
    return request_uri_fault(value) if ":" in value else None


def request_uri_fault(value: str) -> str | None:
    """Return what Go's ``url.ParseRequestURI`` says; None if it accepts the value."""
    if not value:
        return "value is empty"
    fault = _fault(value)
    return None if fault is None else f"parse {quoted(value)}: {fault}"


def quoted(text: str) -> str:
    """Quote as Go's ``%q`` does."""
    named = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    named |= {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\v": "\\v"}
    return (
        '"' + "".join(named.get(c) or (c if c.isprintable() else _escaped(c)) for c in text) + '"'
    )


def _escaped(character: str) -> str:
    code = ord(character)
    if code < 0x80:  # noqa: PLR2004 - the end of ASCII
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004 - two bytes


def _fault(value: str) -> str | None:
    if _CONTROL.search(value):
        return "net/url: invalid control character in URL"
    if value == "*":
        return None
    scheme = _SCHEME.match(value)
    if scheme and not scheme[1]:
        return "missing protocol scheme"
    rest = value[scheme.end() :] if scheme else value
    rest = rest.partition("?")[0]
    if not rest.startswith("/"):
        return None if scheme else "invalid URI for request"
    path = rest
    if scheme and rest.startswith("//"):
        authority, slash, after = rest[2:].partition("/")
        if fault := _authority_fault(authority):
            return fault
        path = slash + after
    return _escape_fault(path)


def _authority_fault(authority: str) -> str | None:
    userinfo, at, host = authority.rpartition("@")
    if fault := _host_fault(host):
        return fault
    if at and not _USERINFO.fullmatch(userinfo):
        return "net/url: invalid userinfo"
    return _escape_fault(userinfo)


def _host_fault(host: str) -> str | None:
    if host.startswith("["):
        literal, bracket, port = host.rpartition("]")
        if not bracket:
            return "missing ']' in host"
        name = literal
    else:
        # Go reads the port behind the last colon.
        end = host.rfind(":") if ":" in host else len(host)
        name, port = host[:end], host[end:]
    if not _PORT.fullmatch(port):
        return f"invalid port {quoted(port)} after host"
    if fault := _escape_fault(host):
        return fault
    for escape in re.finditer(r"%..", host):
        if not _HOST_ESCAPE.fullmatch(escape[0]):
            return f"invalid URL escape {quoted(escape[0])}"
    bare = _HOST_ESCAPE.sub("", name)
    if wrong := _NOT_IN_HOST.search(bare):
        return f"invalid character {quoted(wrong[0])} in host name"
    return None


def _escape_fault(text: str) -> str | None:
    wrong = _BAD_ESCAPE.search(text)
    return f"invalid URL escape {quoted(wrong[0])}" if wrong else None
