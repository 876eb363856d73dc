"""Time and memory from a file of 100,000 short questions to the first batch, without and with cached tokens.

Each start is a process of its own. ``--reference FOLDER`` also measures another checkout, in alternation;
``--source FOLDER`` measures the rows of GSM8K, or others in its format, instead of the short questions.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
BACKBONE = ROOT / "models" / "smollm2"
# Printed: seconds and CPU seconds from imports to the first batch, peak memory in GiB, that of the imports.
START = """
import resource, sys, time
from transformers import AutoTokenizer
from promptstage.datamodules import GSM8K
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
imports, start, cpu = peak(), time.perf_counter(), time.process_time()
data = GSM8K(source=sys.argv[1])
data.connect(tokenizer)
data.setup("fit")
next(iter(data.train_dataloader()))
print(time.perf_counter() - start, time.process_time() - cpu, peak(), imports)
"""


class Start(NamedTuple):
    """Seconds and CPU seconds to the first batch, peak memory in GiB, and that of the imports alone."""

    seconds: float
    cpu: float
    peak: float
    imports: float


def write_rows(folder: Path, count: int) -> None:
    """Write addition problems in the format of GSM8K."""
    draw = random.Random(0)
    for split, size in (("train", count), ("test", 100)):
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for _ in range(size):
                a, b = draw.randint(10, 999), draw.randint(10, 999)
                question = f"Anna has {a} apples and buys {b} more at the market. How many has she now?"
                answer = f"She has {a} + {b} = {a + b} apples now.\n#### {a + b}"
                file.write(json.dumps({"question": question, "answer": answer}) + "\n")


def start(checkout: Path, rows: Path, cache: Path) -> Start:
    """Measure one start of a checkout, which is linked as the package promptstage."""
    with tempfile.TemporaryDirectory() as place:
        Path(place, "promptstage").symlink_to(checkout.resolve())
        environment = os.environ | {"PYTHONPATH": place, "XDG_CACHE_HOME": str(cache)}
        done = subprocess.run(
            [sys.executable, "-c", START, str(rows), str(BACKBONE)],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    return Start(*map(float, done.stdout.split()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--reference", type=Path, help="another checkout")
    parser.add_argument("--source", type=Path, help="folder with train.jsonl and test.jsonl")
    args = parser.parse_args()

    starts: dict[str, list[Start]] = {"first start": [], "second start": []}
    if args.reference:
        starts["reference"] = []
    with tempfile.TemporaryDirectory() as folder:
        rows = args.source or Path(folder, "rows")
        if args.source is None:
            rows.mkdir()
            write_rows(rows, args.rows)
        for repeat in range(args.repeats):
            cache = Path(folder, f"cache{repeat}")
            starts["first start"].append(start(ROOT, rows, cache))
            starts["second start"].append(start(ROOT, rows, cache))
            if args.reference:
                starts["reference"].append(start(args.reference, rows, Path(folder, f"other{repeat}")))
    for name, measured in starts.items():
        seconds, cpu, peak, imports = (statistics.median(values) for values in zip(*measured, strict=True))
        memory = f"peak {peak:.2f} GiB, of these {imports:.2f} GiB for imports"
        print(f"{name:12s} {seconds:6.1f} s, {cpu:.1f} s of CPU time, {memory}")
    if args.reference:
        for name in ("first start", "second start"):
            pairs = zip(starts["reference"], starts[name], strict=True)
            ratio = statistics.median(other.seconds / own.seconds for other, own in pairs)
            print(f"reference / {name}: {ratio:.1f}")


if __name__ == "__main__":
    main()
