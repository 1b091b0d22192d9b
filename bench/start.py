"""How long a fresh instance takes to start with the demo, and what memory it takes at rest.

    python bench/start.py [--runs 5] [--json]

Time runs from ``apirule up --demo`` to its return: gateway, sidecar and workload are ready then.
Memory is read a while later. PSS counts a page that several processes share once in all; RSS counts
it for each of them.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict

from instance import Process, running

REST_S = 3.0
MIB = 2**20


def start() -> tuple[float, list[Process]]:
    began = time.monotonic()
    with running("--demo") as instance:
        took_s = time.monotonic() - began
        time.sleep(REST_S)
        return took_s, instance.processes()


def by_role(processes: list[Process]) -> dict[str, tuple[int, int, int]]:
    """Return number, RSS and PSS of the processes of each role."""
    found: defaultdict[str, tuple[int, int, int]] = defaultdict(lambda: (0, 0, 0))
    for one in processes:
        number, rss, pss = found[one.role]
        found[one.role] = (number + 1, rss + one.rss, pss + one.pss)
    return dict(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    runs = [start() for _ in range(arguments.runs)]
    took = [took_s for took_s, _ in runs]
    # The run with the most is the one to go by.
    processes = max((found for _, found in runs), key=lambda found: sum(p.rss for p in found))
    roles = by_role(processes)
    rss, pss = (sum(entry[index] for entry in roles.values()) for index in (1, 2))
    if arguments.json:
        memory = {
            role: {"processes": number, "rssMiB": round(r / MIB, 1), "pssMiB": round(p / MIB, 1)}
            for role, (number, r, p) in roles.items()
        }
        print(json.dumps({"seconds": took, "memory": memory}))
        return
    print(f"up --demo: n={len(took)} median {statistics.median(took):.2f} s, max {max(took):.2f} s")
    for role, (number, own_rss, own_pss) in sorted(roles.items()):
        print(f"  {role} ({number}): rss {own_rss / MIB:.0f} MiB, pss {own_pss / MIB:.0f} MiB")
    print(f"memory at rest: rss {rss / MIB:.0f} MiB, pss {pss / MIB:.0f} MiB")


if __name__ == "__main__":
    main()
