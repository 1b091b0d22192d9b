"""logs: rotation, and refusals in words."""

import json
from pathlib import Path

import pytest

from apirule.cli import denials
from apirule.cli.logs import Line, Log, Tail


def texts(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


def test_only_new_and_complete_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_text("one\ntw")
    tail = Tail(Log("app", path))

    first = texts(list(tail.read()))
    with path.open("a") as file:
        file.write("o\nthree\n")
    second = texts(list(tail.read()))
    tail.close()

    assert (first, second) == (["one\n"], ["two\n", "three\n"])


def test_a_rotation_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_text("one\n")
    tail = Tail(Log("app", path))
    assert texts(list(tail.read())) == ["one\n"]

    with path.open("a") as file:
        file.write("two\n")
    path.replace(tmp_path / "app.log.1")
    path.write_text("three\n")

    assert texts(list(tail.read())) == ["two\n", "three\n"]
    tail.close()


def test_a_log_that_does_not_exist_yet_is_waited_for(tmp_path: Path) -> None:
    tail = Tail(Log("app", tmp_path / "app.log"))
    assert list(tail.read()) == []

    (tmp_path / "app.log").write_text("one\n")

    assert texts(list(tail.read())) == ["one\n"]
    tail.close()


def entry(details: str, **more: object) -> str:
    return json.dumps({"details": details, "status": 403, **more})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (entry("jwt_authn_access_denied{Jwt_is_expired}"), "Jwt is expired"),
        (
            entry(
                "rbac_access_denied_matched_policy[none]",
                policy={"apirule_challenge_shadow_engine_result": "allowed"},
            ),
            "it has no token, and this path asks for one",
        ),
        (
            entry(
                "rbac_access_denied_matched_policy[none]",
                policy={"apirule_challenge_shadow_engine_result": "allowed"},
                issuer="https://issuer.example",
            ),
            "its token lacks a scope, an audience or another claim that this path asks for",
        ),
        (
            entry("rbac_access_denied_matched_policy[none]"),
            "no rule allows this caller, path and method with what the token holds",
        ),
        (
            entry("rbac_access_denied_matched_policy[ns[shop]-policy[closed]-rule[0]]"),
            "AuthorizationPolicy shop/closed denies it (rule 1)",
        ),
        (entry("ext_authz_denied"), "the external authorizer refused it"),
        (entry("route_not_found"), "no APIRule has this host, path and method"),
    ],
)
def test_a_refusal_is_told_in_words(line: str, words: str) -> None:
    found = denials.read(line)

    assert found is not None
    assert denials.reason(found) == words


@pytest.mark.parametrize(
    "line",
    ["", "plain text", "[]", "3", '{"details": "via_upstream", "status": 403}', '{"status": 401}'],
)
def test_what_the_program_answered_is_its_own(line: str) -> None:
    assert denials.read(line) is None
