"""How long the command line takes to answer, against importing typer and rich alone.

    python -m benchmarks.startup [--rounds 7]

Prints the median of each command's wall time and its ratio to the baseline, taken in turns.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "import typer, rich": ["-c", "import typer, rich"],
    "tuner --help": ["-m", "cli.main", "--help"],
    "tuner models": ["-m", "cli.main", "models"],
}


def seconds(arguments: list[str]) -> float:
    """Wall time of one Python process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Measure in turns, so that a noisy moment hits all alike."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for name, arguments in COMMANDS.items():
        seconds(arguments)  # fills the byte-code cache
        times[name].clear()
    for _ in range(rounds):
        for name, arguments in COMMANDS.items():
            times[name].append(seconds(arguments))
    medians = {name: statistics.median(values) for name, values in times.items()}
    baseline = medians["import typer, rich"]
    for name, median in medians.items():
        print(f"{name:20} {median:6.3f} s   {median / baseline:5.2f} x")


if __name__ == "__main__":
    main()
