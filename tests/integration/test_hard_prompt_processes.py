"""A hard prompt is the same on one and two processes."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.forked import run_all
from tests.tiny_folder import call, save_tiny_backbone


def fit(run: Path, backbone: Path, update: str, batch_size: int) -> list[object]:
    flags = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--model=HardPrompt"]
    flags += [f"--model.update={update}", "--model.num_virtual_tokens=4", "--model.val_generations=2"]
    flags += ["--data=Generated", "--data.task=addition", f"--data.batch_size={batch_size}"]
    flags += ["--data.train_size=13", "--data.validation_size=3", "--data.max_new_tokens=8"]
    flags += [f"--backbone.name={backbone}", "--trainer.max_steps=6", "--trainer.val_check_interval=1"]
    return ["fit", *flags, f"--run_dir={run}"]


@pytest.mark.slow
@pytest.mark.parametrize("update", ["pez", "langevin"])
def test_two_processes_find_the_same_text(update: str, tmp_path: Path) -> None:
    backbone = save_tiny_backbone(tmp_path / "backbone")
    one, two = tmp_path / "one", tmp_path / "two"
    assert call(*fit(one, backbone, update, 4)).code == 0
    run_all(2, [fit(two, backbone, update, 2)])
    texts = [json.loads((run / "hard_prompt.json").read_text(encoding="utf-8")) for run in (one, two)]
    assert texts[0]["text"] == texts[1]["text"]
    assert texts[0]["log_perplexity"] == pytest.approx(texts[1]["log_perplexity"], rel=1e-5)
    prompts = [load_file(run / "prompt.safetensors") for run in (one, two)]
    assert prompts[0]["tokens"].tolist() == prompts[1]["tokens"].tolist()
