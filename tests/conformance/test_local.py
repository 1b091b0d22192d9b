"""Every case over the real gateway and sidecar; the application itself says what reached it."""

import re

import pytest
from tests.conformance import cases
from tests.conformance.cases import Try
from tests.conformance.lab import Lab
from tests.conformance.wire import Reply

CASES = dict(cases.load())


@pytest.mark.parametrize("name", CASES)
def test_the_answer_is_the_one_of_the_case(lab: Lab, name: str) -> None:
    attempt = CASES[name]
    before = len(lab.requests())

    reply = lab.send(attempt)

    seen = lab.requests()[before:]
    assert (reply.status in attempt.statuses, len(seen)) == (True, int(attempt.is_reached)), (
        f"{attempt.case}: {reply.status} {reply.headers} {reply.body[:200]!r}; witness: {seen}"
    )
    assert _unsaid(attempt, reply) == []
    if seen:
        assert _unseen(attempt, seen[0]) == []


def _unsaid(attempt: Try, reply: Reply) -> list[str]:
    """Return where the headers of the answer are not what they have to be."""
    wrong = [
        f"{name}: {reply.headers.get(name)!r} is not {pattern}"
        for name, pattern in attempt.says.items()
        if not re.fullmatch(pattern, reply.headers.get(name, ""))
    ]
    written = str(reply.headers)
    return wrong + [f"{text} in the answer" for text in attempt.silent if text in written]


def _unseen(attempt: Try, request: dict[str, object]) -> list[str]:
    """Return what the application saw and must not, and what it should have seen."""
    headers = [(str(name), str(value)) for name, value in request["headers"]]  # type: ignore[attr-defined]  # of JSON
    values = dict(headers) | {":target": str(request["target"]), ":method": str(request["method"])}
    wrong = [
        f"{text} reached it"
        for text in attempt.hidden
        if any(text in name or text in value for name, value in headers)
    ]
    return wrong + [
        f"{name}: {values.get(name)!r} is not {pattern}"
        for name, pattern in attempt.sees.items()
        if not re.fullmatch(pattern, values.get(name, ""))
    ]
