"""The kubectl programs of this machine, and how tests run them.

``kubectl`` from PATH, siblings of it that carry a version in their name (``kubectl.1.30``), and the
one that ``scripts/find-kubectl --newest`` builds.
"""

import json
import os
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_TIMEOUT_S = 60
_BUILT = Path(__file__).parents[2] / ".cache" / "bin" / "kubectl"


@dataclass(frozen=True)
class Kubectl:
    """One kubectl with its own home, so that no cache or configuration is shared."""

    program: Path
    kubeconfig: Path
    home: Path

    def run(
        self, *arguments: str, stdin: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.program, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
            env=self.environment(**environment),
            cwd=self.home,
        )

    def run_until(self, says: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run what does not end by itself until it has printed this, or its time is up."""
        lines = []
        with subprocess.Popen(
            [self.program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(),
            cwd=self.home,
        ) as process:
            assert process.stdout is not None
            timer = threading.Timer(_TIMEOUT_S, process.kill)
            timer.start()
            for line in process.stdout:
                lines.append(line)
                if says in line:
                    break
            timer.cancel()
            process.terminate()
            _, errors = process.communicate()
        return subprocess.CompletedProcess(arguments, process.returncode, "".join(lines), errors)

    def __call__(self, *arguments: str, stdin: str = "", **environment: str) -> str:
        """Run and return what it prints. It must succeed."""
        done = self.run(*arguments, stdin=stdin, **environment)
        said = f"kubectl {' '.join(arguments)}: {done.stdout}{done.stderr}"
        assert done.returncode == 0, said
        return done.stdout

    def environment(self, **more: str) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "KUBECONFIG": str(self.kubeconfig),
            "KUBECACHEDIR": str(self.home / "cache"),
            **more,
        }


@cache
def programs() -> tuple[Path, ...]:
    """Return every kubectl there is, the versioned ones in order, or else the one from PATH."""
    found = shutil.which("kubectl")
    built = (_BUILT,) if os.access(_BUILT, os.X_OK) else ()
    if found is None:
        return built
    versioned = [
        path
        for path in Path(found).resolve().parent.glob("kubectl.*")
        if os.access(path, os.X_OK) and path.name.count(".") > 1
    ]
    # A dispatcher picks one of the others; alone it is an ordinary kubectl.
    others = tuple(sorted(versioned)) or (Path(found),)
    known = {label(program) for program in others}
    return (*others, *(program for program in built if label(program) not in known))


@cache
def version(program: Path) -> str:
    """Return the version of a kubectl, such as ``1.37.2``."""
    said = subprocess.run(
        [program, "version", "--client", "-o", "json"],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=True,
    )
    whole: str = json.loads(said.stdout)["clientVersion"]["gitVersion"]
    found = re.match(r"v(\d+\.\d+\.\d+)", whole)
    assert found is not None, whole
    return found[1]


def label(program: Path) -> str:
    """Return the minor version of a kubectl, such as ``1.37``."""
    if program.name != "kubectl":
        return program.name.removeprefix("kubectl.")
    return ".".join(version(program).split(".")[:2])
