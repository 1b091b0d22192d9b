"""Small words of the command line: templates, conditions, kubeconfigs, unexpected ends."""

from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from apirule.cli import kubeconfigs, mishaps, waiting
from apirule.cli.discovery import targets
from apirule.cli.jsonpath import template
from apirule.kube.errors import ApiError, Forbidden, Unauthorized
from apirule.problem import SetupError

POD = {
    "metadata": {"name": "a", "labels": {"app.kubernetes.io/name": "x"}},
    "status": {"ready": True, "conditions": [{"type": "Ready", "status": "True"}]},
}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{.metadata.name}", "a"),
        ("metadata.name", "a"),
        ("{metadata.name}", "a"),
        ("{.metadata.name}{'\\n'}", "a\n"),
        ("name={.metadata.name} ready={.status.ready}", "name=a ready=true"),
        ('{.status.conditions[?(@.type=="Ready")].status}', "True"),
        ("{.metadata.labels.app\\.kubernetes\\.io/name}", "x"),
        ("{.nothing}", ""),
    ],
)
def test_a_jsonpath_is_filled_as_kubectl_does(text: str, filled: str) -> None:
    assert template(text)(POD) == filled


@pytest.mark.parametrize("text", ["{range .items[*]}{.a}{end}", "{.a[}", "{.a", "{.a}}", "a{.b}{"])
def test_a_jsonpath_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(click.UsageError):
        template(text)


@pytest.mark.parametrize(
    ("wanted", "obj", "met"),
    [
        ("delete", None, True),
        ("delete", POD, False),
        ("create", POD, True),
        ("condition=Ready", POD, True),
        ("condition=ready=false", POD, False),
        ("condition=Ready", None, False),
        ("jsonpath={.metadata.name}=a", POD, True),
        ("jsonpath='{.metadata.name}'=a", POD, True),
        ("jsonpath={.metadata.name}=b", POD, False),
        ("jsonpath={.metadata.name}", POD, True),
        ("jsonpath={.nothing}", POD, False),
    ],
)
def test_a_condition_is_judged(wanted: str, obj: dict[str, Any] | None, met: bool) -> None:
    assert waiting.parse(wanted)(obj) is met


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("pods/a", [("pods", ("a",))]),
        ("pods a", [("pods", ("a",))]),
        ("pods", [("pods", ())]),
        ("cm a b", [("cm", ("a", "b"))]),
        ("po,svc", [("po", ()), ("svc", ())]),
        ("po,svc a", [("po", ("a",)), ("svc", ("a",))]),
        ("po/a svc/b", [("po", ("a",)), ("svc", ("b",))]),
    ],
)
def test_objects_are_named_as_for_kubectl(
    words: str, meant: list[tuple[str, tuple[str, ...]]]
) -> None:
    assert targets(words.split()) == meant


@pytest.mark.parametrize("words", ["po/a b", "po/", "/a"])
def test_two_ways_of_naming_objects_are_not_mixed(words: str) -> None:
    with pytest.raises(click.UsageError):
        targets(words.split())


OURS = yaml.safe_dump(
    {
        "clusters": [{"name": "apirule", "cluster": {"server": "https://127.0.0.1:6443"}}],
        "users": [{"name": "apirule", "user": {"client-key-data": "x"}}],
        "contexts": [{"name": "apirule", "context": {"cluster": "apirule", "user": "apirule"}}],
    }
)


def test_merging_keeps_other_clusters_and_replaces_ours(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(
        yaml.safe_dump({"users": [{"name": "prod", "user": {}}], "preferences": {"a": 1}})
    )

    kubeconfigs.merge(path, OURS, name="mine")
    kubeconfigs.merge(path, OURS, name="mine")

    merged = yaml.safe_load(path.read_text())
    assert [user["name"] for user in merged["users"]] == ["prod", "mine"]
    assert merged["contexts"] == [{"name": "mine", "context": {"cluster": "mine", "user": "mine"}}]
    assert merged["current-context"] == "mine"
    assert merged["preferences"] == {"a": 1}
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("text", ["- a list", "users: 3", "a: b: c", "{"])
def test_what_is_no_kubeconfig_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)

    with pytest.raises(SetupError):
        kubeconfigs.merge(path, OURS, name="mine")

    assert path.read_text() == text


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SetupError("It lacks.", "Give it."), 3),
        (PermissionError(13, "Permission denied", "/x"), 3),
        (Unauthorized(401, "no"), 4),
        (Forbidden(403, "no"), 4),
        (ApiError(422, "no"), 1),
        (ExceptionGroup("all", [SetupError("It lacks.", "Give it.")]), 3),
        (KeyError("x"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_unexpected_end_is_one_sentence(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mishaps.tell(error) == code
    assert capsys.readouterr().err.startswith("error: ")
