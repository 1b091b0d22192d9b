"""The README from nothing: a clean clone, no cache, as whoever runs this and as an ordinary user.

It takes minutes and the package index, so it runs only when asked for: ``make newcomer``.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ports import free_ports
from tests.e2e import pages

from apirule.cli import surroundings

PORTS = {8443: "APIRULE_HTTPS_PORT", 8080: "APIRULE_HTTP_PORT", 6443: "APIRULE_API_PORT"}
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NOBODY = 65534
RECENT = "import sys; sys.exit(sys.version_info < (3, 11))"

Run = Callable[[str], subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.newcomer


@pytest.fixture(params=["whoever runs this", "an ordinary user"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Run a script in a clean clone, with a home that holds nothing else."""
    drops = request.param == "an ordinary user"
    if drops and os.geteuid() != 0:
        pytest.skip("whoever runs this is an ordinary user")
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if drops else []
    # Where a login shell would find things; what only this user can read is of no use.
    path = SYSTEM_PATH if drops else os.environ["PATH"]
    python = shutil.which("python3", path=path)
    if python is None or subprocess.run([*user, python, "-c", RECENT], check=False).returncode:
        pytest.skip("there is no Python >= 3.11 for that user")
    of_pip = {k: v for k, v in os.environ.items() if k.startswith("PIP_") or "proxy" in k.lower()}
    with tempfile.TemporaryDirectory(prefix="newcomer-") as folder:
        home, clone = Path(folder), Path(folder) / "apirule"
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", pages.ROOT, clone], check=True)
        if drops:
            subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", home], check=True)
        taken = [port for port in PORTS if surroundings.why_not_free(port)]
        others = dict(zip(taken, free_ports(len(taken)), strict=True))
        environment = {**of_pip, "HOME": folder, "PATH": path, "PIP_NO_CACHE_DIR": "1"}
        environment |= {PORTS[port]: str(other) for port, other in others.items()}

        def call(script: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [*user, "bash", "-eu", "-o", "pipefail", "-c", pages.with_ports(script, others)],
                cwd=clone,
                env={**environment, "PYTHON": python},
                capture_output=True,
                text=True,
                check=False,
            )

        try:
            yield call
        finally:
            call(".venv/bin/apirule down --purge")


def test_two_commands_of_the_readme_show_the_point_of_it(run: Run) -> None:
    blocks = {block.name: block.text for block in pages.blocks(pages.ROOT / "README.md")}

    demo = run(blocks["demo"])
    first = run(blocks["first"])
    credentials = run('export PATH="$PWD/.venv/bin:$PATH"\n' + blocks["credentials"])
    down = run("make down")

    assert demo.returncode == 0, f"{demo.stdout}\n{demo.stderr}"
    for done in (demo, first):
        assert pages.statuses(done.stdout) == ["401", "200"]
    assert '"access_token"' in credentials.stdout
    assert (down.returncode, "stopped" in down.stdout) == (0, True)
