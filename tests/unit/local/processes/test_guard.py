"""Who carries a marker, by a /proc that changes between two looks."""

from pathlib import Path

import pytest

from apirule.local.processes import guard

MARKED = b"HOME=/\0APIRULE_SUPERVISED=t:app;\0"
OTHER = b"HOME=/\0"


class Proc:
    """A /proc of files. ``after`` says what each pause between two looks brings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.killed: list[int] = []
        self.looks = 0
        self.after: dict[int, tuple[int, bytes]] = {}

    def has(self, pid: int, environment: bytes, *, state: str = "S", flags: int = 0) -> None:
        folder = self.folder / str(pid)
        folder.mkdir(exist_ok=True)
        (folder / "environ").write_bytes(environment)
        (folder / "stat").write_text(f"{pid} (a b) c) {state} 1 1 1 0 -1 {flags} 0 0")

    def kill(self, pid: int, _: int) -> None:
        self.killed.append(pid)
        self.has(pid, b"", state="Z")

    def pause(self, _: float) -> None:
        self.looks += 1
        if self.looks in self.after:
            self.has(*self.after[self.looks])


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proc:
    made = Proc(tmp_path)
    monkeypatch.setattr(guard, "_PROC", tmp_path)
    monkeypatch.setattr(guard, "kill", made.kill)
    monkeypatch.setattr("apirule.local.processes.guard.time.sleep", made.pause)
    return made


def test_who_carries_the_marker_is_killed_and_nobody_else(proc: Proc) -> None:
    proc.has(7, MARKED)
    proc.has(8, OTHER)

    guard.kill_marked("t:app;")

    assert proc.killed == [7]


def test_who_is_being_replaced_is_waited_for(proc: Proc) -> None:
    # In the middle of execve: its environment comes a moment later.
    proc.has(7, b"")
    proc.after = {2: (7, MARKED)}

    guard.kill_marked("t:app;")

    assert proc.killed == [7]


def test_who_was_started_without_an_environment_holds_nothing_up_for_ever(proc: Proc) -> None:
    proc.has(7, b"")

    guard.kill_marked("t:app;")

    assert proc.killed == []
    assert proc.looks < 10


@pytest.mark.parametrize(
    ("state", "flags"), [("Z", 0), ("S", 0x00200000)], ids=["zombie", "thread of the kernel"]
)
def test_what_is_no_program_is_not_waited_for(proc: Proc, state: str, flags: int) -> None:
    proc.has(7, b"", state=state, flags=flags)

    guard.kill_marked("t:app;")

    assert proc.looks == 0
