"""DPC decides and corrects the same on 1, 2 and 3 processes, and its threshold is the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.forked import run_all

CALLBACK = "--trainer.callbacks=callbacks.dpc.DPC"


def run(*arguments: str, processes: int = 1) -> None:
    run_all(processes, [[*arguments, "--trainer.accelerator=cpu"]])


def decisions(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "dpc.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


@pytest.mark.slow
def test_same_decisions(tmp_path: Path) -> None:
    flags = ["--model=PromptTuning", "--model.num_virtual_tokens=12", "--model.optimizer.lr=0.03"]
    flags += ["--data=Generated", "--data.task=last_letter", "--data.batch_size=16", "--data.train_size=320"]
    flags += ["--data.validation_size=5", "--data.max_new_tokens=40", "--model.val_generations=0"]
    trained = tmp_path / "run"
    run("fit", *flags, "--trainer.max_steps=20", f"--run_dir={trained}")
    found, thresholds = [], []
    for processes in (1, 2, 3):
        folder = tmp_path / f"on{processes}"
        common = [f"--ckpt_path={trained}", f"--run_dir={folder}", "--data.eval_batch_size=2"]
        run("calibrate", *common, processes=processes)
        calibration = json.loads((folder / "calibrate" / "calibration.json").read_text(encoding="utf-8"))
        thresholds.append((calibration["threshold"], calibration["curve"]))
        options = ["--data.test_size=7", "--trainer.callbacks.threshold=0.1"]
        run("test", *common, CALLBACK, *options, processes=processes)
        found.append(decisions(folder / "test"))
    assert len(found[0]) == 7
    assert any(one["triggered"] for one in found[0])
    assert thresholds[0] == thresholds[1] == thresholds[2]
    alone, *others = found
    for decided in others:
        for one, other in zip(alone, decided, strict=True):
            assert one | {"beta": 0} == other | {"beta": 0}
            assert one["beta"] == pytest.approx(other["beta"], rel=1e-4)  # rounding of other batches
