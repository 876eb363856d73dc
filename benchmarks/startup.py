"""Start-up time of the command line, compared with the import of LightningCLI that it needs.

Prints medians over alternating repeats, and the ratio of ``fit --help`` to ``import LightningCLI``.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "import LightningCLI": ["-c", "from lightning.pytorch.cli import LightningCLI"],
    "fit --help": ["cli.py", "fit", "--help"],
    "--help": ["cli.py", "--help"],
    "--version": ["cli.py", "--version"],
}


def seconds(arguments: list[str]) -> float:
    """Measure the wall-clock time of a new Python process."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    for arguments in COMMANDS.values():
        seconds(arguments)  # fill the page cache
    durations: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(args.repeats):
        for name, arguments in COMMANDS.items():
            durations[name].append(seconds(arguments))
    medians = {name: statistics.median(values) for name, values in durations.items()}
    for name, value in medians.items():
        print(f"{name:20s} {value:6.2f} s (median of {args.repeats})")
    ratio = medians["fit --help"] / medians["import LightningCLI"]
    print(f"fit --help / import LightningCLI: {ratio:.2f}")


if __name__ == "__main__":
    main()
