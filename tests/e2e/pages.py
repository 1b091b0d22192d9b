"""The blocks of our documentation, taken out of a page and run as they stand.

Before a block stands what it is: ``<!-- run: NAME -->`` for the shell, ``<!-- apply -->`` for
manifests, ``<!-- file: NAME -->`` for a file of the reader's.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"<!-- (run|apply|file)(?:: ([\w.]+))? -->\n```\w+\n(.*?)```", re.DOTALL)


class Block(NamedTuple):
    kind: str
    name: str
    text: str

    @property
    def script(self) -> str:
        """What a reader does with it."""
        if self.kind == "run":
            return self.text
        if self.kind == "apply":
            return f"apirule apply --wait -f - <<'EOF'\n{self.text}EOF\n"
        return f"cat > {self.name} <<'EOF'\n{self.text}EOF\n"

    @property
    def exports(self) -> str:
        """What later blocks find in their shell."""
        lines = self.text.splitlines() if self.kind == "run" else []
        return "".join(f"{line}\n" for line in lines if line.startswith(("export ", "eval ")))

    @property
    def promised(self) -> list[str]:
        """The statuses that its comments name."""
        return re.findall(r"^# HTTP/\S+ (\d+)", self.text, re.MULTILINE)


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in _BLOCK.findall(page.read_text())]


def shell_blocks_not_run(page: Path) -> int:
    text = page.read_text()
    shells = len(re.findall(r"^```(?:sh|bash|console)$", text, re.MULTILINE))
    return shells - sum(block.kind == "run" for block in blocks(page))


def with_ports(script: str, ports: Mapping[int, int]) -> str:
    """Return a script for an instance that has other ports than those on the page."""
    for old, new in ports.items():
        script = script.replace(f":{old}", f":{new}").replace(f" {old} ", f" {new} ")
    return script


def run(script: str, *, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a script in a shell of its own that stops at the first mistake, and finds apirule."""
    return subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        cwd=cwd,
        env={**env, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def statuses(text: str) -> list[str]:
    """Return those of the answers shown. One may begin where a body without a line break ends."""
    return re.findall(r"HTTP/(?:2|1\.1) (\d{3})\b", text)
