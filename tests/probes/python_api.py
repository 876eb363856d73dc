"""A fit and a test from Python, on the ranks of a job."""

import json
from pathlib import Path

import promptstage as ps


def main(arguments: list[str]) -> int:
    """Fit into the folder that is named first, test, and write what this rank has read beside it."""
    folder = Path(arguments[0])
    options = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "enable_progress_bar": False}
    sizes = {"train_size": 16, "validation_size": 4, "test_size": 5, "max_new_tokens": 8}
    prompt = ps.PromptTuning("embedded", num_virtual_tokens=4)
    run = ps.fit(prompt, ps.Generated(task="addition", **sizes), max_steps=2, folder=folder, **options)
    evaluation = run.test(**options)
    rank = 0 if prompt.trainer.is_global_zero else 1
    read = {
        "run": run.folder.name,
        "test": evaluation.folder.name,
        "records": [record["id"] for record in evaluation.records],
        "generation": prompt.generate("1+2", max_new_tokens=8),
    }
    folder.with_name(f"rank_{rank}.json").write_text(json.dumps(read), encoding="utf-8")
    return 0
