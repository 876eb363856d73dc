"""``make demo``: every method on the embedded backbone, same data, same number of virtual tokens.

Each row of the table is a ``fit`` and a ``test`` of ``cli.py``, as a user would type them; the commands are
printed. LoRA has no virtual tokens; its rank is the smallest there is.
"""

import argparse
import json
import shlex
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

import cli
from utilities.files import new_folder, write_text

# Learning rates were tried at 0.01 and 0.03, on validation questions, for prefix tuning alone; the others
# are first choices.
METHODS: dict[str, list[str]] = {
    "Pretrained": [],
    "PromptTuning": ["--model.num_virtual_tokens=16", "--model.optimizer.lr=0.03"],
    "PrefixTuning": ["--model.num_virtual_tokens=16", "--model.optimizer.lr=0.03"],
    "LoRA": ["--model.rank=1", "--model.optimizer.lr=0.01"],
    "DHAM": ["--model.num_virtual_tokens=16", "--model.stages=uniform", "--model.optimizer.lr=0.03"],
}


def run(arguments: list[str], console: Console) -> None:
    """One ``cli.py`` command in this process (a new one would import torch again)."""
    console.print(f"[dim]$ python cli.py {shlex.join(arguments)}[/dim]")
    code = cli.main(arguments)
    if code:
        raise SystemExit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="addition", help="generated task")
    parser.add_argument("--steps", type=int, default=200, help="optimiser steps of each method")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--test-size", type=int, default=500)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/demo"))
    args = parser.parse_args()

    console = Console(width=None if Console().is_terminal else 140)
    folder = new_folder(args.run_dir)
    started = time.monotonic()
    table = Table(
        title=f"{args.task}: {args.test_size} test questions, {args.steps} steps of {args.batch_size}"
    )
    for name in ("method", "trained parameters", "accuracy", "95 % interval", "correct", "fit", "test"):
        table.add_column(name, justify="left" if name == "method" else "right")
    lines = [
        "| method | trained parameters | accuracy | 95 % interval | correct |",
        "| --- | --- | --- | --- | --- |",
    ]
    for method, options in METHODS.items():
        console.rule(method)
        run_dir = folder / method.lower()
        data = ["--data=Generated", f"--data.task={args.task}", f"--data.batch_size={args.batch_size}"]
        data += [f"--data.test_size={args.test_size}", "--data.eval_batch_size=64"]
        begun = time.monotonic()
        if options:
            schedule = ["--model.optimizer.schedule=linear", "--model.optimizer.warmup_steps=10"]
            trainer = [f"--trainer.max_steps={args.steps}", "--trainer.accelerator=cpu"]
            model = [f"--model={method}", *options, *schedule]
            run(["fit", *model, *data, *trainer, f"--run_dir={run_dir}"], console)
        fitted = time.monotonic()
        source = (
            [f"--ckpt_path={run_dir}"] if options else [f"--model={method}", *data, f"--run_dir={run_dir}"]
        )
        run(["test", *source, "--trainer.accelerator=cpu"], console)
        tested = time.monotonic()
        summary = json.loads((run_dir / "test" / "summary.json").read_text(encoding="utf-8"))
        interval = f"{summary['accuracy_low']:.3f} – {summary['accuracy_high']:.3f}"
        cells = [method, f"{summary['trained_parameters']:,}", f"{summary['accuracy']:.3f}", interval]
        cells.append(f"{summary['correct']} / {summary['examples']}")
        lines.append(f"| {' | '.join(cells)} |")
        table.add_row(*cells, f"{fitted - begun:.0f} s" if options else "–", f"{tested - fitted:.0f} s")
    write_text(folder / "table.md", "\n".join(lines) + "\n")
    console.print(table)
    console.print(f"{time.monotonic() - started:.0f} s in all; the table is in {folder / 'table.md'}")
    console.print(f"curves and sample answers: .venv/bin/tensorboard --logdir {folder}")


if __name__ == "__main__":
    main()
