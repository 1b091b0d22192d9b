"""How long a change takes with many APIRules: from the store's feed to the last acknowledgement.

Run ``python -m bench.engine [rules]`` from the checkout. Starts one gateway and one sidecar (real
Envoys); each rule is a VirtualService and an AuthorizationPolicy of the same workload.
"""

import logging
import statistics
import sys
import time
from collections.abc import Callable

import anyio
import anyio.lowlevel
import structlog
from tests.shells.xds_run import Mesh, guard, route, running

from apirule.apis.meta import Object
from apirule.mesh import build as mesh_build

CHANGES = 30


async def main(rules: int) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    objects = [
        obj
        for n in range(rules)
        for obj in (
            route(f"r{n}", f"r{n}.kyma.localhost", "app", prefix=f"/{n}"),
            guard(f"r{n}", "app", f"/{n}/{{**}}"),
        )
    ]
    started = time.monotonic()
    async with running(*objects, build=mesh_build.build) as mesh:
        print(f"{rules} rules, 2 Envoys started and in sync: {time.monotonic() - started:.2f} s")
        await mesh.reaches(200, "/0/x", "r0.kyma.localhost")
        await measure(mesh, "route changed", changed_route)
        await measure(mesh, "policy changed", lambda n: guard("r0", "app", f"/0/{n}"))
        await measure(mesh, "status only", None)


def changed_route(n: int) -> Object:
    return route("r0", "r0.kyma.localhost", "app", prefix=f"/0/{n}")


async def measure(mesh: Mesh, what: str, change: Callable[[int], Object] | None) -> None:
    taken = []
    for n in range(CHANGES):
        started = time.perf_counter()
        if change is not None:
            obj = change(n)
            mesh.run.feed.put(obj)
            await mesh.run.status(obj, "True")
        else:
            ref = next(ref for ref in mesh.run.feed.objects if ref.kind == "VirtualService")
            mesh.run.feed.write_status(ref, mesh.run.feed.objects[ref]["status"])
            await anyio.lowlevel.checkpoint()
        taken.append((time.perf_counter() - started) * 1000)
    middle, worst = statistics.median(taken), max(taken)
    print(f"{what}, in force everywhere and status written: {middle:.1f} ms (worst {worst:.1f})")


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 100)
