"""How long it takes until everything is right again after a process was killed.

    python bench/survival.py [--runs 5] [--json]

Kills (SIGKILL) the control plane, the gateway's Envoy, the sidecar's Envoy and the program, one
after the other. Two rules lead to the program: one is open, one needs a token. "Right again" means
that the open one answers 200 and the other one 401 without a token, each over a fresh connection;
after the control plane, besides, that a change is enforced again. All the while the second one is
asked without a token: an answer that is not a refusal or an error lets the benchmark fail.
"""

import argparse
import json
import os
import signal
import ssl
import statistics
import time
from collections import Counter
from http import HTTPStatus

import anyio
from anyio.abc import TaskStatus
from enforced import TARGET, Asker, all_ready, connect, rule
from instance import Instance, running

from apirule.apis.gateway import v2
from apirule.kube.client import Client
from apirule.kube.config import KubeConfig
from apirule.kube.errors import ApiError

VICTIMS = ("control plane", "gateway Envoy", "sidecar Envoy", "app")
LIMIT_S = 30.0
PACE_S = 0.005
QUIET_S = 3.0
"""Between two kills: the second one must not meet a system that is still busy, and who comes round
again must have run for longer than what counts as a crash loop, or its pause is measured too."""
BROKEN = (OSError, ssl.SSLError, anyio.EndOfStream, anyio.BrokenResourceError, ValueError)


async def ask(instance: Instance, index: int) -> int:
    """Return the status of one request over a connection of its own, 0 if there is none."""
    try:
        with anyio.fail_after(1.0):
            asker: Asker = await connect(instance, f"bench-{index}.{instance.domain}")
            async with asker:
                return await asker.status()
    except (*BROKEN, TimeoutError):
        return 0


async def watch_the_guard(
    instance: Instance,
    seen: Counter[int],
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Ask without a token, for ever."""
    task_status.started()
    while True:
        seen[await ask(instance, 1)] += 1
        await anyio.sleep(PACE_S)


async def right_again(instance: Instance) -> None:
    while (await ask(instance, 0), await ask(instance, 1)) != (  # noqa: ASYNC110 - it is measured
        HTTPStatus.OK,
        HTTPStatus.UNAUTHORIZED,
    ):
        await anyio.sleep(PACE_S)


async def changes_again(instance: Instance, *, open_to_all: bool) -> None:
    """Write until the API takes it, then ask until it is enforced."""
    body = rule(instance, 0, open_to_all=open_to_all)
    async with Client(KubeConfig.load(instance.kubeconfig)) as client:
        while True:
            try:
                await client.patch(v2.APIRule.gvk, TARGET, {"spec": body["spec"]})
                break
            except ApiError:
                await anyio.sleep(PACE_S)
    wanted = HTTPStatus.OK if open_to_all else HTTPStatus.UNAUTHORIZED
    while await ask(instance, 0) != wanted:  # noqa: ASYNC110 - it is measured
        await anyio.sleep(PACE_S)


async def kill(instance: Instance, victim: str) -> float:
    [process] = [one for one in instance.processes() if one.role == victim]
    os.kill(process.pid, signal.SIGKILL)
    killed = time.monotonic()
    with anyio.fail_after(LIMIT_S):
        if victim == "control plane":
            await changes_again(instance, open_to_all=False)
            took_s = time.monotonic() - killed
            await changes_again(instance, open_to_all=True)
        await right_again(instance)
    return took_s if victim == "control plane" else time.monotonic() - killed


async def measure(instance: Instance, runs: int) -> tuple[dict[str, list[float]], Counter[int]]:
    """Return the seconds by victim, and how the guarded rule answered meanwhile."""
    async with Client(KubeConfig.load(instance.kubeconfig)) as client:
        for index in range(2):
            await client.create(rule(instance, index, open_to_all=index == 0))
        await all_ready(client)
    await right_again(instance)
    took: dict[str, list[float]] = {victim: [] for victim in VICTIMS}
    seen: Counter[int] = Counter()
    async with anyio.create_task_group() as tasks:
        await tasks.start(watch_the_guard, instance, seen)
        for _ in range(runs):
            for victim in VICTIMS:
                took[victim].append(await kill(instance, victim))
                await anyio.sleep(QUIET_S)
        tasks.cancel_scope.cancel()
    return took, seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with running("--demo") as instance:
        took, seen = anyio.run(measure, instance, arguments.runs)
    passed = sum(n for status, n in seen.items() if 0 < status < HTTPStatus.BAD_REQUEST)
    if arguments.json:
        print(json.dumps({"seconds": took, "answers": seen, "passed": passed}))
    else:
        for victim, times in took.items():
            median, worst = statistics.median(times), max(times)
            print(f"{victim} killed: n={len(times)} median {median:.2f} s, max {worst:.2f} s")
        answers = ", ".join(f"{n}x {status or 'none'}" for status, n in sorted(seen.items()))
        print(f"answers without a token: {answers}")
    if passed:
        raise SystemExit(f"{passed} requests without a token got through")


if __name__ == "__main__":
    main()
