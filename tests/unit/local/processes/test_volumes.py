import base64
import stat
from pathlib import Path
from typing import Any

import pytest

from apirule.local.processes.environment import Surroundings
from apirule.local.processes.mounts import ConfigError
from apirule.local.processes.volumes import File, Volume, read, write

OBJECTS: dict[tuple[str, str], dict[str, Any]] = {
    ("ConfigMap", "settings"): {
        "data": {"app.yaml": "level: debug", "run.sh": "true"},
        "binaryData": {"logo": base64.b64encode(b"\x89PNG").decode()},
    },
    ("Secret", "keys"): {"data": {"token": base64.b64encode(b"\xff").decode()}},
    ("ConfigMap", "odd"): {"data": {"../x": "out"}},
}
FOLDER = Path("/v")


def lookup(kind: str, name: str) -> dict[str, Any] | None:
    return OBJECTS.get((kind, name))


AROUND = Surroundings(lookup, "kyma.localhost", {"cpu": 4, "memory": 8 << 30})


def volume(**source: Any) -> Volume:
    pod = {
        "metadata": {"name": "web", "labels": {"b": "2", "a": "1"}},
        "spec": {
            "containers": [{"name": "app", "resources": {"limits": {"cpu": "2"}}}],
            "volumes": [{"name": "one", **source}],
        },
    }
    return read(pod, AROUND, FOLDER)["one"]


def files(**source: Any) -> dict[str, File]:
    found = volume(**source).files
    assert found is not None
    return dict(found)


def test_a_configmap_is_a_folder_of_files() -> None:
    assert files(configMap={"name": "settings"}) == {
        "app.yaml": File(b"level: debug"),
        "run.sh": File(b"true"),
        "logo": File(b"\x89PNG"),
    }


def test_keys_can_be_chosen_and_files_have_modes() -> None:
    items = [{"key": "run.sh", "path": "bin/run", "mode": 0o755}, {"key": "logo", "path": "l"}]

    assert files(configMap={"name": "settings", "items": items, "defaultMode": 0o600}) == {
        "bin/run": File(b"true", 0o755),
        "l": File(b"\x89PNG", 0o600),
    }


def test_a_secret_is_a_folder_of_bytes() -> None:
    assert files(secret={"secretName": "keys"}) == {"token": File(b"\xff")}


def test_a_pod_can_read_about_itself() -> None:
    limit = {"containerName": "app", "resource": "limits.cpu"}
    items = [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}},
        {"path": "cpu", "resourceFieldRef": limit},
    ]

    assert files(downwardAPI={"items": items}) == {
        "labels": File(b'a="1"\nb="2"\n'),
        "name": File(b"web"),
        "cpu": File(b"2"),
    }


def test_sources_can_share_a_folder() -> None:
    sources = [{"configMap": {"name": "settings"}}, {"secret": {"name": "keys"}}]

    assert files(projected={"sources": sources}).keys() == {"app.yaml", "run.sh", "logo", "token"}


def test_what_is_optional_may_be_missing() -> None:
    assert files(configMap={"name": "none", "optional": True}) == {}
    missing = {"items": [{"key": "none", "path": "x"}], "optional": True}
    assert files(configMap={"name": "settings", **missing}) == {}


def test_a_folder_of_the_pod_and_one_of_the_machine() -> None:
    assert volume(emptyDir={}) == volume() == Volume(FOLDER / "one")
    assert volume(hostPath={"path": "/srv"}) == Volume(Path("/srv"), is_own=False)
    made = volume(hostPath={"path": "/srv", "type": "DirectoryOrCreate"})
    assert made == Volume(Path("/srv"), is_own=True)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"configMap": {"name": "none"}}, 'configmap "none" not found'),
        ({"secret": {"secretName": "none"}}, 'secret "none" not found'),
        (
            {"configMap": {"name": "settings", "items": [{"key": "none", "path": "x"}]}},
            "references non-existent config key: none",
        ),
        ({"configMap": {"name": "odd"}}, "leads out of its volume"),
        (
            {"configMap": {"name": "settings", "items": [{"key": "logo", "path": "/etc/x"}]}},
            "leads out of its volume",
        ),
        ({"persistentVolumeClaim": {"claimName": "x"}}, "persistentVolumeClaim do not exist here"),
        ({"projected": {"sources": [{"serviceAccountToken": {}}]}}, "serviceAccountToken do not"),
        ({"hostPath": {"path": "relative"}}, "hostPath do not exist here"),
        ({"name": "../one", "emptyDir": {}}, "cannot be the name of a volume"),
    ],
)
def test_what_cannot_be_had_is_an_error(source: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        volume(**source)


def test_files_follow_their_source(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    write(Volume(folder, {"a": File(b"1"), "b/c": File(b"2", 0o755), "b/d": File(b"3")}))
    (folder / "link").symlink_to(tmp_path)

    write(Volume(folder, {"a": File(b"new"), "e/f": File(b"4")}))

    found = {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}
    assert found == {"a": "new", "e/f": "4"}
    assert not (folder / "b").exists()
    assert not (folder / "link").is_symlink()
    assert tmp_path.exists()


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    write(Volume(tmp_path / "one", {"run": File(b"1", 0o755), "text": File(b"2", 0o644)}))

    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "one").iterdir()}

    assert modes == {"run": 0o700, "text": 0o600}
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o700


def test_what_programs_put_into_their_folder_stays(tmp_path: Path) -> None:
    write(Volume(tmp_path / "one"))
    (tmp_path / "one" / "x").touch()

    write(Volume(tmp_path / "one"))

    assert (tmp_path / "one" / "x").exists()


def test_a_folder_of_the_machine_is_left_alone(tmp_path: Path) -> None:
    write(Volume(tmp_path / "none", is_own=False))

    assert not (tmp_path / "none").exists()
