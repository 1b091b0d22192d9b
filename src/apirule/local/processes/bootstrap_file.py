"""What the Envoy of a Pod reads when it starts."""

from __future__ import annotations

import json
from pathlib import Path

from apirule.apis import core
from apirule.local.processes import envoy
from apirule.mesh import bootstrap
from apirule.mesh.proxy import proxy_of


def prepare(pod: core.Pod, folder: Path, *, xds_socket: Path, admin: str) -> list[str]:
    """Write the bootstrap of a Pod's proxy and return the command line to run it."""
    proxy = proxy_of(pod)
    if proxy is None:
        raise ValueError(f"{pod.ref} has no proxy")
    content = bootstrap.bootstrap(proxy, xds_socket=str(xds_socket), admin=admin)
    path = folder / "bootstrap.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(content, indent=1))
    return list(bootstrap.envoy_argv(str(envoy.binary()), str(path)))
