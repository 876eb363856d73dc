"""A failure of one rank ends all ranks, with complete checkpoints."""

from pathlib import Path

import pytest
import torch

from tests.forked import Program, run
from tests.probes import failing_rank

FIT = ["fit", "--model=PromptTuning", "--model.num_virtual_tokens=4", "--model.val_generations=0"]
FIT += ["--data=Generated", "--data.task=addition", "--data.train_size=16", "--data.batch_size=2"]
FIT += ["--data.validation_size=4", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
FIT += ["--trainer.max_steps=12", "--trainer.devices=2", "--trainer.strategy=ddp"]
NAN = "error: the training loss is nan in step 6: likely causes are the learning rate"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "message", "steps"),
    [
        (failing_rank.nan_loss, NAN, [4, 4]),
        (failing_rank.out_of_memory, "error: rank 1: out of memory (allocating ", [4, 5]),
    ],
    ids=["loss", "memory"],
)
def test_all_processes_end(program: Program, message: str, steps: list[int], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = run(*FIT, f"--run_dir={folder}", ranks=2, program=program, timeout=120)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("likely causes") <= 1
    for name, step in zip(("best", "last"), steps, strict=True):
        checkpoint = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert checkpoint["global_step"] == step
        assert checkpoint["state_dict"]["prompt"].isfinite().all()
