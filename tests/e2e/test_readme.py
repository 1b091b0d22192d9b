"""The README's blocks, run as they stand by a newcomer's shell."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"<!-- run: (\w+) -->\n```sh\n(.*?)```", re.DOTALL)
BLOCKS = dict(BLOCK.findall((ROOT / "README.md").read_text()))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A newcomer's home: the default ports, the default state folder, nothing left behind."""
    folder = tmp_path_factory.mktemp("home")
    yield folder
    run("apirule down --purge", folder)


def run(script: str, home: Path) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("APIRULE_", "XDG_", "KUBE"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        cwd=ROOT,
        env={**kept, "HOME": str(home), "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_blocks_do_what_they_say(home: Path) -> None:
    """In order, in one shell each but for what a block exports: later blocks use earlier ones."""
    exported = ""
    for name, block in BLOCKS.items():
        done = run(exported + block, home)

        assert done.returncode == 0, f"{name}:\n{done.stdout}\n{done.stderr}"
        promised = re.findall(r"^# (?:HTTP/2|HTTP/1.1) (\d+)", block, re.MULTILINE)
        answered = re.findall(r"(?:HTTP/2|HTTP/1.1) (\d{3})\b", done.stdout)
        assert answered[: len(promised)] == promised, f"{name}:\n{done.stdout}\n{done.stderr}"
        exported += "".join(
            f"{line}\n" for line in block.splitlines() if line.startswith(("export ", "eval "))
        )


def test_the_first_block_shows_the_refusal_and_the_answer(home: Path) -> None:
    done = run(BLOCKS["first"], home)

    assert 'www-authenticate: bearer realm="httpbin.kyma.localhost:8443"' in done.stdout.lower()
    assert '"Host": "httpbin.kyma.localhost:8443"' in done.stdout


def test_the_credential_flow_gives_a_bearer_token(home: Path) -> None:
    done = run(BLOCKS["credentials"], home)

    assert '"access_token"' in done.stdout
    assert '"token_type"' in done.stdout
