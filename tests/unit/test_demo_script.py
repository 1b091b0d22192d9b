"""scripts/demo, with an apirule and a curl that answer as a test wishes."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/demo"
RUNS = 'echo \'{"demo": "https://httpbin.example/headers"}\''


def demo(folder: Path, *, statuses: tuple[int, int], apirule: str) -> tuple[int, str]:
    """Run it; ``statuses`` are those of the answers without and with a token."""
    without, with_token = statuses
    programs = {
        "apirule": f'case "$1" in status) {apirule};; up) touch {folder}/up;; token) echo T;; esac',
        "curl": f'[ $# -gt 2 ] && echo "HTTP/2 {with_token}" || echo "HTTP/2 {without}"',
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    done = subprocess.run(
        [SCRIPT],
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def test_a_refusal_and_then_an_answer_are_what_it_is_about(tmp_path: Path) -> None:
    assert demo(tmp_path, statuses=(401, 200), apirule=RUNS) == (0, "")


@pytest.mark.parametrize(
    ("statuses", "wanted"),
    [((200, 200), 401), ((403, 200), 401), ((401, 401), 200), ((401, 503), 200)],
    ids=["open", "403 in place of 401", "the token refused", "nothing behind it"],
)
def test_any_other_answer_is_a_failure(
    tmp_path: Path, statuses: tuple[int, int], wanted: int
) -> None:
    code, said = demo(tmp_path, statuses=statuses, apirule=RUNS)

    assert code == 1
    assert f"The answer should have been {wanted}." in said


def test_what_is_not_ready_is_asked_all_the_same(tmp_path: Path) -> None:
    assert demo(tmp_path, statuses=(401, 200), apirule=f"{RUNS}; exit 1")[0] == 0
    assert not (tmp_path / "up").exists()


def test_what_does_not_run_is_started(tmp_path: Path) -> None:
    started = f"[ -e {tmp_path}/up ] || exit 3; {RUNS}"

    assert demo(tmp_path, statuses=(401, 200), apirule=started)[0] == 0
    assert (tmp_path / "up").exists()


def test_an_instance_without_the_demo_is_no_demo(tmp_path: Path) -> None:
    code, said = demo(tmp_path, statuses=(401, 200), apirule="echo '{\"demo\": null}'")

    assert (code, said) == (
        1,
        "apirule is running without the demo: end it first with `make down`.\n",
    )
