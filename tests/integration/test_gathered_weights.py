"""How often a sharded backbone's weights cross the network, as ``scripts/footprint.py`` says."""

import json
from pathlib import Path

import pytest

from tests.forked import run
from tests.probes import fsdp_traffic

FLAGS = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--data=Generated"]
FLAGS += ["--data.task=addition", "--data.batch_size=4", "--data.validation_size=2", "--data.test_size=2"]
FLAGS += ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_steps=2"]
FLAGS += ["--model.num_virtual_tokens=6", "--model.val_generations=0", "--backbone.shard=all"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "passes"),
    [
        (["--model=PromptTuning"], 4),
        (["--model=PromptTuning", "--backbone.gradient_checkpointing=true"], 4),
        (["--model=PrefixTuning"], 2),
    ],
)
def test_passes_of_a_step(flags: list[str], passes: int, tmp_path: Path) -> None:
    folder = f"--run_dir={tmp_path / 'run'}"
    done = run("fit", *flags, *FLAGS, folder, ranks=2, program=fsdp_traffic.main)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(steps) == 2
    for one in steps:
        # A block may be fetched ahead for nothing, or be there still: one of 12.
        assert one["gathered"] / one["blocks"] == pytest.approx(passes, abs=0.1)
