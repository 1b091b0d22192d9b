"""The state folder: for its owner alone, told from any other, deleted without its guests."""

import os
from pathlib import Path

import pytest

from apirule.problem import SetupError
from apirule.settings import Settings, StateFolder


def settings(root: Path, https_port: int = 8443) -> Settings:
    return Settings(state=str(root), https_port=https_port)


def claim(root: Path) -> StateFolder:
    folder = StateFolder(root)
    folder.claim(settings(root))
    return folder


def test_a_new_folder_and_an_empty_one_become_ours(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(mode=0o700)

    for root in (tmp_path / "new", tmp_path / "empty"):
        folder = claim(root)

        assert folder.read_settings() == settings(root)
        assert root.stat().st_mode & 0o077 == 0


def test_what_up_decided_before_stays_until_it_is_decided_anew(tmp_path: Path) -> None:
    folder = claim(tmp_path / "state")

    folder.claim(settings(folder.root, https_port=9443))
    claimed = folder.read_settings()
    folder.write_settings(settings(folder.root, https_port=9443))

    assert claimed == settings(folder.root)
    assert folder.read_settings() == settings(folder.root, https_port=9443)


@pytest.mark.parametrize("content", [None, "{}", '{"editor.fontSize": 12}'])
def test_a_folder_with_something_else_in_it_is_left_alone(
    tmp_path: Path, content: str | None
) -> None:
    root = tmp_path / "work"
    root.mkdir(mode=0o755)
    (root / "thesis.txt").write_text("years")
    if content is not None:
        (root / "settings.json").write_text(content)
    before = {path.name: path.stat().st_mode for path in (root, *root.iterdir())}

    with pytest.raises(SetupError):
        claim(root)
    with pytest.raises(SetupError):
        StateFolder(root).purge()

    assert {path.name: path.stat().st_mode for path in (root, *root.iterdir())} == before


def test_a_folder_that_others_may_enter_is_refused_with_the_mend(tmp_path: Path) -> None:
    root = tmp_path / "shared"
    root.mkdir()
    root.chmod(0o750)

    with pytest.raises(SetupError) as raised:
        claim(root)

    assert f"chmod 700 {root}" in raised.value.fix
    assert (root.stat().st_mode & 0o777, list(root.iterdir())) == (0o750, [])


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    for root in (tmp_path / "file", tmp_path / "file/state"):
        with pytest.raises(SetupError, match="cannot be made"):
            claim(root)


def test_another_users_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    monkeypatch.setattr("os.getuid", lambda: 12345)

    with pytest.raises(SetupError, match="belongs to another user"):
        claim(tmp_path / "state")


def test_a_link_in_place_of_a_folder_is_refused_but_for_the_whole(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    folder = claim(tmp_path / "link")
    folder.pods.rmdir()
    folder.pods.symlink_to(tmp_path)

    with pytest.raises(SetupError, match="pods is a link"):
        claim(folder.root)


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


def test_what_somebody_else_put_in_the_place_of_the_sockets_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apirule.settings.SHORT", tmp_path)
    folder = StateFolder(tmp_path / ("x" * 100))
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    folder.run.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(SetupError, match="is a link"):
        claim(folder.root)

    assert (tmp_path / "elsewhere").stat().st_mode & 0o777 == 0o755


def test_a_purge_deletes_what_apirule_made_and_says_what_it_left(tmp_path: Path) -> None:
    folder = claim(tmp_path / "state")
    for path in (folder.database, folder.logs / "a.log", folder.kubeconfig, folder.ca_certificate):
        path.write_text("ours")
    folder.database.with_name("api.db-wal").write_text("ours")
    (folder.root / "thesis.txt").write_text("years")

    assert folder.purge() == ["thesis.txt"]
    assert [path.name for path in folder.root.iterdir()] == ["thesis.txt"]


def test_a_purge_of_nothing_else_takes_the_folder_along(tmp_path: Path) -> None:
    folder = claim(tmp_path / "state")

    assert folder.purge() == []
    assert not folder.root.exists()


def test_a_purge_does_not_follow_links(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thesis.txt").write_text("years")
    folder = claim(tmp_path / "state")
    folder.pods.rmdir()
    folder.pods.symlink_to(elsewhere)

    folder.purge()

    assert (elsewhere / "thesis.txt").exists()
    assert not folder.root.exists()


def test_settings_are_never_seen_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else finds the folder in the moment before the settings have their name."""
    root = tmp_path / "state"
    link = os.link

    def meanwhile(source: Path, target: Path) -> None:
        monkeypatch.setattr("os.link", link)
        claim(root)
        link(source, target)

    monkeypatch.setattr("os.link", meanwhile)

    assert claim(root).read_settings() == settings(root)
