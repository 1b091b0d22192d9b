"""How long the command line takes to say something, without a server.

    python bench/commands.py [--runs 20] [--json]

Each command is a process of its own, as a user starts it. ``python -c pass`` is what Python itself
takes. The commands are run in turn, so that a busy moment hits all of them.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "apirule --help": ["-m", "apirule", "--help"],
    "apirule status --help": ["-m", "apirule", "status", "--help"],
    "apirule version": ["-m", "apirule", "version"],
}
BUDGET_MS = 150
"""For ``apirule --help`` on a machine with nothing else to do."""


def took_ms(words: list[str]) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, *words], capture_output=True, check=True)
    return (time.monotonic() - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    took: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(arguments.runs):
        for name, words in COMMANDS.items():
            took[name].append(took_ms(words))
    if arguments.json:
        print(json.dumps(took))
        return
    for name, times in took.items():
        budget = f" (budget {BUDGET_MS} ms)" if name == "apirule --help" else ""
        best, median = min(times), statistics.median(times)
        print(f"{name}: n={len(times)} best {best:.0f} ms, median {median:.0f} ms{budget}")


if __name__ == "__main__":
    main()
