import os
import stat
from pathlib import Path

import pytest

from apirule import settings
from apirule.problem import SetupError
from apirule.settings import StateFolder


@pytest.fixture
def deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateFolder:
    """A state folder whose path is too long for sockets; the short place is the test's own."""
    monkeypatch.setattr(settings, "SHORT", tmp_path / "short")
    (tmp_path / "short").mkdir()
    return StateFolder(tmp_path / ("x" * 100))


def test_sockets_are_in_the_state_folder_if_its_path_is_short() -> None:
    assert StateFolder(Path("/s")).run == Path("/s/run")


def test_where_sockets_are_depends_on_the_state_folder_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long = Path("/" + "x" * 100)
    before = StateFolder(long).run
    monkeypatch.setenv("TMPDIR", "/var/tmp")

    assert StateFolder(long).run == before
    assert before.parent == Path("/tmp")
    assert StateFolder(long / "y").run != before


def test_the_folders_belong_to_their_owner_alone(deep: StateFolder) -> None:
    deep.run.mkdir(mode=0o755)

    deep.create()

    modes = {stat.S_IMODE(folder.stat().st_mode) for folder in (deep.root, deep.run, deep.pki)}
    assert modes == {0o700}


def test_a_link_in_the_place_of_the_sockets_is_refused(deep: StateFolder, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    deep.run.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(SetupError, match="is a link") as refusal:
        deep.create()

    assert refusal.value.fix.startswith("Remove it, or choose")
    assert stat.S_IMODE((tmp_path / "elsewhere").stat().st_mode) == 0o755


def test_a_link_to_the_state_folder_is_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "big-disk").mkdir()
    (tmp_path / "state").symlink_to(tmp_path / "big-disk")

    StateFolder(tmp_path / "state").create()

    assert (tmp_path / "big-disk" / "pki").is_dir()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(deep: StateFolder) -> None:
    deep.run.mkdir(mode=0o777)
    os.chown(deep.run, 12345, 12345)

    with pytest.raises(SetupError, match="belongs to another user"):
        deep.create()
