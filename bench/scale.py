"""How everything grows: 100 and 1,000 APIRules side by side.

    python bench/scale.py [--changes 100] [--json]

Measures what ``enforced.py`` does, in three sizes, and prints one table: the usual spread, the same
with ten times as many, and the worst spread, in which one sidecar holds the policies of all.
"""

import argparse
import json

from enforced import ALL_READY, BY_API, Measured, Size, run, summary

SIZES = (Size(100, 20, 5), Size(1000, 200, 5), Size(1000, 1, 1))
MIB = 2**20


def rows(measured: list[Measured]) -> list[tuple[str, list[float]]]:
    """Return the lines of the table; times in milliseconds, but for the first one."""
    found = [("all Ready, s", [one.seconds[ALL_READY][0] for one in measured])]
    for label, what in (("a plain write, ms", "write"), ("a change, ms", BY_API)):
        for figure in ("p50", "p99"):
            values = [summary(one.seconds[what])[figure] for one in measured]
            found.append((f"{label} ({figure})", values))
    changes, writes = dict(found)["a change, ms (p50)"], dict(found)["a plain write, ms (p50)"]
    found.append(("a change, in writes", [c / w for c, w in zip(changes, writes, strict=True)]))
    found.append(("memory of all processes, MiB", [one.rss / MIB for one in measured]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    table = rows([run(size, arguments.changes) for size in SIZES])
    if arguments.json:
        sizes = [str(size) for size in SIZES]
        print(json.dumps({"sizes": sizes, "rows": dict(table)}))
        return
    for number, size in enumerate(SIZES):
        print(f"{'ABC'[number]}: {size}")
    print(f"{'':32}{'A':>10}{'B':>10}{'C':>10}{'B/A':>8}{'C/A':>8}")
    for label, (a, b, c) in table:
        print(f"{label:32}{a:10.1f}{b:10.1f}{c:10.1f}{b / a:8.1f}{c / a:8.1f}")


if __name__ == "__main__":
    main()
