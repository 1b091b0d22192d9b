from pathlib import Path
from typing import Any

import pytest

from apirule.local.processes.mounts import ConfigError, of, relocate

FOLDERS = {"config": Path("/state/volumes/config"), "data": Path("/state/volumes/data")}
PLACES = {"/etc/app": "/v/config", "/tmp": "/v/tmp", "/tmp/cache": "/v/cache"}


def container(*mounts: dict[str, Any]) -> dict[str, Any]:
    return {"name": "app", "volumeMounts": list(mounts)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/etc/app", "/v/config"),
        ("/etc/app/x.yaml", "/v/config/x.yaml"),
        ("--config=/etc/app/x.yaml", "--config=/v/config/x.yaml"),
        ("cat '/etc/app/x' /etc/app/y|sort", "cat '/v/config/x' /v/config/y|sort"),
        ("/etc/app:/usr/lib", "/v/config:/usr/lib"),
        ("file:///etc/app/x", "file:///v/config/x"),
        ("sqlite:////tmp/a.db", "sqlite:////v/tmp/a.db"),
        ("/tmp/cache/x /tmp/x", "/v/cache/x /v/tmp/x"),
        ("/etc/apple", "/etc/apple"),
        ("/etc/app.yaml", "/etc/app.yaml"),
        ("/etc/app-2", "/etc/app-2"),
        ("/opt/etc/app", "/opt/etc/app"),
        ("./tmp/x", "./tmp/x"),
        ("$HOME/tmp", "$HOME/tmp"),
        ("${HOME}/tmp $(HOME)/tmp", "${HOME}/tmp $(HOME)/tmp"),
        ("http://host/tmp", "http://host/tmp"),
    ],
)
def test_a_path_of_a_mount_is_replaced_and_no_other(text: str, expected: str) -> None:
    assert relocate(text, PLACES) == expected


def test_without_mounts_a_text_stays_as_it_is() -> None:
    assert relocate("/etc/app", {}) == "/etc/app"


def test_a_container_finds_its_mounts_and_is_told_their_folders() -> None:
    found = of(
        container(
            {"name": "config", "mountPath": "/etc/app/"},
            {"name": "data", "mountPath": "/var/a", "subPath": "a"},
        ),
        FOLDERS,
    )

    assert found.places == {
        "/etc/app": "/state/volumes/config",
        "/var/a": "/state/volumes/data/a",
    }
    assert dict(found.variables()) == {
        "VOLUME_CONFIG": "/state/volumes/config",
        "VOLUME_DATA": "/state/volumes/data",
    }


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        ({"name": "none", "mountPath": "/x"}, 'no volume "none"'),
        ({"name": "data", "mountPath": "x"}, 'cannot be mounted at "x"'),
        ({"name": "data", "mountPath": "/"}, 'cannot be mounted at "/"'),
        ({"name": "data", "mountPath": "/x", "subPath": "../y"}, "leads out of its volume"),
        ({"name": "data", "mountPath": "/x", "subPath": "/y"}, "leads out of its volume"),
        ({"name": "data", "mountPath": "/x", "subPathExpr": "$(Y)"}, "write the path as subPath"),
    ],
)
def test_a_mount_that_makes_no_sense_is_an_error(mount: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        of(container(mount), FOLDERS)
