"""Path patterns: what they match, whether one covers another, whether two meet.

A path is a list of segments: ``/a/`` is ``a`` and the empty segment. A pattern is a list of
literals and two operators. With at most one ``{**}`` in it, the questions that decide about
access have exact answers: what stands before it is compared from the left, the rest from the right.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import Generic, TypeVar

import msgspec

V = TypeVar("V")

ONE = "{*}"
"""One segment that is not empty."""

ANY = "{**}"
"""One or more segments, empty ones too: ``/a/{**}`` matches ``/a/`` and not ``/a``."""

EVERYTHING = "/*"
"""The short form of ``/{**}``."""

GRAMMAR = re.compile(
    r"((/([A-Za-z0-9\-._~!$&'()+,;=:@]|%[0-9a-fA-F]{2})*)|(/\{\*{1,2}\}))+|/\*",
)
"""Use ``fullmatch``: ``$`` would accept a trailing newline."""

_CHARACTER = r"[A-Za-z0-9-._~!$&'()*+,;=:@{slash}]|%[0-9a-fA-F]{{2}}"
_REGEX = {
    ONE: f"({_CHARACTER.format(slash='')})+",
    ANY: f"({_CHARACTER.format(slash='/')})*",
}
_METACHARACTERS = re.compile(r"[.$()+]")
"""Those that the grammar allows in a literal and that RE2 reads as an operator."""


class Template(msgspec.Struct, frozen=True):
    """A pattern as the user wrote it, and its segments."""

    text: str
    segments: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Read a pattern. ValueError: it does not follow the grammar."""
        if not GRAMMAR.fullmatch(text):
            raise ValueError(f"{text!r} is not a path pattern")
        return cls(text, (ANY,) if text == EVERYTHING else _split(text))

    @property
    def has_operator(self) -> bool:
        return any(_is_operator(segment) for segment in self.segments)

    @property
    def is_open(self) -> bool:
        """Whether its paths may have any number of segments."""
        return ANY in self.segments

    @property
    def is_comparable(self) -> bool:
        """Whether it has at most one ``{**}``, as every pattern that is served."""
        return self.segments.count(ANY) <= 1

    @property
    def ends(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What stands before and after ``{**}``; without it, all segments are both.

        ValueError: there is more than one ``{**}``.
        """
        if not self.is_open:
            return self.segments, self.segments
        at = self.segments.index(ANY)
        if not self.is_comparable:
            raise ValueError(f"{self.text!r} has more than one {ANY}")
        return self.segments[:at], self.segments[at + 1 :]

    @property
    def policy_text(self) -> str:
        """The form an AuthorizationPolicy takes."""
        return f"/{ANY}" if self.text == EVERYTHING else self.text

    @property
    def has_metacharacter(self) -> bool:
        return _METACHARACTERS.search(self.text) is not None

    @property
    def regex(self) -> str:
        """An anchored RE2 expression that matches the same paths."""
        return "^" + "".join(f"/{_regex_of(segment)}" for segment in self.segments) + "$"

    def matches(self, path: str) -> bool:
        """Whether a normalised path, with or without its query, is one of this pattern."""
        path, _, _ = path.partition("?")
        if not path.startswith("/"):
            return False
        positions = frozenset((0,))
        for segment in _split(path):
            positions = _advance(self.segments, positions, segment)
        return len(self.segments) in positions

    def __str__(self) -> str:
        return self.text


def covers(outer: Template, inner: Template) -> bool:
    """Whether every path of ``inner`` is one of ``outer``. At most one ``{**}`` in each."""
    if not outer.is_open:
        return (
            not inner.is_open
            and len(outer.segments) == len(inner.segments)
            and all(map(_covers, outer.segments, inner.segments))
        )
    (before, after), (head, tail) = outer.ends, inner.ends
    if inner.is_open:
        # {**} stands for segments of any sort: only another {**} takes them.
        fits = len(before) <= len(head) and len(after) <= len(tail)
    else:
        fits = len(before) + len(after) < len(inner.segments)
    return (
        fits
        and all(map(_covers, before, head))
        and all(map(_covers, reversed(after), reversed(tail)))
    )


def overlap(one: Template, other: Template) -> bool:
    """Whether some path is one of both. At most one ``{**}`` in each."""
    if not one.is_open and not other.is_open and len(one.segments) != len(other.segments):
        return False
    (head, tail), (before, after) = one.ends, other.ends
    if one.is_open != other.is_open:
        fixed, ends = (other, one.ends) if one.is_open else (one, other.ends)
        if len(ends[0]) + len(ends[1]) >= len(fixed.segments):
            return False
    # With a {**} in both the path may be as long as it takes for the ends not to touch.
    return all(map(_meet, head, before)) and all(map(_meet, reversed(tail), reversed(after)))


class _Node(msgspec.Struct, Generic[V]):
    """Where the same first segments lead to, up to a ``{**}``."""

    below: dict[str, _Node[V]] = msgspec.field(default_factory=dict)
    closed: list[tuple[Template, V]] = msgspec.field(default_factory=list)
    open: list[tuple[Template, V]] = msgspec.field(default_factory=list)

    def all(self) -> Iterator[tuple[Template, V]]:
        yield from self.closed
        yield from self.open
        for node in self.below.values():
            yield from node.all()


class PathIndex(Generic[V]):
    """Values by pattern. To find some, only patterns that begin alike are compared.

    All patterns have at most one ``{**}``.
    """

    def __init__(self) -> None:
        self._root: _Node[V] = _Node()

    def add(self, pattern: Template, value: V) -> None:
        node = self._root
        for segment in pattern.ends[0]:
            node = node.below.setdefault(segment, _Node())
        (node.open if pattern.is_open else node.closed).append((pattern, value))

    def covering(self, inner: Template) -> Iterator[V]:
        """Yield the values of the patterns that match every path of another one."""
        nodes = [self._root]
        for segment in inner.ends[0]:
            yield from (v for node in nodes for outer, v in node.open if covers(outer, inner))
            alike = (segment,) if segment in ("", ONE) else (segment, ONE)
            nodes = [node.below[s] for node in nodes for s in alike if s in node.below]
        for node in nodes:
            yield from (v for outer, v in (*node.open, *node.closed) if covers(outer, inner))

    def meeting(self, one: Template) -> Iterator[V]:
        """Yield the values of the patterns that have a path in common with another one."""
        nodes = [self._root]
        for segment in one.ends[0]:
            yield from (v for node in nodes for other, v in node.open if overlap(other, one))
            nodes = [node.below[s] for node in nodes for s in _meeting(segment, node.below)]
        for node in nodes:
            beside = node.all() if one.is_open else (*node.open, *node.closed)
            yield from (v for other, v in beside if overlap(other, one))


def _meeting(segment: str, known: Mapping[str, object]) -> list[str]:
    """Return the known segments that have a text in common with a segment."""
    if segment == ONE:
        return [other for other in known if other]
    return [other for other in ((segment, ONE) if segment else ("",)) if other in known]


def example(pattern: Template) -> str:
    """Return a path of the pattern, for a message."""
    fresh = _fresh(pattern.segments)
    return "/" + "/".join(fresh if _is_operator(s) else s for s in pattern.segments)


def _split(text: str) -> tuple[str, ...]:
    return tuple(text[1:].split("/"))


def _is_operator(segment: str) -> bool:
    return segment in (ONE, ANY)


def _regex_of(segment: str) -> str:
    return _REGEX.get(segment) or _METACHARACTERS.sub(r"\\\g<0>", segment)


def _accepts(part: str, segment: str) -> bool:
    return part in (ANY, segment) or (part == ONE and segment != "")


def _advance(parts: tuple[str, ...], positions: Iterable[int], segment: str) -> frozenset[int]:
    """Return where in ``parts`` one may stand after reading ``segment`` at ``positions``."""
    return frozenset(
        then
        for at in positions
        if at < len(parts) and _accepts(parts[at], segment)
        for then in ((at, at + 1) if parts[at] == ANY else (at + 1,))
    )


def _fresh(parts: tuple[str, ...]) -> str:
    return next(name for n in count() if (name := f"x{n or ''}") not in parts)


def _covers(outer: str, inner: str) -> bool:
    return outer == inner or (outer == ONE and inner != "")


def _meet(one: str, other: str) -> bool:
    return _covers(one, other) or _covers(other, one)
