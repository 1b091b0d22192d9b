"""Value patterns: what they become, and what is refused before Envoy sees it."""

from __future__ import annotations

import re

import pytest
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.type.matcher.v3.path_pb2 import PathMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from hypothesis import given
from hypothesis import strategies as st

from apirule.mesh import matchers


@pytest.mark.parametrize(
    ("pattern", "matcher"),
    [
        ("a", StringMatcher(exact="a")),
        ("a*", StringMatcher(prefix="a")),
        ("*a", StringMatcher(suffix="a")),
        ("*a*", StringMatcher(suffix="a*")),
        ("a*b", StringMatcher(exact="a*b")),
        ("*", matchers.ANYTHING),
    ],
)
def test_strings(pattern: str, matcher: StringMatcher) -> None:
    assert matchers.string(pattern) == matcher


@pytest.mark.parametrize("value", ["", "a\r\nb", "a\x00", "\x7f"])
def test_what_no_request_can_carry_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"empty|control"):
        matchers.string(value)


@given(st.text())
def test_a_quoted_text_matches_itself_alone(text: str) -> None:
    pattern = re.compile(matchers.quoted(text), re.DOTALL)

    assert pattern.fullmatch(text)
    assert not pattern.fullmatch(text + "x")


@pytest.mark.parametrize(
    ("path", "written"),
    [
        ("/a/{**}", "/a/**"),
        ("/a/{*}", "/a/*"),
        ("/a/{*}/b/{**}", "/a/*/b/**"),
        ("/a/{**}/z", "/a/**/z"),
        ("/a/{*}/", "/a/*/"),
        ("/a(b)$/%2F/{*}", "/a(b)$/%2F/*"),
    ],
)
def test_templates_are_written_as_envoy_reads_them(path: str, written: str) -> None:
    matcher = matchers.template(path)

    assert isinstance(matcher, TypedExtensionConfig)
    assert matcher.typed_config.value[2:].decode() == written


def test_the_template_for_every_path_is_a_prefix() -> None:
    matcher = matchers.template("/{**}")

    assert isinstance(matcher, PathMatcher)
    assert matcher.path.prefix == "/"


@pytest.mark.parametrize(
    ("path", "expression"),
    [
        ("/a//{*}", "/a//[^/]+"),
        ("//{**}", "//.*"),
        ("/a.b//{*}/{**}", "/a\\.b//[^/]+/.*"),
        ("/" + "x" * 300 + "/{*}", "/" + "x" * 300 + "/[^/]+"),
    ],
)
def test_templates_envoy_cannot_say_become_expressions(path: str, expression: str) -> None:
    matcher = matchers.template(path)

    assert isinstance(matcher, PathMatcher)
    assert matcher.path.safe_regex.regex == expression


@pytest.mark.parametrize(
    ("path", "expression"),
    [
        ("/a/{*}", "/a/[^/]+"),
        ("/a/{**}/z", "/a/.*/z"),
        ("/a.b/{*}/", "/a\\.b/[^/]+/"),
        ("/", "//?"),
    ],
)
def test_a_path_is_matched_widely_by_an_expression(path: str, expression: str) -> None:
    assert matchers.wide_path(path).path.safe_regex.regex == expression


def test_other_paths_are_matched_widely_as_they_are() -> None:
    assert matchers.wide_path("/{**}").path.prefix == "/"
    assert matchers.wide_path("/a").path.exact == "/a"


@pytest.mark.parametrize(
    "path",
    [
        "a/{*}",
        "{*}",
        "/a{*}",
        "/{*}.json",
        "/{*}{**}",
        "/{**}/{*}",
        "/{**}/a/{**}",
        "/a/{x}/{*}",
        "/a/*/{*}",
        "/a b/{*}",
        "/ü/{*}",
        "/a%2/{*}",
        "/a?x/{*}",
        "/a#x/{*}",
        "/{*}\n",
    ],
)
def test_templates_envoy_would_refuse_or_misread_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        matchers.template(path)


@pytest.mark.parametrize(
    ("block", "address", "bits"),
    [
        ("10.0.0.1", "10.0.0.1", 32),
        ("10.1.2.3/8", "10.0.0.0", 8),
        ("0.0.0.0/0", "0.0.0.0", 0),  # noqa: S104 - as data
        ("fd00::1/64", "fd00::", 64),
    ],
)
def test_blocks(block: str, address: str, bits: int) -> None:
    found = matchers.cidr(block)

    assert (found.address_prefix, found.prefix_len.value) == (address, bits)


@pytest.mark.parametrize("block", ["", "zz", "10.0.0.0/33", "10.0.0", "fe80::1%eth0/64x"])
def test_what_is_no_block_is_refused(block: str) -> None:
    with pytest.raises(ValueError, match="neither an IP address nor a block"):
        matchers.cidr(block)


@pytest.mark.parametrize(
    ("value", "ways"), [("a", 2), ("*.a", 2), ("a*", 1), ("a:80", 1), ("*", 1)]
)
def test_a_host_is_matched_with_and_without_a_port(value: str, ways: int) -> None:
    assert len(matchers.host(value)) == ways


@pytest.mark.parametrize("value", ["a.example", "*.example", "a*", "a.example:9", "*"])
def test_istios_hosts_are_met_literally(value: str) -> None:
    assert len(matchers.host(value, any_port=False)) == 1
