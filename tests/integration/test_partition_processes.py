"""The stages of a backbone, and their file to the last byte, are the same on 1, 2 and 3 processes."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_folder import save_tiny_backbone

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("examples", [40, 8])  # of 8, in one batch, two of three processes have none
def test_same_partition(examples: int, tmp_path: Path) -> None:
    backbone = save_tiny_backbone(tmp_path / "backbone")
    files = []
    for processes in (1, 2, 3):
        run = tmp_path / f"on{processes}"
        command = [sys.executable, str(ROOT / "cli.py"), "partition", f"--backbone.name={backbone}"]
        command += ["--data=Generated", "--data.task=addition", "--data.train_size=64"]
        command += ["--data.eval_batch_size=8", "--data.validation_size=4", f"--run_dir={run}"]
        command += [f"--model.search.examples={examples}", "--model.search.max_stages=3"]
        command += ["--trainer.accelerator=cpu", f"--trainer.devices={processes}"]
        command += ["--trainer.strategy=ddp"] if processes > 1 else []
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("partition (cka, contiguous): layers") == 1
        files.append((run / "partition.json").read_bytes())
        assert len(list(run.glob("*.png"))) == 4
    assert files[0] == files[1] == files[2]
