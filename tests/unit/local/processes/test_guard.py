"""Children and strays, with processes of this test and without those of anybody else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from apirule.local.processes import guard

FOREVER = ("sleep", "1000")


def test_children_are_told_alike_where_the_kernel_does_not_list_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pid, stat in ((7, f"7 (a b) c) S {os.getpid()} 7 7"), (8, "8 (sh) S 1 8 8")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(stat)
    (tmp_path / "9").mkdir()  # has ended meanwhile
    with subprocess.Popen(FOREVER) as child:
        listed = guard.children()
        child.kill()
    monkeypatch.setattr(guard, "_PROC", tmp_path)

    assert child.pid in listed
    assert guard.children() == [7]


STRAYS = """
import os, subprocess, sys
from apirule.local.processes import guard
guard.adopt_orphans()
ours = subprocess.Popen(["sleep", "1000"])
# Each ends as soon as it has started the next: nobody but the last is there to be found.
subprocess.run(["sh", "-c", "(env -i setsid sh -c 'sleep 1000 & sleep 1000' &)"])
while len(guard.children()) < 2:
    pass
guard.end_strays({ours.pid})
print(guard.children() == [ours.pid])
ours.kill()
guard.end_strays(())
print(guard.children())
"""


def test_strays_end_with_all_they_leave_and_nobody_else() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STRAYS], capture_output=True, text=True, check=True, timeout=30
    )

    assert done.stdout.split() == ["True", "[]"]
