"""Which kubectl the tests take, and what is said where there is none."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "find-kubectl"


def find(folder: Path, *kubectl: str) -> subprocess.CompletedProcess[str]:
    """Run the script where there is no Go, and a kubectl only if its lines are given."""
    (folder / "scripts").mkdir()
    shutil.copy(SCRIPT, folder / "scripts" / "find-kubectl")
    tools = folder / "tools"
    tools.mkdir()
    for name in ("bash", "dirname"):
        (tools / name).symlink_to(str(shutil.which(name)))
    if kubectl:
        (tools / "kubectl").write_text("\n".join(["#!/usr/bin/env bash", *kubectl]))
        (tools / "kubectl").chmod(0o755)
    return subprocess.run(
        [tools / "bash", folder / "scripts" / "find-kubectl"],
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        check=False,
    )


def says(version: str) -> str:
    return f"""echo '{{"clientVersion": {{"minor": "32+", "gitVersion": "{version}"}}}}'"""


@pytest.mark.parametrize("version", ["v1.27.0", "v1.32.4-dispatcher", "v2.0.1"])
def test_a_kubectl_that_is_new_enough_is_taken(tmp_path: Path, version: str) -> None:
    done = find(tmp_path, says(version))

    assert done.stdout == f"{tmp_path}/tools/kubectl\n"


@pytest.mark.parametrize(
    ("kubectl", "why"),
    [
        ([], "There is no kubectl on PATH."),
        ([says("v1.26.15")], "/tools/kubectl is v1.26.15."),
        (["exit 1"], "/tools/kubectl does not tell its version."),
    ],
)
def test_without_one_it_is_said_what_is_needed_and_why(
    tmp_path: Path, kubectl: list[str], why: str
) -> None:
    done = find(tmp_path, *kubectl)

    assert (done.returncode, done.stdout) == (3, "")
    assert "kubectl >= 1.27" in done.stderr
    assert done.stderr.strip().endswith(why)
