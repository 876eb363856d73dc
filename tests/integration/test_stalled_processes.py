"""A process that is stopped, or hangs, is named by another one."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.forked import started
from tests.probes.hanging_rank import hanging, short_heartbeats

FLAGS = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.devices=2"]
FLAGS += ["--trainer.strategy=ddp", "--data=Generated", "--data.task=addition", "--data.validation_size=2"]
FLAGS += ["--data.batch_size=2", "--model=PromptTuning", "--model.num_virtual_tokens=4"]
FLAGS += ["--model.val_generations=0", "--trainer.max_steps=100000", "--save_every=1"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["hangs", "stopped 0"])
def test_a_stalled_process_is_named(how: str, tmp_path: Path) -> None:
    folder, program = tmp_path / "run", hanging if how == "hangs" else short_heartbeats
    with started("fit", *FLAGS, f"--run_dir={folder}", ranks=2, program=program) as job:
        end = time.monotonic() + 240
        while not (folder / "checkpoints" / "last.ckpt").exists():
            assert job.poll() is None, job.stderr
            assert time.monotonic() < end
            time.sleep(0.2)
        if how != "hangs":
            time.sleep(5)  # some heartbeats, which tell that training has begun
            os.kill(job.ranks[int(how[-1])].pid, signal.SIGSTOP)
        rank = 1 if how == "hangs" else int(how[-1])
        kind = "no progress" if how == "hangs" else "no heartbeat"
        expected = rf"warning: {kind} for 6 s: .*rank {rank} \(.*, pid \d+\).* training step"
        while not re.search(expected, text := job.stdout + job.stderr):
            assert time.monotonic() < end, text
            time.sleep(0.2)
        assert f"rank {1 - rank} (" not in text.splitlines()[-1]
