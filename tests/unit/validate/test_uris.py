"""Verdicts of Go's net/url, on values it was asked about."""

import pytest

from apirule.validate.uris import issuer_fault, quoted, request_uri_fault

OK = None
NOT_A_URI = "invalid URI for request"

VERDICTS = [
    ("https://e.com", OK, OK),
    ("http://e.com/a", OK, OK),
    ("HTTPS://E.com", OK, OK),
    ("urn:x:y", OK, OK),
    ("mailto:a@b", OK, OK),
    ("file:///x", OK, OK),
    ("foo:bar", OK, OK),
    ("http://", OK, OK),
    ("http://[::1]:8080/keys", OK, OK),
    ("http://u:p@e.com:80/a?b=%zz", OK, OK),
    ("tenant-1", OK, NOT_A_URI),
    ("accounts.google.com", OK, NOT_A_URI),
    ("foo bar", OK, NOT_A_URI),
    ("/foo", OK, OK),
    ("*", OK, OK),
    ("://x", "missing protocol scheme", "missing protocol scheme"),
    ("1http://x", NOT_A_URI, NOT_A_URI),
    ("https://e.com:abc", *(['invalid port ":abc" after host'] * 2)),
    ("https://e .com", *(['invalid character " " in host name'] * 2)),
    ("https://e.com/%zz", *(['invalid URL escape "%zz"'] * 2)),
    ("https://e.com/%", *(['invalid URL escape "%"'] * 2)),
    ("https://%41.com", *(['invalid URL escape "%41"'] * 2)),
    ("http://[::1", *(["missing ']' in host"] * 2)),
    ("https://a[", *(["invalid IP-literal"] * 2)),
    ("https://a[::1]", *(["invalid IP-literal"] * 2)),
    ("https://[1.2.3.4]", *(["invalid IP-literal"] * 2)),
    ("http://[fe80::1%25en0]:80/", OK, OK),
    ("http://[fe80::1%25e%20n]", OK, OK),
    ("http://[fe80::1%25%E4]", *(['invalid URL escape "%E4"'] * 2)),
    (
        "http://[::1%25]",
        *(['invalid host: ParseAddr("::1%"): zone must be a non-empty string'] * 2),
    ),
    ("http://[e.com]", *(['invalid host: ParseAddr("e.com"): unable to parse IP'] * 2)),
    ("http://[::1]x", *(['invalid port "x" after host'] * 2)),
    # Of several colons http takes the first for the port, as Go does since 1.26.
    ("http://a::", *(['invalid port "::" after host'] * 2)),
    ("HTTPS://a:1:2", *(['invalid port ":1:2" after host'] * 2)),
    ("postgres://a:1:2", OK, OK),
    # What stands first is told first, byte by byte.
    ("http://^%zz", *(['invalid character "^" in host name'] * 2)),
    ("http://%zz^", *(['invalid URL escape "%zz"'] * 2)),
    ("http://%😀", *([r'invalid URL escape "%\xf0\x9f"'] * 2)),
    ("http://e.com/%üb", *(['invalid URL escape "%ü"'] * 2)),
    ("http://a%4:b@e.com", *(['invalid URL escape "%4"'] * 2)),
    ("http://ü%80.com", OK, OK),
    ("http://a b@e.com", *(["net/url: invalid userinfo"] * 2)),
    ("a:\x01", *(["net/url: invalid control character in URL"] * 2)),
]


@pytest.mark.parametrize(("value", "issuer", "uri"), VERDICTS)
def test_the_verdict_is_the_one_of_go(value: str, issuer: str | None, uri: str | None) -> None:
    assert issuer_fault(value) == (issuer and f"parse {quoted(value.encode())}: {issuer}")
    assert request_uri_fault(value) == (uri and f"parse {quoted(value.encode())}: {uri}")


def test_nothing_is_neither_an_issuer_nor_a_uri() -> None:
    assert issuer_fault("") == request_uri_fault("") == "value is empty"


@pytest.mark.parametrize(
    ("text", "shown"),
    [('a"b\\', '"a\\"b\\\\"'), ("\n\x01", '"\\n\\x01"'), ("ü\u200b", '"ü\\u200b"')],
)
def test_text_is_quoted_as_go_does(text: str, shown: str) -> None:
    assert quoted(text.encode()) == shown
