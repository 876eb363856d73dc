"""A fit killed with SIGKILL and resumed ends with the very prompts of an undisturbed one."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.forked import run, started
from tests.tiny_folder import save_tiny_backbone

STEPS = 40
OPTIONS = [
    "--data=Generated",
    "--data.task=addition",
    "--data.max_new_tokens=16",
    "--data.train_size=90",  # epochs end in the middle of things
    "--data.validation_size=16",
    "--trainer.accelerator=cpu",
    f"--trainer.max_steps={STEPS}",
    "--trainer.val_check_interval=7",
    "--trainer.check_val_every_n_epoch=null",
    "--trainer.accumulate_grad_batches=2",
    "--model.optimizer.schedule=cosine",
    "--model.optimizer.warmup_steps=5",
    "--model.optimizer.lr=0.01",
    "--model.val_generations=4",
    "--save_every=3",
    "--seed_everything=7",
]
METHODS = {
    "dham": [
        "--model=DHAM",
        "--model.num_virtual_tokens=9",
        "--model.num_stages=3",
        "--model.search.examples=32",
    ],
    "hard prompt": [
        "--model=HardPrompt",
        "--model.update=langevin",
        "--model.num_virtual_tokens=4",
        "--early_stopping.patience=50",  # the loss jumps
    ],
    "prefix": ["--model=PrefixTuning", "--model.num_virtual_tokens=4", "--model.mlp_width=8"],
}


def final_state(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def assert_same(ours: Any, theirs: Any, where: str) -> None:
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), where
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_same(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    else:
        assert ours == theirs, where


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_killed_and_resumed_run_is_bit_identical(method: str, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    backbone = save_tiny_backbone(tmp_path / "backbone")
    options = [*METHODS[method], *OPTIONS, f"--backbone.name={backbone}"]
    run("fit", *options, f"--run_dir={whole}").check_returncode()

    with started("fit", *options, f"--run_dir={broken}") as job:
        checkpoint = broken / "checkpoints" / "last.ckpt"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and job.poll() is None:
            if checkpoint.is_file() and final_state(broken)["global_step"] >= 9:
                break
            time.sleep(0.01)
        assert job.poll() is None, "the run ended before it could be killed"
        job.kill()
        assert job.poll() == -signal.SIGKILL
    step = final_state(broken)["global_step"]
    assert 9 <= step < STEPS

    run("fit", f"--ckpt_path={broken}").check_returncode()
    ours, theirs = final_state(broken), final_state(whole)
    assert ours["global_step"] == theirs["global_step"] == STEPS
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "rng"):
        assert_same(ours[part], theirs[part], part)
    best = [torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True) for folder in (whole, broken)]
    assert_same(best[0]["state_dict"], best[1]["state_dict"], "best")
