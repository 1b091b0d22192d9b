"""The blocks of docs/tutorial, run as they stand, each page in one go in a shell of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from instance import Instance

PAGES = sorted((Path(__file__).parents[2] / "docs/tutorial").glob("*.md"))
BLOCK = re.compile(r"<!-- run: (\w+) -->\n```sh\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_does_what_it_says(instance: Instance, page: Path, tmp_path: Path) -> None:
    exported = ""
    for name, block in BLOCK.findall(page.read_text()):
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", exported + block],
            cwd=tmp_path,
            env={
                **instance.environment,
                "HOME": str(tmp_path),
                "PATH": f"{Path(sys.executable).parent}:{instance.environment['PATH']}",
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

        assert done.returncode == 0, f"{name}:\n{done.stdout}\n{done.stderr}"
        promised = re.findall(r"^# HTTP/\S+ (\d+)", block, re.MULTILINE)
        answered = re.findall(r"HTTP/(?:2|1\.1) (\d{3})\b", done.stdout)
        assert answered == promised, f"{name}:\n{done.stdout}\n{done.stderr}"
        for words in re.findall(r"^# (Jwt .*)$", block, re.MULTILINE):
            assert words in done.stdout
        exported += "".join(
            f"{line}\n" for line in block.splitlines() if line.startswith(("export ", "eval "))
        )


def test_no_tutorial_has_a_block_that_is_not_run() -> None:
    for page in PAGES:
        assert page.read_text().count("```sh") == len(BLOCK.findall(page.read_text()))
