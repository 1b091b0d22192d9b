"""Which containers of a Pod may run now. Pure.

The proxy comes first and everything else once it is ready, so that no call of a program that
starts is refused. Then the init containers, each when the one before has done its work (or, if it
is a sidecar, has started), and then the rest. The end goes the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from apirule.apis.meta import Object
from apirule.mesh.proxy import PROXY_CONTAINER


def is_sidecar(init_container: Object) -> bool:
    """Say whether an init container is one that runs as long as its Pod."""
    return init_container.get("restartPolicy") == "Always"


def due(
    pod: Object,
    find: Callable[[str], Mapping[str, Any] | None],
    *,
    started: Collection[str],
    ready: Collection[str],
    calling_nobody: Collection[str] = (),
    without_proxy: bool = False,
) -> Iterator[tuple[Object, bool]]:
    """Yield the containers that may run, each with whether it is an init container.

    ``find`` returns the process of a container as it is once the caller has taken the one before.
    ``calling_nobody``: containers that need no proxy to start. ``without_proxy``: it was waited
    for long enough.
    """
    spec = pod["spec"]
    inits = [(container, True) for container in spec.get("initContainers") or []]
    rest = [(container, False) for container in spec["containers"]]
    proxies = [one for one in (*inits, *rest) if _is_proxy(one)]
    yield from proxies
    if proxies and PROXY_CONTAINER not in ready and not without_proxy:
        yield from (one for one in rest if not inits and one[0]["name"] in calling_nobody)
        return
    for container, init in inits:
        if _is_proxy((container, init)):
            continue
        yield container, init
        name = container["name"]
        if name not in started if is_sidecar(container) else not _succeeded(find(name)):
            return
    yield from (one for one in rest if not _is_proxy(one))


def stop_order(pod: Object) -> Iterator[list[str]]:
    """Yield the names of containers that are stopped together, group after group."""
    spec = pod["spec"]
    inits = spec.get("initContainers") or []
    proxy = [PROXY_CONTAINER]
    yield [
        container["name"]
        for container in (*spec["containers"], *(c for c in inits if not is_sidecar(c)))
        if container["name"] != PROXY_CONTAINER
    ]
    for container in reversed(inits):
        if is_sidecar(container) and container["name"] != PROXY_CONTAINER:
            yield [container["name"]]
    yield proxy


def _is_proxy(one: tuple[Object, bool]) -> bool:
    return bool(one[0]["name"] == PROXY_CONTAINER)


def _succeeded(process: Mapping[str, Any] | None) -> bool:
    return process is not None and process["state"] == "exited" and process["last"]["code"] == 0
