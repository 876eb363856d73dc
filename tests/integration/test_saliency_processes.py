"""Saliency of a split is the same on 1, 2 and 3 processes, each example once, also while a prompt learns."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promptstage.callbacks.saliency.files import load
from promptstage.callbacks.saliency.matrix import load_matrix
from tests.forked import run_all
from tests.tiny_folder import save_tiny_backbone

CALLBACK = "--trainer.callbacks=callbacks.saliency.SaliencyDiagnostics"


def run(processes: int, *arguments: str) -> str:
    return run_all(processes, [[*arguments, "--trainer.accelerator=cpu"]])


@pytest.mark.slow
def test_same_numbers(tmp_path: Path) -> None:
    backbone = save_tiny_backbone(tmp_path / "backbone")
    common = [f"--backbone.name={backbone}", "--model=DHAM", "--model.partition=[0,2]"]
    common += ["--model.num_virtual_tokens=6", "--data=Generated", "--data.task=addition"]
    common += ["--data.train_size=32", "--data.validation_size=5", "--data.max_new_tokens=6"]
    run_dir = tmp_path / "run"
    looking = [CALLBACK, "--trainer.callbacks.every_n_steps=2", "--trainer.callbacks.examples=3"]
    fit = ["--trainer.max_steps=4", "--model.val_generations=0", f"--run_dir={run_dir}"]
    said = run(2, "fit", *common, *fit, *looking)
    assert said.count("saliency of 3 examples (loss of the rationale)") == 2
    assert [len(load(run_dir / "saliency_steps", f"step_00000{step}").ids) for step in (2, 4)] == [3, 3]

    found: list[Any] = []
    for processes in (1, 2, 3):
        folder = tmp_path / f"on{processes}"
        flags = [f"--ckpt_path={run_dir}", f"--run_dir={folder}", "--data.test_size=7"]
        flags += ["--data.eval_batch_size=2", "--trainer.inference_mode=false"]
        run(processes, "test", *flags, CALLBACK, "--trainer.callbacks.label=rationale")
        records = (folder / "test" / "results.jsonl").read_text(encoding="utf-8").splitlines()
        saved, matrix = load(folder / "test"), load_matrix(folder / "test")
        assert saved.ids == [json.loads(record)["id"] for record in records]
        assert len(saved.ids) == 7
        assert matrix is not None
        found.append((saved, matrix))
    (alone, first), *others = found
    for saved, matrix in others:
        assert (saved.ids, saved.about, matrix.id) == (alone.ids, alone.about, first.id)
        for name, values in alone.arrays.items():
            assert np.allclose(saved.arrays[name], values, rtol=1e-4, atol=1e-9, equal_nan=True), name
        for name, panel in first.panels.items():
            assert np.allclose(matrix.panels[name], panel, rtol=1e-4, atol=1e-9)


@pytest.mark.slow
def test_a_balanced_sample_of_two_processes(tmp_path: Path) -> None:
    """The first correct and incorrect answers of the split, whichever process has them."""
    common = ["--model=Pretrained", "--data=Generated", "--data.task=last_letter", "--data.test_size=24"]
    common += ["--data.train_size=32", "--data.validation_size=2", "--data.eval_batch_size=3"]
    looking = [CALLBACK, "--trainer.callbacks.curve_only=true", "--trainer.callbacks.balanced=2"]
    run(2, "test", *common, f"--run_dir={tmp_path}", *looking)
    lines = (tmp_path / "test" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    right = [record["id"] for record in records if record["correct"]][:2]
    wrong = [record["id"] for record in records if not record["correct"]][:2]
    saved = load(tmp_path / "test")
    assert saved.ids == [row["id"] for row in records if row["id"] in {*right, *wrong}]
    assert (saved.correct == 1).sum() == (saved.correct == 0).sum() == 2
