"""Whole ``test`` commands on GSM8K with SmolLM2: this checkout in turns with another one.

python -m benchmarks.evaluation --against FOLDER [--options "--data.eval_batch_size auto"]

Prints CPU seconds of the whole processes and the ratio, and checks that the records are the same.
"""

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, ratios, smollm2

FIT = [
    "--data.batch_size=2",
    "--data.validation_size=4",
    "--model.val_generations=0",
    "--trainer.max_steps=2",
]


def run(checkout: Path, *arguments: str) -> float:
    """Run a command of a checkout in a process of its own; return its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, str(checkout / "cli.py"), *arguments, "--trainer.accelerator=cpu"],
        cwd=checkout,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def records(folder: Path) -> list[dict[str, Any]]:
    """Read the records of a test."""
    lines = (folder / "test" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, required=True, help="folder of the other checkout")
    parser.add_argument("--options", default="--data.eval_batch_size auto", help="options of this checkout")
    parser.add_argument("--questions", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=200)
    parser.add_argument("--virtual-tokens", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()

    data = os.path.join(os.environ.get("PROMPTSTAGE_DATA", str(ROOT / "data")), "gsm8k")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        model = ["--model=PromptTuning", f"--model.num_virtual_tokens={args.virtual_tokens}"]
        source = ["--data=GSM8K", f"--data.source={data}", f"--backbone.name={smollm2().name}"]
        # An earlier version reads no runs of a later one.
        run(args.against.resolve(), "fit", *model, *source, *FIT, f"--run_dir={work / 'run'}")
        size = [f"--data.test_size={args.questions}", f"--data.max_new_tokens={args.new_tokens}"]
        seconds: dict[str, list[float]] = {"this checkout": [], "the other": []}
        same = []
        for repeat in range(args.repeats):
            outputs = []
            for checkout, label in ((args.against, "the other"), (ROOT, "this checkout")):
                folder = work / f"{label}-{repeat}"
                options = shlex.split(args.options) if checkout == ROOT else []
                command = ["test", f"--ckpt_path={work / 'run'}", *size, f"--run_dir={folder}", *options]
                seconds[label].append(run(checkout.resolve(), *command))
                outputs.append(records(folder))
            same.append(sum(a == b for a, b in zip(*outputs, strict=True)))
        generated = sum(record["new_tokens"] for record in outputs[0])
    print(f"{args.questions} questions, {generated} new tokens; options of this checkout: {args.options}")
    print("| the other ÷ this checkout | this checkout | the other | same records |")
    print("| --- | --- | --- | --- |")
    own, other = seconds["this checkout"], seconds["the other"]
    shown = " | ".join(f"{min(times):.1f} s" for times in (own, other))
    print(f"| {ratios(other, own)} | {shown} | {min(same)} of {args.questions} |")


if __name__ == "__main__":
    main()
