"""A test killed with SIGKILL on one number of ranks and resumed on another has the same records."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from promptstage import cli
from promptstage.callbacks.run.results import Results
from tests.forked import run, run_all

DPC = ["--trainer.callbacks=DPC", "--trainer.callbacks.threshold=0.1"]
BATCHES = 3  # after which rank 0 dies


def killed(arguments: list[str]) -> int:
    """Run a command that kills its rank 0 after some batches."""
    collect, left = Results.on_test_batch_end, [BATCHES]

    def collect_and_die(self: Results, *args: Any) -> None:
        collect(self, *args)
        left[0] -= 1
        if not left[0] and os.environ.get("RANK", "0") == "0":
            os.kill(os.getpid(), signal.SIGKILL)

    Results.on_test_batch_end = collect_and_die  # type: ignore[assignment,method-assign]
    return cli.main(arguments)


def records(file: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    # beta is rounded differently in other batches
    return [{key: value for key, value in line.items() if key not in ("seconds", "beta")} for line in lines]


@pytest.mark.slow
def test_resumed_on_another_number_of_ranks(tmp_path: Path) -> None:
    flags = ["--model=PromptTuning", "--model.num_virtual_tokens=12", "--model.optimizer.lr=0.03"]
    flags += ["--data=Generated", "--data.task=last_letter", "--data.train_size=160", "--data.batch_size=16"]
    flags += ["--data.validation_size=5", "--data.max_new_tokens=40", "--model.val_generations=0"]
    trained, common = tmp_path / "run", ["--trainer.accelerator=cpu"]
    run_all(1, [["fit", *flags, "--trainer.max_steps=10", f"--run_dir={trained}", *common]])
    test = [
        "test",
        f"--ckpt_path={trained}",
        "--data.test_size=24",
        "--data.eval_batch_size=2",
        *DPC,
        *common,
    ]
    run_all(1, [test])
    for number, (before, after) in enumerate([(2, 1), (1, 3)], start=2):
        devices = [f"--trainer.devices={before}", *(["--trainer.strategy=ddp"] if before > 1 else [])]
        assert run(*test, *devices, ranks=before, program=killed).returncode
        folder = trained / f"test-{number}"
        assert list(folder.glob("results.partial*.jsonl"))
        run_all(after, [["test", f"--resume={folder}", *common]])
        for file in ("results.jsonl", "dpc.jsonl"):
            assert records(folder / file) == records(trained / "test" / file)
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        assert 0 < summary["restored"] < 24
        assert not list(folder.glob("*.partial*"))
