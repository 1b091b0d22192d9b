"""Path patterns against the truth table of Envoy, and against brute force."""

import itertools
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apirule.paths import ANY, ONE, PathIndex, Template, covers, example, overlap

VECTORS = Path(__file__).parents[1] / "vectors"


@pytest.mark.parametrize(
    "text",
    [
        *("/", "//", "/a", "/a/", "/a//b", "/a/{*}", "/a/{*}/b", "/{**}", "/a/{**}/b", "/*"),
        *("/a.b", "/a%20b", "/a(b)", "/~!$&'()+,;=:@-._"),
    ],
)
def test_a_pattern_of_the_grammar_is_read(text: str) -> None:
    assert Template.parse(text).text == text


@pytest.mark.parametrize(
    "text",
    [
        *("a", "*", "/a*", "/a/*", "/**", "/{x}", "/a{*}", "/{*}b", "/{*}{*}"),
        *("", "/a b", "/a%2", "/a?x", "/a#x", "/a|b", "/ü", "/a\n"),
    ],
)
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a path pattern"):
        Template.parse(text)


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("/a/{*}", "/a/1 /a/x%2Fy /a/1?q=/z /a/1.json", "/a /a/ /a/1/ /a/1/2"),
        ("/a/{**}", "/a/ /a/1 /a/1/2 /a//x", "/a"),
        ("/{**}", "/ /a // /a/b/", ""),
        ("/*", "/ /a // /a/b/", ""),
        ("/a/{*}/x/{**}", "/a/1/x/ /a/1/x/y/z", "/a/1/x"),
        ("/a/{**}/end", "/a/1/2/end /a//end", "/a/end /a/1/2/end/"),
        ("/{**}/x", "/y/x /a//x", "/x"),
        ("/a/{*}/", "/a/1/", "/a/1 /a//"),
        ("/a", "/a /a?b", "/a/ /A /a/b a"),
        ("/", "/", "// /a"),
    ],
)
def test_a_pattern_matches_what_envoys_template_matches(
    pattern: str, matching: str, others: str
) -> None:
    template = Template.parse(pattern)

    assert [path for path in matching.split() if not template.matches(path)] == []
    assert [path for path in others.split() if template.matches(path)] == []


ESCAPED = {"/a+b", "/a.b", "/price$"}
"""Patterns whose metacharacters the Kyma operator leaves unescaped."""


@pytest.mark.parametrize(
    ("pattern", "answers"), json.loads((VECTORS / "vsre.json").read_text()).items()
)
def test_the_regular_expression_matches_as_the_kyma_operators_where_that_one_is_right(
    pattern: str, answers: dict[str, bool]
) -> None:
    regex = Template.parse(pattern).regex

    matched = {path: re.fullmatch(regex, path) is not None for path in answers}

    assert matched == (
        {path: path == pattern for path in answers} if pattern in ESCAPED else answers
    )


def test_literal_text_is_escaped_in_the_regular_expression() -> None:
    assert Template.parse("/v1.0/$x/(a+b)").regex == r"^/v1\.0/\$x/\(a\+b\)$"


def test_everything_has_its_long_form_in_a_policy() -> None:
    assert Template.parse("/*").policy_text == "/{**}"
    assert Template.parse("/*").matches("/")


def test_patterns_with_two_operators_for_any_rest_are_not_compared() -> None:
    two = Template.parse("/{**}/a/{**}")

    with pytest.raises(ValueError, match="more than one"):
        overlap(two, Template.parse("/a"))


def test_an_example_uses_a_segment_that_no_literal_has() -> None:
    assert example(Template.parse("/x/{*}/{**}")) == "/x/x1/x1"


LETTERS = ("a", "b")
LITERALS = st.sampled_from([*LETTERS, ""])


@st.composite
def templates(draw: st.DrawFn) -> Template:
    """Any pattern of up to three segments with at most one ``{**}``."""
    parts = draw(st.lists(st.one_of(LITERALS, st.just(ONE)), min_size=1, max_size=3))
    if draw(st.booleans()):
        parts[draw(st.integers(0, len(parts) - 1))] = ANY
    return Template.parse("/" + "/".join(parts))


# Long enough that {**} can take more than a pattern of three segments has.
WORDS = [
    "/" + "/".join(word)
    for length in range(1, 7)
    for word in itertools.product(("", "a", "b", "z"), repeat=length)
]


@settings(deadline=None)
@given(templates(), templates())
def test_inclusion_agrees_with_trying_every_path(inner: Template, outer: Template) -> None:
    assert covers(outer, inner) == all(outer.matches(w) for w in WORDS if inner.matches(w))


@settings(deadline=None)
@given(templates(), templates())
def test_overlap_agrees_with_trying_every_path(one: Template, other: Template) -> None:
    shared = any(one.matches(word) and other.matches(word) for word in WORDS)

    assert overlap(one, other) == shared


@given(templates(), st.sampled_from(WORDS))
def test_the_regular_expression_agrees_with_the_template(template: Template, path: str) -> None:
    assert (re.fullmatch(template.regex, path) is not None) == template.matches(path)


@given(templates())
def test_an_example_is_matched(template: Template) -> None:
    assert template.matches(example(template))


@given(st.lists(templates(), max_size=8), templates())
def test_an_index_finds_what_comparing_with_each_finds(
    known: list[Template], one: Template
) -> None:
    index: PathIndex[int] = PathIndex()
    for place, pattern in enumerate(known):
        index.add(pattern, place)

    assert sorted(index.covering(one)) == [n for n, p in enumerate(known) if covers(p, one)]
    assert sorted(index.meeting(one)) == [n for n, p in enumerate(known) if overlap(p, one)]
